"""The manifest of an artifact folder: what is in it, what made it, what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sparsecc.errors import ArtifactError

FORMAT = 4
FILE_NAME = "manifest.json"
MODEL_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
RUN_NAME = "run.py"
REPORT_NAME = "report.html"
TUNING_NAME = "tuning.json"
DEMO = "demo/"
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


class PortEntry(_Strict):
    """An input or output of the model; see ``backends.bundle.whole.Port``."""

    name: str
    dtype: Literal["float32", "int32", "int64", "uint8", "int8", "bool"]
    dims: tuple[int | str, ...]


class StateEntry(_Strict):
    """An input that a model gives back for its next call: ``passes.attention.online.State``."""

    name: str
    next: str
    attention: str
    dtype: Literal["int32", "int64"]
    dims: tuple[int, ...]
    begin: int


class ReferenceEntry(_Strict):
    """What the masked-dense twin computes for one output from made-up inputs.

    Attributes:
        name: The output.
        shape: Of all of it.
        scale: Its largest magnitude.
        values: Elements at places that are spread evenly over it, the first and the last among
            them.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    values: tuple[float, ...]


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
        hardware: All of the target, as its file has it, the backend among it.
        name: What functions and files of a library are called.
        library: File name of the custom-op library for ONNX Runtime, or None when no layer runs
            sparse and for other backends.
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
        inputs: Of an artifact without ONNX Runtime, in the order of its program.
        outputs: Likewise.
        state: Inputs that are carried from call to call, the step first; empty for most models.
        reference: What it should compute; empty where that could not be made up.
        numerics: Measured agreement with the masked-dense twin; empty where nothing here runs it.
        not_run: Why nothing here runs it, or "".
        quality: Measured agreement with the user's dense model.
    """

    format: int
    sparsecc: str
    tools: dict[str, str]
    target: str
    hardware: dict[str, Any] = Field(default_factory=dict)
    name: str = "model"
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
    inputs: list[PortEntry] = Field(default_factory=list)
    outputs: list[PortEntry] = Field(default_factory=list)
    state: list[StateEntry] = Field(default_factory=list)
    reference: list[ReferenceEntry] = Field(default_factory=list)
    numerics: dict[str, float]
    not_run: str = ""
    quality: dict[str, float]

    @property
    def backend(self) -> str:
        """What it is, as ``Target.backend`` says."""
        return str(self.hardware.get("backend", "onnxruntime"))

    @property
    def has_model(self) -> bool:
        """Whether the model is in it as an ONNX file."""
        return self.backend == "onnxruntime"

    @property
    def size_bytes(self) -> int:
        """Bytes of what is needed to run: no report, no demo page, and of a library one form."""
        return sum(entry.bytes for name, entry in self.files.items() if self._runs(name))

    def _runs(self, name: str) -> bool:
        other = name in (REPORT_NAME, TUNING_NAME) or name.startswith(DEMO)
        return not (other or name.endswith(".a") or (name == self.name and not self.has_model))

    def to_bytes(self) -> bytes:
        """The file's bytes: same manifest, same bytes."""
        return (json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n").encode()


def tool_versions(others: Sequence[str] = ()) -> dict[str, str]:
    """Versions of the packages that shape an artifact, of these too."""
    return {name: metadata.version(name) for name in (*TOOLS, *others)}


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
    needed = [MODEL_NAME] if manifest.has_model else []
    needed += [manifest.library] if manifest.library else []
    for name in (*manifest.files, *needed):
        if not _is_inside(folder, name):
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
                fix="copy the whole folder, or compile again",
            )
        if path.stat().st_size != expected.bytes or file_entry(path) != expected:
            raise ArtifactError(
                f"{path} was altered after it was compiled (its hash differs)",
                fix=DISTRUST,
            )


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name is that of a file of the folder, reached through no link."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and Path(part).name == part for part in parts)
    if not plain or "\\" in name or ":" in name:
        return False
    above = [folder.joinpath(*parts[:depth]) for depth in range(1, len(parts))]
    return not any(each.is_symlink() for each in above)


def files_of(folder: Path) -> dict[str, FileEntry]:
    """All files below a folder by their names from there, in the order of these."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    entries = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_entry(entries[name]) for name in sorted(entries)}
