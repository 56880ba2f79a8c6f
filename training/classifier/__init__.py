"""The small classifier: token-level scores pooled into one head per question."""
