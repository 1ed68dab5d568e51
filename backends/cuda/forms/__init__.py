"""Sparse weights as kernels for GPUs read them: one file each, and a registry of all."""
