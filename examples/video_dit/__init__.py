"""A small video diffusion transformer, trained here on moving shapes."""
