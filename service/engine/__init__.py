"""Text → findings: windows, ONNX Runtime, fair scheduling, evidence."""
