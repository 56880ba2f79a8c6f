"""Inference in processes of its own: a template that holds the models, and workers forked from it.

The front keeps HTTP, admission, queues and cache. Workers read, tokenise, run and pool, and share
with the template, page by page, everything that it loaded before it forked them.
"""
