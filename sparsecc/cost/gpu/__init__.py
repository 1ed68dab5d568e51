"""What kernels take on a GPU, before they are run."""
