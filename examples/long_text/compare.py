"""Compiles an encoder with a window; compares it with ONNX Runtime, and with full attention."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import sparsecc
from examples._text import sentences
from examples.long_text.encoder import WindowEncoder
from examples.sentence_embeddings.encoder import Encoder, tokenize, trained
from sparsecc.bench import BenchResult, compare

TRAINED_TOKENS, TEXTS, TEXT_SENTENCES = 512, 23, 60
WINDOWS = (32, 64, 128)
WINDOW, TOKENS = 256, 4096
SECONDS = 25.0
Feed = dict[str, NDArray[np.int64]]


def texts(count: int, long: int) -> list[str]:
    """Texts of so many sentences each, none in two."""
    found = sentences("test")
    return [" ".join(found[at * long : (at + 1) * long]) for at in range(count)]


def embed(encoder: Encoder, feed: Feed) -> NDArray[np.float32]:
    """Unit vectors of texts, eight at a time."""
    parts = [
        {name: torch.from_numpy(x[at : at + 8]) for name, x in feed.items()}
        for at in range(0, len(feed["input_ids"]), 8)
    ]
    with torch.no_grad():
        return np.concatenate([encoder(**part).numpy() for part in parts])


def quality() -> None:
    """What a window costs at the lengths that the encoder was trained for: no training here."""
    whole, feed = trained(), tokenize(texts(TEXTS, TEXT_SENTENCES), TRAINED_TOKENS)
    assert feed["attention_mask"].all(), "a text is too short"
    table = Table(title=f"{TEXTS} texts of {TRAINED_TOKENS} tokens")
    table.add_column("tokens to each side")
    table.add_column("mean cosine to full attention")
    want = embed(whole, feed)
    for window in WINDOWS:
        got = embed(WindowEncoder(whole, window, TRAINED_TOKENS), feed)
        table.add_row(str(window), f"{(got * want).sum(1).mean():.4f}")
    Console().print(table)


def speed(tokens: int, window: int, threads: int) -> BenchResult:
    """A long text, against the same model in ONNX Runtime, in turns."""
    encoder = WindowEncoder(trained(), window, tokens)
    feed = tokenize(texts(1, tokens // 8), tokens)
    assert feed["attention_mask"].all(), "the text is too short"
    example = {name: torch.from_numpy(value) for name, value in feed.items()}
    auto = torch.export.Dim.AUTO
    with TemporaryDirectory() as scratch:
        model, inputs = Path(scratch) / "model.onnx", Path(scratch) / "inputs.npz"
        torch.onnx.export(
            encoder,
            kwargs=example,
            f=model,
            dynamo=True,
            opset_version=20,
            dynamic_shapes={name: {0: auto, 1: auto} for name in example},
            external_data=False,
            verbose=False,
        )
        np.savez(inputs, **feed)
        compiled = sparsecc.compile(model)
        print(compiled.report)
        got = next(iter(compiled.run(feed).values()))
        want = embed(encoder, feed)
        print(f"largest difference from torch: {np.abs(got - want).max():.1e}")
        compiled.save(Path(scratch) / "out")
        result = compare(
            Path(scratch) / "out", model, inputs=inputs, threads=threads, seconds=SECONDS
        )
    print(
        f"{tokens} tokens, {window} to each side, {threads} thread(s): {result.ours_ms:.0f} ms, "
        f"ONNX Runtime {result.baseline_ms:.0f} ms, {result.ratio:.2f} times as fast "
        f"(quartiles {result.ratio_low:.2f}-{result.ratio_high:.2f}), "
        f"{result.peak_rss_mb:.0f} MB against {result.baseline_peak_rss_mb:.0f} MB"
    )
    return result


def draw(results: Mapping[int, BenchResult], window: int, path: Path) -> None:
    """Time and memory over the number of tokens, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(7, 2.8))
    lengths, made = list(results), list(results.values())
    for panel, what, ours, theirs in (
        (panels[0], "ms", [r.ours_ms for r in made], [r.baseline_ms for r in made]),
        (panels[1], "MB", [r.peak_rss_mb for r in made], [r.baseline_peak_rss_mb for r in made]),
    ):
        panel.semilogx(lengths, theirs, "o-", label="ONNX Runtime", color="C0")
        panel.semilogx(lengths, ours, "o-", label="sparsecc", color="C3")
        panel.set_xticks(lengths, [str(length) for length in lengths])
        panel.minorticks_off()
        panel.set(xlabel=f"tokens, {window} seen to each side", ylabel=what)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Prints the cost of windows, then the gain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[TOKENS], help="of the texts")
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["quality", "speed"])
    parser.add_argument("--picture", type=Path, help="an SVG file: time and memory over tokens")
    asked = parser.parse_args()
    if asked.only != "speed":
        quality()
    if asked.only != "quality":
        results = {each: speed(each, asked.window, asked.threads) for each in asked.tokens}
        if asked.picture:
            draw(results, asked.window, asked.picture)


if __name__ == "__main__":
    main()
