"""Driving the C toolchain."""
