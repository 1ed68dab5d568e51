"""Kernels for NVIDIA GPUs, written in Triton: a table, ahead-of-time builds, and an interpreter."""
