"""A small CNN trained in seconds on scikit-learn's digits, then pruned."""
