"""Passes over the IR (`onnx_ir.Model`): what a pass is, the ordered lists, and one folder per family."""
