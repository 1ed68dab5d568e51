"""GPU kernels on a GPU: checked against float64, and timed beside torch's own."""
