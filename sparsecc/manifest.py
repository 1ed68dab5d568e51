"""The manifest of an artifact folder: what is in it, what made it, what was measured."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sparsecc.errors import ArtifactError

FORMAT = 2
FILE_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
RUN_NAME = "run.py"
REPORT_NAME = "report.html"
MAX_MANIFEST_BYTES = 64 << 20
DISTRUST = "compile the model again; do not run files you do not trust"
TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "ziglang")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of the folder."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class NodeEntry(_Strict):
    """One node of a graph, for drawing it.

    Attributes:
        name: Its name.
        op: Its op type, with the domain where that is not ONNX's own.
        region: Op type of the region it is in; "" outside.
    """

    name: str
    op: str
    region: str = ""


class RegionEntry(_Strict):
    """A part of the model that the library runs in one call.

    Attributes:
        op_type: Of the call.
        steps: How many steps the library runs.
        nodes: Names of the nodes in it.
    """

    op_type: str
    steps: int = Field(ge=1)
    nodes: tuple[str, ...]


class RefusalEntry(_Strict):
    """A node that a pass left alone, and why."""

    pass_name: str
    node: str
    reason: str


class Manifest(_Strict):
    """Everything an artifact says about itself.

    Attributes:
        format: Version of this layout.
        sparsecc: Version that made it.
        tools: Versions of the packages that took part.
        target: Name of the target.
        hardware: All of the target, as its file has it.
        library: File name of the custom-op library, or None when no layer runs sparse.
        opset: Default-domain opset of the model.
        files: Every other file of the folder, by name.
        plan: The plan that made it, as plain data.
        layers: One row per layer, as in ``inspect``.
        regions: Parts of the model that the library runs in one call. What stayed outside is among
            the refusals, of the pass "form-regions".
        nodes_before: The model that came in, node by node in its order.
        nodes_after: The model that was written, likewise; the nodes of a region are in its place.
        dense_bytes: Bytes of the weights of the model that came in.
        refusals: What passes left alone, and why.
        numerics: Measured agreement with the masked-dense twin.
        quality: Measured agreement with the user's dense model.
    """

    format: int
    sparsecc: str
    tools: dict[str, str]
    target: str
    hardware: dict[str, Any] = Field(default_factory=dict)
    library: str | None
    opset: int
    files: dict[str, FileEntry]
    plan: dict[str, Any]
    layers: list[dict[str, Any]]
    regions: list[RegionEntry] = Field(default_factory=list)
    nodes_before: list[NodeEntry] = Field(default_factory=list)
    nodes_after: list[NodeEntry] = Field(default_factory=list)
    dense_bytes: int = Field(default=0, ge=0)
    refusals: list[RefusalEntry]
    numerics: dict[str, float]
    quality: dict[str, float]

    @property
    def size_bytes(self) -> int:
        """Bytes of what is needed to run: all files but the report."""
        return sum(entry.bytes for name, entry in self.files.items() if name != REPORT_NAME)

    def to_bytes(self) -> bytes:
        """The file's bytes: same manifest, same bytes."""
        return (json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n").encode()


def tool_versions() -> dict[str, str]:
    """Versions of the packages that shape an artifact."""
    return {name: metadata.version(name) for name in TOOLS}


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
    return FileEntry(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest, without looking at its other files.

    Raises:
        ArtifactError: The folder has no manifest, or not a valid one of a known format.
    """
    path = folder / FILE_NAME
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(
            f"{folder} is not a sparsecc artifact: it has no {FILE_NAME}",
            fix="make one with `sparsecc compile MODEL -o DIR`",
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} is too large to be a manifest", fix="compile the model again")
    try:
        data = json.loads(path.read_bytes())
        known = data.get("format") if isinstance(data, dict) else None
        if known != FORMAT:
            raise ArtifactError(
                f"{path} has format {known!r}, this sparsecc reads {FORMAT}",
                fix="compile the model again with this version of sparsecc",
            )
        return Manifest.model_validate(data)
    except (ValueError, RecursionError) as error:  # ValidationError is a ValueError
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{path} is not a valid manifest: {reason}", fix="compile the model again"
        ) from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every listed file is there, inside the folder, and unchanged.

    Raises:
        ArtifactError: Names the first file that is missing, misplaced or altered.
    """
    names = [*manifest.files, *([manifest.library] if manifest.library else []), MODEL_NAME]
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ArtifactError(
                f"{folder / FILE_NAME} names a file outside its folder: {name!r}", fix=DISTRUST
            )
        if name not in manifest.files:
            raise ArtifactError(f"{folder / FILE_NAME} does not list {name!r}", fix=DISTRUST)
    for name, expected in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(
                f"{folder} is incomplete: {name} is missing",
                fix="copy the whole folder, or compile again; model.onnx alone runs on stock "
                "onnxruntime, densely",
            )
        if path.stat().st_size != expected.bytes or file_entry(path) != expected:
            raise ArtifactError(
                f"{path} was altered after it was compiled (its hash differs)",
                fix=DISTRUST,
            )
