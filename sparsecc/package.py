"""An artifact as one file to hand on: the folder, and what whoever receives it wants to know."""

from __future__ import annotations

import json
import zipfile
from importlib import metadata
from pathlib import Path

from sparsecc.artifact import ELSEWHERE, open_artifact
from sparsecc.aside import aside
from sparsecc.errors import ArtifactError
from sparsecc.manifest import FILE_NAME, Manifest, file_entry
from sparsecc.search.plan import Plan

ABOUT = "about/"
"""Where plan, hashes, licences and numerics are, beside the artifact's own files."""
SUFFIX = ".zip"
MOST_LICENCE_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows
_PLAIN, _PROGRAM = 0o100644, 0o100755


def package(folder: str | Path, path: str | Path, licence: str | Path | None = None) -> Path:
    """Write an artifact into one file, the same bytes each time.

    Args:
        folder: The artifact; all its hashes are checked first.
        path: A .zip file to write; an older one is replaced.
        licence: The licence of the model, a text file. That of the kernels is always in it.

    Raises:
        ArtifactError: The folder is no artifact or was altered, the licence cannot be read, or the
            file has another suffix or cannot be written.
    """
    source, target = Path(folder), Path(path)
    if target.suffix != SUFFIX:
        raise ArtifactError(f"{target} is no {SUFFIX} file", fix=f"end its name in {SUFFIX}")
    manifest = open_artifact(source)
    about = _about(manifest) | _model_licence(licence)
    listed = {name: entry.sha256 for name, entry in manifest.files.items()}
    listed[FILE_NAME] = file_entry(source / FILE_NAME).sha256
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(listed.items()))
    about[f"{ABOUT}SHA256SUMS"] = sums
    try:
        with aside(target) as scratch, zipfile.ZipFile(scratch, "w") as archive:
            for name in sorted({*about, *listed}):
                mode = _PROGRAM if name == manifest.name and not manifest.has_model else _PLAIN
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.external_attr, entry.create_system = mode << 16, 3
                if name in about:
                    archive.writestr(entry, about[name])
                else:
                    entry.file_size = (source / name).stat().st_size
                    _copy(archive, entry, source / name)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {target}: {error.strerror or error}", fix=ELSEWHERE
        ) from error
    return target


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    with path.open("rb") as stream, archive.open(entry, "w") as out:
        while piece := stream.read(1 << 22):
            out.write(piece)


def _about(manifest: Manifest) -> dict[str, str]:
    """Plan, licence of the kernels, and what was measured of the answers."""
    measured = {
        "target": manifest.target,
        "backend": manifest.backend,
        "sparsecc": manifest.sparsecc,
        "tools": manifest.tools,
        "numerics": manifest.numerics,
        "quality": manifest.quality,
        "not_run": manifest.not_run,
    }
    plan = Plan.from_json(json.dumps(manifest.plan), "the manifest's plan")
    return {
        f"{ABOUT}plan.json": plan.to_json(),
        f"{ABOUT}numerics.json": json.dumps(measured, indent=1, sort_keys=True) + "\n",
        f"{ABOUT}LICENSE": _own_licence(),
    }


def _own_licence() -> str:
    # An editable install has two of that name, and what was built beside the sources holds none.
    for found in metadata.distributions(name="sparsecc"):
        if text := found.read_text("licenses/LICENSE"):
            return text
    raise ArtifactError(
        "the licence of sparsecc is missing from where it is installed",
        fix="install sparsecc again",
    )


def _model_licence(path: str | Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MOST_LICENCE_BYTES + 1)
        if len(content) > MOST_LICENCE_BYTES:
            raise ValueError("it is larger than a licence")
        return {f"{ABOUT}LICENSE.model": content.decode()}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"the licence {path} cannot be read: {error}", fix="give a text file"
        ) from error


__all__ = ["package"]
