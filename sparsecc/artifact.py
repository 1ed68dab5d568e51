"""Artifact folders: written aside and renamed, checked by hash when read."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sparsecc.errors import ArtifactError
from sparsecc.manifest import FILE_NAME, Manifest, check_files, read_manifest

SCRATCH_PREFIX = ".sparsecc-"
ELSEWHERE = "choose an output folder you may write to, on a disk with room for it"


def check_destination(folder: Path) -> None:
    """Check early that an artifact may be written at ``folder``; leaves nothing behind.

    Raises:
        ArtifactError: Something that is not an artifact is there, or it cannot be written.
    """
    with _told(folder):
        place = folder.resolve()
        if place.exists():
            _check_replaceable(folder)
        with tempfile.TemporaryDirectory(dir=_nearest_folder(place), prefix=SCRATCH_PREFIX):
            pass


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well.

    Folders above it that are missing appear with it. The old artifact stays until the new one is
    complete; a failure leaves nothing behind.

    Raises:
        ArtifactError: See :func:`check_destination`; or writing failed, in the block too.
    """
    check_destination(folder)
    with _told(folder):
        place = folder.resolve()
        root = _nearest_folder(place)
        missing = place.relative_to(root)
        with tempfile.TemporaryDirectory(dir=root, prefix=SCRATCH_PREFIX) as scratch:
            fresh = Path(scratch) / "new" / missing
            fresh.mkdir(parents=True)
            yield fresh
            _swap(Path(scratch) / "new" / missing.parts[0], root / missing.parts[0])


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that is the caller's when the block ends well, and gone when not.

    Raises:
        ArtifactError: Writing failed, in the block too.
    """
    with _told(Path(tempfile.gettempdir()), fix="set TMPDIR to a folder with room for the model"):
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX.lstrip(".")))
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def copy_artifact(source: Path, folder: Path) -> None:
    """Copy the files of one artifact to another place, atomically; programs stay programs."""
    manifest = read_manifest(source)
    with written_aside(folder) as fresh:
        for name in (FILE_NAME, *manifest.files):
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, fresh / name)
            if os.access(source / name, os.X_OK):
                (fresh / name).chmod(0o755)


def open_artifact(folder: Path) -> Manifest:
    """Read and check an artifact folder.

    Raises:
        ArtifactError: It is missing, incomplete, altered or cannot be read.
    """
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be read: {error.strerror or error}", fix="check its permissions"
        ) from error
    return manifest


def _check_replaceable(folder: Path) -> None:
    """Only what is an artifact from end to end may be replaced: the rest is somebody's work."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    fix = "choose another output folder, or remove it yourself"
    try:
        listed = {FILE_NAME, *read_manifest(folder).files}
    except ArtifactError as error:
        raise ArtifactError(
            f"{folder} exists and is not a sparsecc artifact: it will not be overwritten", fix=fix
        ) from error
    if foreign := sorted(_names_below(folder) - listed):
        raise ArtifactError(
            f"{folder} holds {foreign[0]!r}, which is not part of the artifact: "
            "it will not be overwritten",
            fix=fix,
        )


def _names_below(folder: Path) -> set[str]:
    """Names from there of all that is below a folder, but for folders that hold something."""
    below = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    full = {path.parent for path in below}
    return {name for path, name in below.items() if path not in full}


def _nearest_folder(place: Path) -> Path:
    return next(parent for parent in place.parents if parent.exists())


def _swap(fresh: Path, place: Path) -> None:
    """Rename ``fresh`` to ``place``; what was there is back if that fails."""
    if not place.exists():
        fresh.rename(place)
        return
    old = fresh.parent.parent / "old"
    place.rename(old)
    try:
        fresh.rename(place)
    except OSError:
        old.rename(place)
        raise


@contextlib.contextmanager
def _told(folder: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    """Failures of the file system as errors of ours."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot write the artifact into {folder}: {error.strerror or error}", fix=fix
        ) from error
