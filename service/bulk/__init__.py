"""Judging files: row by row in order, resumable, in bounded memory; on one machine or on Ray.

``rows`` says what a row is, ``sources`` where rows come from, ``judge`` judges them on all cores,
``results`` says what is written of them, ``journal`` makes it survive interruption, ``tables``
turns it into Parquet or gzip. ``job`` puts them together on one machine, ``cluster`` on many.
"""
