"""Makes checkpoints: data in one schema, the classifier, its calibration, and how it is judged."""
