"""TVM libraries for GPUs: TVM's own kernels for what is dense, ours as machine code beside them."""
