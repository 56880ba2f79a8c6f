"""Synthetic rows: a seed taxonomy, a grammar over it, and models that vary what it says."""
