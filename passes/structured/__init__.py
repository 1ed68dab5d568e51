"""Weights that are products of smaller ones: found, fitted, and rewritten to standard ops."""
