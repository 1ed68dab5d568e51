"""How good a compressed model is: calibration data, layer statistics and metrics."""
