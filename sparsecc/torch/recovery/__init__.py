"""Recovery: the dense model teaches its sparse twin on inputs that need no labels."""
