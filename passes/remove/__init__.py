"""Removal of coupled channels and heads: which may go, which are worth least, and cutting them."""
