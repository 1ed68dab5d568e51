"""The folders in which apps take a model: what stands around a library on a phone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparsecc.backends.bundle.whole import Port
from sparsecc.targets import Target
from sparsecc.targets.base import Triple

HERE = Path(__file__).parent
BATCH = 1
"""Stands for open dimensions in examples."""


@dataclass(frozen=True)
class Layout:
    """A folder as apps take it; ``NAME`` stands for the model's name.

    Attributes:
        moved: File of a bundle -> where it goes.
        written: Template in this folder -> where it goes.
    """

    moved: Mapping[str, str]
    written: Mapping[str, str]


_SOURCES = "src/main/kotlin/sparsecc/NAME"
_FRAMEWORK = "NAME.xcframework/ios-arm64"

LAYOUTS: Mapping[Triple, Layout] = {
    "aarch64-linux-android": Layout(
        moved={
            "weights.bin": "src/main/assets/NAME.bin",
            "libNAME.so": "src/main/jniLibs/arm64-v8a/libNAME.so",
            "libNAME.a": "lib/libNAME.a",
            "NAME.h": "include/NAME.h",
        },
        written={
            "android/README.md": "README.md",
            "android/build.gradle.kts": "build.gradle.kts",
            "android/consumer-rules.pro": "consumer-rules.pro",
            "android/AndroidManifest.xml": "src/main/AndroidManifest.xml",
            **{
                f"android/{each}.kt": f"{_SOURCES}/{each}.kt"
                for each in ("Model", "Native", "Assets")
            },
        },
    ),
    "aarch64-ios.13.0": Layout(
        moved={
            "weights.bin": "Sources/NAME/NAME.bin",
            "libNAME.a": f"{_FRAMEWORK}/libNAME.a",
            "NAME.h": f"{_FRAMEWORK}/Headers/NAME.h",
        },
        written={
            "apple/README.md": "README.md",
            "apple/Package.swift": "Package.swift",
            "apple/Model.swift": "Sources/NAME/Model.swift",
            "apple/Info.plist": "NAME.xcframework/Info.plist",
            "apple/module.modulemap": f"{_FRAMEWORK}/Headers/module.modulemap",
        },
    ),
}
"""What a bundle for a phone is arranged as; bundles of other systems stay as they are."""

NOTES: Mapping[Triple, str] = {
    "aarch64-linux-android": "onnxruntime-android.md",
    "aarch64-ios.13.0": "onnxruntime-ios.md",
}
"""What an app needs to run a model and its library under ONNX Runtime."""


def arrange(folder: Path, target: Target, name: str, port: Port) -> None:
    """Bring the files of a bundle where apps look for them, and write what stands around them.

    Args:
        folder: What ``build_bundle`` made; its files move.
        target: What it is for; nothing happens where that is no phone.
        name: Of the model.
        port: The first input, for the examples.
    """
    layout = LAYOUTS.get(target.triple)
    if layout is None:
        return
    for source, place in layout.moved.items():
        moved = folder / place.replace("NAME", name)
        moved.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / source.replace("NAME", name), moved)
    for template, place in layout.written.items():
        words = {"NAME": name, **_example(port)} if place == "README.md" else {"NAME": name}
        _write(folder / place.replace("NAME", name), template, words)


def write_notes(folder: Path, target: Target, library: str, port: Port) -> None:
    """Write what an app needs to run the model and its library, where that is for a phone.

    Args:
        folder: That of the model.
        target: What the library is for.
        library: Its file name.
        port: The first input of the model, for the example.
    """
    if target.triple in NOTES:
        words = {"LIBRARY": library, **_example(port)}
        _write(folder / "README.md", NOTES[target.triple], words)


def _example(port: Port) -> dict[str, str]:
    dims = (str(dim if isinstance(dim, int) else BATCH) for dim in port.dims)
    shown = "".join(letter for letter in port.name if letter.isprintable())
    quoted = shown.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return {"INPUT": quoted, "DIMS": ", ".join(dims)}


def _write(path: Path, template: str, words: Mapping[str, str]) -> None:
    text = (HERE / template).read_text(encoding="utf-8")
    text = re.sub("|".join(words), lambda word: words[word[0]], text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
