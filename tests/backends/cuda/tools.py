"""What kernels in CUDA C++ are built with, and tests without which there is nothing to build."""

import shutil

import pytest

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="nvcc calls gcc")
