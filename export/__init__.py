"""Turns a checkpoint into a bundle: ONNX, int8, parity report, manifest."""
