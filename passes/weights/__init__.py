"""Weight sparsity: which layers can be pruned, what to drop, and how the rest makes up for it."""
