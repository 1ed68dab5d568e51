"""Deciding what to do to each layer, and writing the decision down."""
