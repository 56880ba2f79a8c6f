"""The policy encoder: pairs of a rule and a text, the trainer, calibration and what it is worth."""
