"""The ONNX Runtime backend: a model with portable bodies and one custom-op library."""
