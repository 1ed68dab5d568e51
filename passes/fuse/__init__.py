"""Exact passes that merge neighbouring operations into one."""
