"""Eight-bit weights and activations."""
