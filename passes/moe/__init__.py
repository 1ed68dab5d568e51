"""Mixtures of experts, recognised however they were written."""

REWRITTEN = "sparsecc.every_expert"
"""Key of a model's metadata: paths of modules that were captured in another form than theirs."""
