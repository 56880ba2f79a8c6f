"""The audit log: what was decided of which text, by which rules and weights; and again."""
