"""A CNN trained sparse from its first step, in three ways, and compiled."""
