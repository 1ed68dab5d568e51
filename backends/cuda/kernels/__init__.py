"""Triton functions, one file for each family. Importing one imports Triton."""
