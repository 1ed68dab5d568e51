"""Permutation of coupled channels: which move together, which order is best, and moving them."""
