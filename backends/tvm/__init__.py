"""TVM: what the kernel library has no step for, and libraries for TVM's own runtime."""
