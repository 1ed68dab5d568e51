"""The bundle backend: a whole model as one region in a library of its own, without a runtime."""
