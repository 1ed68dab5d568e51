"""Instructions of a mixture of experts on 64-bit ARM: `python -m benchmarks.arm_moe`.

As `benchmarks.arm` counts: the second of two runs on one thread, under emulation. Our own library,
compiled from all experts on all tokens, beside ONNX Runtime on that model and as a loop over
experts, routers included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer
from rich.progress import track

from benchmarks import arm, instructions, moe, page

NAME = "arm-moe"
FORMS = {"all experts": moe.dense_model, "loop over experts": moe.loop_model}
"""What ONNX Runtime runs; ours is compiled from the first."""
TOKENS = (1, 16, 64)
CLOSE = 1e-4


@dataclass(frozen=True)
class Row:
    """One number of tokens.

    Attributes:
        tokens: T.
        ours: Instructions of our library.
        peer: Form → instructions of ONNX Runtime.
    """

    tokens: int
    ours: int
    peer: dict[str, int]


def count(
    weights: moe.Weights, tokens: int, qemu: str, library: Path, sysroot: Path, folder: Path
) -> Row:
    """Counts both engines.

    Raises:
        RuntimeError: An engine does not run, or is off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(1).standard_normal((tokens, len(weights["router"])), np.float32)
    models = {}
    for number, (form, build) in enumerate(FORMS.items()):
        path = folder / f"{number}.onnx"
        path.write_bytes(build(weights, tokens))
        wanted = ort.InferenceSession(str(path)).run(None, {"x": x})[0]
        models[form] = arm.Model(path, form, {"x": x}, wanted, output="y")
    ours = arm.of_bundle(qemu, next(iter(models.values())), folder)
    peer = {
        form: arm.of_peer(qemu, library, sysroot, model, folder) for form, model in models.items()
    }
    for each in (ours, *peer.values()):
        if not each.error < CLOSE:
            raise RuntimeError(
                f"{tokens} tokens: {each.engine}, {each.pattern}: off by {each.error:.1e}"
            )
    return Row(tokens, ours.instructions, {form: each.instructions for form, each in peer.items()})


def section(found: Sequence[Row], experts: int, size: str, version: str) -> str:
    """The table: a line per number of tokens."""
    lines = [["tokens", "sparsecc", *(f"ONNX Runtime {version}, {form}" for form in FORMS)]]
    lines.append(["---"] * len(lines[0]))
    for row in found:
        cells = [
            f"{row.peer[form] / 1e6:.1f} M ({row.peer[form] / row.ours:.2f}×)" for form in FORMS
        ]
        lines.append([f"{row.tokens}", f"{row.ours / 1e6:.1f} M", *cells])
    return (
        f"{experts} experts, {size}, the best {moe.CHOSEN} of each token. Emulated: {arm.CPU}."
        f"\n\n{page.markdown(lines)}"
    )


def main(
    experts: Annotated[int, typer.Option(min=moe.CHOSEN)] = 8,
    features: Annotated[int, typer.Option(min=1, help="Of a token.")] = 128,
    hidden: Annotated[int, typer.Option(min=1, help="Of an expert.")] = 512,
    qemu: Annotated[str | None, typer.Option(help="The emulator.")] = None,
    sysroot: Annotated[Path, typer.Option(help="Libraries of the processor.")] = arm.SYSROOT,
    folder: Annotated[Path, typer.Option(help="Models and artifacts.")] = Path("out/arm"),
    output: Annotated[Path, typer.Option("-o", help="JSON file.")] = Path("out/arm_moe.json"),
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Markdown page with the markers.")
    ] = None,
) -> None:
    """Counts instructions; writes JSON and a table."""
    emulator = qemu or instructions.emulator()
    if emulator is None:
        raise typer.BadParameter("no emulator of 64-bit ARM is installed", param_hint="--qemu")
    library = arm.runtime(arm.PEER_VERSION, folder)
    weights = moe.weights_of(experts, features, hidden)
    found = [
        count(weights, tokens, emulator, library, sysroot, folder / f"moe-{tokens}")
        for tokens in track(TOKENS, "counting")
    ]
    text = section(found, experts, f"{features} → {hidden}", arm.PEER_VERSION)
    page.publish(NAME, text, {"rows": [asdict(row) for row in found]}, output, page_file)


if __name__ == "__main__":
    typer.run(main)
