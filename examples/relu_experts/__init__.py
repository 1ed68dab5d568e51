"""A small transformer whose feed-forward networks compute a quarter of their neurons."""
