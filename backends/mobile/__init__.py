"""Libraries for phones: what an app needs around a compiled model."""
