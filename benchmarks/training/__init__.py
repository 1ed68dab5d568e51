"""A small mixture of experts, trained for real by processes that share it out."""
