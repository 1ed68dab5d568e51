"""Packed weight formats and the zero patterns they hold."""
