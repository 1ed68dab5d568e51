"""Exact passes that bring every model into the one form the later passes expect."""
