"""Regions: subgraphs that the kernel library runs in one call."""
