"""Voxels of a point cloud that attend to each other in sets of one size, as DSVT's do."""
