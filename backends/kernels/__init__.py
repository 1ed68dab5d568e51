"""The kernel library: one table of kernels and their portable C sources."""
