"""Passes over the IR: what a pass is, the ordered lists, and one folder per family."""
