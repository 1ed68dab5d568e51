"""``sparsecc compile``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsecc import targets
from sparsecc.cli.command import JsonOption, show
from sparsecc.cli.options import (
    MODEL,
    Attention,
    Backend,
    BestEffort,
    Calibration,
    Executor,
    Experts,
    KeepExperts,
    Labels,
    LibraryName,
    MaxBytes,
    MaxDrop,
    MaxMs,
    Mode,
    Online,
    OutFolder,
    Permute,
    Place,
    Preprocess,
    Quality,
    Recover,
    SearchMode,
    Seed,
    Tokenizer,
    Tune,
    read_calibration,
    read_labels,
)
from sparsecc.targets import TARGETS, is_buildable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sparsecc.compiled import Compiled
    from sparsecc.manifest import Manifest

BUILDABLE = [name for name, target in TARGETS.items() if is_buildable(target)]

NAME = "compile"
EXAMPLES = """
[bold]Examples[/]

\b
Use the zeros that are already in the weights:
  sparsecc compile pruned.onnx -o out
\b
Search for the fastest plan that loses at most one per cent of quality:
  sparsecc compile model.onnx --calibration data.npz --max-drop 0.01 -o out
\b
Prune to 80 % zeros in blocks of 4 outputs, and mend the rest on data:
  sparsecc compile model.onnx --sparsity 4x1:0.8 --calibration data.npz -o out
\b
Then ten minutes in which the dense model teaches the sparse one on the same data:
  sparsecc compile model.onnx --sparsity 4x1:0.8 --calibration data.npz \\
      --recover 10min -o out
\b
Remove three tenths of the channels (or heads:0.25), and learn back what that lost:
  sparsecc compile model.onnx --sparsity channels:0.3 --calibration data.npz \\
      --recover 10min -o out
\b
Data as they lie on the disk: a folder of photographs, and how the model wants them:
  sparsecc compile model.onnx --sparsity 4x1:0.5 --calibration photos \\
      --preprocess preprocessor_config.json -o out
\b
The first, with the attention layers left dense and one layer pruned less:
  sparsecc compile model.onnx --sparsity 4x1:0.8 --calibration data.npz \\
      --layer '*attention*=dense' --layer '*.fc2=4x1:0.5' -o out
\b
A video transformer whose heads keep some blocks of attention: 8 words, then 16 frames of 24 × 24:
  sparsecc compile dit.onnx --attention 8+16x24x24 --calibration steps.npz \\
      --max-drop 0.05 --quality psnr --sparsity dense -o out
\b
Mixtures of experts that keep three quarters of theirs, by which ones the data need:
  sparsecc compile moe.onnx --keep-experts 0.75 --calibration data.npz -o out
\b
For the web: a folder to publish, WebAssembly and a JavaScript module in it:
  sparsecc compile model.onnx --sparsity 4x1:0.8 --target wasm -o out
\b
A C library that needs no runtime, its functions called digits_create and so on:
  sparsecc compile model.onnx --sparsity 4x1:0.8 --backend bundle --name digits -o out
