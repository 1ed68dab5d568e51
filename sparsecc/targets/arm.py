"""64-bit ARM targets."""

from sparsecc.targets.base import Target

ARM64_LINUX = Target(
    name="arm64-linux",
    triple="aarch64-linux-gnu",
    isas=("arm64-neon",),
    lanes=4,
    fma_ports=2,
    ghz=2.4,
    llc_bytes=4 << 20,
    dram_gbs=10,
    int8_gain=4,
)
