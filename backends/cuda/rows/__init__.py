"""Rows of the table of GPU kernels: one file for each family."""
