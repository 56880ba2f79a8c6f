"""Metrics, suites and reports over labelled directories."""
