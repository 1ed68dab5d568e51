"""Attention: how models write it, which keys a mask leaves, and the op that skips the others."""
