"""Benchmark models as plain text, their ONNX builder and the command that measures them."""