"""
_GUESSED = "no --calibration: weights were chosen by their size alone, check the quality"


class Score(StrEnum):
    """What decides which weights go."""

    magnitude = "magnitude"
    wanda = "wanda"
    sparsegpt = "sparsegpt"
    alps = "alps"


class Allocation(StrEnum):
    """How zeros are spread over layers."""

    uniform = "uniform"
    erk = "erk"
    owl = "owl"
    spdy = "spdy"


def command(
    model: Annotated[Path, MODEL],
    out: OutFolder,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Hardware to compile for: native, {', '.join(BUILDABLE)}, or a target file "
            "(*.json).",
        ),
    ] = "native",
    backend: Backend = None,
    name: LibraryName = "model",
    sparsity: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Zeros to make, as a pattern and a share: 4x1:0.8 (blocks of 4 outputs), 1x4:0.8 "
            "(of 4 inputs), unstructured:0.8, or 2:4; existing uses the zeros that are there. Or "
            "channels:0.3, heads:0.25: removed, so that layers become smaller.",
        ),
    ] = "existing",
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES=SPEC",
            help="Another sparsity for the layers whose name matches, as in '*.fc2=4x1:0.5' or "
            "'head*=dense'. Repeatable; the first match counts.",
            show_default=False,
        ),
    ] = None,
    calibration: Calibration = None,
    tokenizer: Tokenizer = None,
    preprocess: Preprocess = None,
    max_drop: MaxDrop = None,
    max_ms: MaxMs = None,
    max_bytes: MaxBytes = None,
    quality: Quality = None,
    labels: Labels = None,
    mode: SearchMode = Mode.fast,
    seed: Seed = 0,
    best_effort: BestEffort = False,
    score: Annotated[
        Score,
        typer.Option(metavar="NAME", help=f"What decides which weights go: {', '.join(Score)}."),
    ] = Score.alps,
    refit: Annotated[
        bool,
        typer.Option(metavar="", help="Refit the weights that stay to the calibration data."),
    ] = True,
    allocation: Annotated[
        Allocation,
        typer.Option(
            metavar="NAME",
            help="How zeros are spread: uniform, the same share in every layer; erk, more in "
            "larger layers; owl, fewer where weights have outliers; spdy, where they cost least. "
            "owl and spdy need --calibration.",
        ),
    ] = Allocation.uniform,
    recover: Recover = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .safetensors file that --recover writes as it goes; after an interruption it "
            "goes on from there.",
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="int8 makes weights and activations eight-bit, best with 4x4:0.8; it needs "
            "--calibration. experts-int8 and experts-int4 round the weights of experts alone.",
            show_default=False,
        ),
    ] = None,
    tune: Tune = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", metavar="", help="Check the model after every step of the compiler."
        ),
    ] = False,
    permute: Permute = False,
    attention: Attention = None,
    online: Online = None,
    experts: Experts = None,
    keep_experts: KeepExperts = None,
    executor: Executor = Place.processes,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL into a sparse artifact.

    The artifact is a folder: the model, a small library with its kernels, a manifest, and a
    run.py that needs onnxruntime alone; or what --backend says instead. A finished artifact
    replaces an older one at the same place; any other folder is left alone.
    """
    import sparsecc
    from sparsecc.artifact import check_destination
    from sparsecc.progress import bar

    overrides = _overrides(layer or [])
    check_destination(out)
    with bar(f"compiling {model.name}") as progress:
        compiled = sparsecc.compile(
            model,
            target,
            backend=backend,
            name=name,
            sparsity=sparsity,
            overrides=overrides,
            calibration=read_calibration(calibration, tokenizer, preprocess),
            labels=read_labels(labels),
            max_drop=max_drop,
            max_ms=max_ms,
            max_bytes=max_bytes,
            quality=quality,
            mode=mode.value,
            seed=seed,
            best_effort=best_effort,
            score=score.value,
            refit=refit,
            allocation=allocation.value,
            recover=recover,
            checkpoint=checkpoint,
            quantize=quantize,
            tune=tune,
            verify=verify,
            permute=permute,
            attention=attention,
            online=online,
            experts=experts,
            keep_experts=keep_experts,
            executor=executor.value,
            progress=progress,
        )
        compiled.save(out)
    guessed = calibration is None and any(
        spec not in ("existing", "dense") for spec in (sparsity, *overrides.values())
    )
    tell(compiled, model, out, guessed=guessed, as_json=as_json)


def tell(compiled: Compiled, model: Path, out: Path, *, guessed: bool, as_json: bool) -> None:
    """Print what became of a model; ``guessed``: there were no data to choose weights by."""
    data = {
        "artifact": str(out),
        "size_bytes": compiled.size_bytes,
        "quality": compiled.quality,
        "report": compiled.report.to_json(),
    }
    show(data, _drawing(compiled, model, out, guessed=guessed), as_json=as_json)


def _overrides(settings: list[str]) -> dict[str, str]:
    overrides = {}
    for setting in settings:
        names, found, value = setting.rpartition("=")
        if not (found and names and value):
            raise typer.BadParameter(
                f"{setting!r} is not NAMES=SPEC, as in '*.fc2=4x1:0.5'", param_hint="--layer"
            )
        overrides[names] = value
    return overrides


def _drawing(compiled: Compiled, model: Path, out: Path, *, guessed: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    manifest = compiled.manifest
    lines = [Text(), Text.assemble("wrote ", (str(out), "bold green"))]
    if guessed:
        lines.append(Text(_GUESSED, "yellow"))
    if manifest.not_run:
        lines.append(Text(f"its answers were not checked: {manifest.not_run}", "yellow"))
    else:
        lines.append(Text(f"next: {_next(manifest, model, out)}", "dim"))
    return Group(compiled.report, *lines)


def _next(manifest: Manifest, model: Path, out: Path) -> str:
    """What to do with an artifact: time it where that says something, else take it there."""
    target = targets.described(manifest.target, manifest.hardware)
    if target.family == "wasm":
        return f"node {out}/demo/serve.mjs, to see it run in a browser"
    if targets.runs_here(target):
        return f"sparsecc bench {out} --baseline {model}"
    return f"sparsecc package {out} -o {out}.zip, to take it to where it runs"


__all__ = ["EXAMPLES", "NAME", "command", "tell"]
