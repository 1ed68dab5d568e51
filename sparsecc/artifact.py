"""Artifact folders: written aside and renamed, checked by hash when read."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sparsecc.errors import ArtifactError
from sparsecc.manifest import FILE_NAME, Manifest, check_files, read_manifest


def check_destination(folder: Path) -> None:
    """Check early that an artifact may be written at ``folder``.

    Raises:
        ArtifactError: Something that is not an artifact is there, or it cannot be written.
    """
    if folder.exists():
        empty = folder.is_dir() and not any(folder.iterdir())
        if not empty and not (folder / FILE_NAME).is_file():
            raise ArtifactError(
                f"{folder} exists and is not a sparsecc artifact: it will not be overwritten",
                fix="choose another output folder, or remove it yourself",
            )
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".sparsecc-"):
            pass
    except OSError as error:
        raise ArtifactError(
            f"cannot write into {parent}: {error.strerror or error}",
            fix="choose an output folder you may write to",
        ) from error


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well.

    The old artifact stays until the new one is complete; a failure leaves nothing behind.

    Raises:
        ArtifactError: See :func:`check_destination`.
    """
    check_destination(folder)
    parent = folder.absolute().parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=".sparsecc-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)


def copy_artifact(source: Path, folder: Path) -> None:
    """Copy the files of one artifact to another place, atomically."""
    manifest = read_manifest(source)
    with written_aside(folder) as fresh:
        for name in (FILE_NAME, *manifest.files):
            shutil.copyfile(source / name, fresh / name)


def open_artifact(folder: Path) -> Manifest:
    """Read and check an artifact folder.

    Raises:
        ArtifactError: It is missing, incomplete or altered.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest
