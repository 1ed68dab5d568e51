"""64-bit ARM targets: a server core, three classes of cores of phones and boards, other systems.

Ports, registers and caches are those of Arm's software optimization guides; clocks and bandwidths
are those of common products.
"""

import dataclasses

from sparsecc.targets.base import Target

ARM64_LINUX = Target(
    name="arm64-linux",
    family="arm64",
    triple="aarch64-linux-gnu",
    isas=("arm64-neon",),
    lanes=4,
    fma_ports=2.0,
    registers=32,
    ghz=2.4,
    threads=4,
    caches=(64 << 10, 512 << 10, 4 << 20),
    bandwidths=(77.0, 50.0, 60.0, 10.0),
    int8_gain=4.0,
)
ARM64_A55 = dataclasses.replace(
    ARM64_LINUX,
    name="arm64-a55",
    fma_ports=1.0,  # in order, one 128-bit pipe
    ghz=1.8,
    caches=(32 << 10, 128 << 10, 1 << 20),
    bandwidths=(28.0, 14.0, 10.0, 4.0),
)
ARM64_A76 = dataclasses.replace(ARM64_LINUX, name="arm64-a76")
ARM64_X1 = dataclasses.replace(
    ARM64_LINUX,
    name="arm64-x1",
    fma_ports=4.0,
    ghz=2.8,
    threads=1,
    caches=(64 << 10, 1 << 20, 8 << 20),
    bandwidths=(134.0, 90.0, 60.0, 15.0),
)
ARM64_ANDROID = dataclasses.replace(
    ARM64_LINUX, name="arm64-android", triple="aarch64-linux-android", backend="bundle"
)
ARM64_IOS = dataclasses.replace(
    ARM64_LINUX, name="arm64-ios", triple="aarch64-ios.13.0", backend="bundle"
)
ARM64_MACOS = dataclasses.replace(ARM64_LINUX, name="arm64-macos", triple="aarch64-macos.11.0")
