"""What turns a compiled model into something that runs: kernels, code generation, runtimes."""
