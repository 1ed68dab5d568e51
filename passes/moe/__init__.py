"""Mixtures of experts, recognised however they were written."""
