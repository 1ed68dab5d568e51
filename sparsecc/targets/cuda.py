"""NVIDIA GPUs by compute capability, from the data sheets of A100 (80 GB) and H100 (SXM)."""

import dataclasses

from sparsecc.targets.base import Target

CUDA_SM_80 = Target(
    name="cuda-sm_80",
    family="cuda",
    triple="",
    isas=(),
    lanes=32,
    fma_ports=2.0,
    registers=255,
    ghz=1.41,
    threads=108,
    caches=(192 << 10, 40 << 20),
    bandwidths=(19_000.0, 5_000.0, 2_039.0),
    int8_gain=32.0,
    tensor_tflops=312.0,
)
CUDA_SM_90 = dataclasses.replace(
    CUDA_SM_80,
    name="cuda-sm_90",
    fma_ports=4.0,
    ghz=1.83,
    threads=132,
    caches=(256 << 10, 50 << 20),
    bandwidths=(31_000.0, 7_000.0, 3_352.0),
    tensor_tflops=989.0,
)
