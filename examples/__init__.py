"""Trained models compiled by sparsecc; run them as `python -m examples.<folder>.<script>`."""
