"""What computes a velocity: the network in torch, or compiled, with one of three attentions."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sparsecc
from examples.video_dit import flow
from examples.video_dit.model import PATCH, WORDS, VideoDiT
from examples.video_dit.scenes import VOCABULARY
from examples.video_dit.train import WEIGHTS, trained
from sparsecc.progress import bar

COMPILED = WEIGHTS.with_name("compiled")
"""Where compiled networks are kept and found again."""

CALIBRATION, CALIBRATION_SEED, CALIBRATION_CALLS = "blue triangle up", 5, 4
"""The one sampling that blocks are searched on, and how many of its calls are."""

MAX_DROP = 0.0022
"""Relative error of a velocity that blocks may make."""


class Attention(StrEnum):
    """Which scores are computed: all, or blocks that are searched before or while sampling."""

    DENSE = "dense"
    STATIC = "static"
    ONLINE = "online"


TITLES = {
    None: "torch",
    Attention.DENSE: "dense",
    Attention.STATIC: "Sparse-vDiT",
    Attention.ONLINE: "AdaSpa",
}
"""What tables and pictures call them."""


@dataclass(frozen=True)
class Setup:
    """What is to be drawn, and with which network.

    Attributes:
        frames: Of the video.
        side: Patches across, and down.
        steps: Of the sampling.
        weights: What ``examples.video_dit.train`` wrote.
    """

    frames: int
    side: int
    steps: int
    weights: Path

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels."""
        return self.frames, self.side * PATCH, self.side * PATCH

    @property
    def grid(self) -> str:
        """The tokens of attention, as ``sparsecc.compile`` takes them."""
        return f"{WORDS}+{self.frames}x{self.side}x{self.side}"


def prompt_of(words: list[str]) -> Tensor:
    """Numbers of the words of a prompt [1, 3], whatever their order.

    Raises:
        ValueError: A word is unknown, missing or given twice.
    """
    numbers = []
    for known in VOCABULARY:
        found = [word for word in words if word in known]
        if len(found) != 1:
            raise ValueError(f"one word of {', '.join(known)} is needed, not {len(found)}")
        numbers.append(known.index(found[0]))
    if len(words) != len(VOCABULARY):
        unknown = set(words) - {word for known in VOCABULARY for word in known}
        raise ValueError(f"no such words: {', '.join(sorted(unknown))}")
    return torch.tensor([numbers])


def compiled(setup: Setup, attention: Attention, max_drop: float = MAX_DROP) -> sparsecc.Compiled:
    """The network as sparsecc compiles it for this machine and these videos.

    It is kept in :data:`COMPILED`, under a name that says what it was made of.

    Args:
        setup: What is to be drawn.
        attention: What it keeps of its scores.
        max_drop: What a search may lose.

    Raises:
        FileNotFoundError: The weights are missing.
        SparseccError: Too few steps for a search, for example.
    """
    model = trained(setup.weights)
    folder = COMPILED / _name(setup, attention, max_drop)
    if folder.exists():
        return sparsecc.load(folder)
    asked: dict[str, Any] = {"sparsity": "dense"}
    if attention is not Attention.DENSE:
        asked["attention"] = setup.grid
    if attention is Attention.ONLINE:
        asked["online"] = str(setup.steps)
    if attention is Attention.STATIC:
        found = calibration(compiled(setup, Attention.DENSE), setup)
        asked |= {"calibration": found, "max_drop": max_drop, "quality": "relative-error"}
    videos = torch.zeros(1, 3, *setup.size)
    example = videos, torch.ones(1), torch.zeros(1, len(VOCABULARY), dtype=torch.long)
    with bar(f"compiling, {TITLES[attention]}") as progress:
        made = sparsecc.compile(
            model,
            example_inputs=example,
            dynamic_shapes=({}, {}, {}),
            progress=progress,
            **asked,
        )
    made.save(folder)
    return made


def _name(setup: Setup, attention: Attention, max_drop: float) -> str:
    parts = {
        Attention.DENSE: "",
        Attention.STATIC: f"-{setup.steps}-{max_drop:g}",
        Attention.ONLINE: f"-{setup.steps}",
    }
    sizes = f"{setup.frames}x{setup.side}x{setup.side}"
    made_of = sparsecc.__version__.encode() + setup.weights.read_bytes()
    return f"{attention}-{sizes}{parts[attention]}-{hashlib.sha256(made_of).hexdigest()[:8]}"


def calibration(dense: sparsecc.Compiled, setup: Setup) -> dict[str, np.ndarray]:
    """Some calls of one sampling, evenly over its steps, each input with a call in each row."""
    inputs = list[dict[str, np.ndarray]]()
    velocity = velocity_of(dense)

    def kept(video: Tensor, time: Tensor, prompt: Tensor) -> Tensor:
        inputs.append({"video": video.numpy(), "time": time.numpy(), "prompt": prompt.numpy()})
        return velocity(video, time, prompt)

    drawn("what to search on", kept, prompt_of(CALIBRATION.split()), setup, CALIBRATION_SEED)
    ends = np.linspace(0, setup.steps, CALIBRATION_CALLS + 1)[1:]
    calls = [inputs[at] for at in np.unique(ends.astype(int) - 1) if at >= 0]
    return {name: np.concatenate([call[name] for call in calls]) for name in inputs[0]}


def velocity_of(model: sparsecc.Compiled | VideoDiT) -> flow.Velocity:
    """The network as one sampling calls it, from the first step to the last."""
    if isinstance(model, VideoDiT):
        return model
    called = model.steps() if model.manifest.state else model

    def velocity(video: Tensor, time: Tensor, prompt: Tensor) -> Tensor:
        result: Tensor = called(video=video, time=time, prompt=prompt)
        return result

    return velocity


def drawn(
    title: str, velocity: flow.Velocity, prompt: Tensor, setup: Setup, seed: int
) -> tuple[Tensor, float]:
    """One video [3, frames, height, width], and the seconds that it took."""
    begun, chance = time.perf_counter(), torch.Generator().manual_seed(seed)
    with bar(f"sampling, {title}") as progress, torch.inference_mode():
        video = flow.sample(
            velocity,
            prompt,
            setup.size,
            setup.steps,
            chance,
            lambda done: progress("denoising", done / setup.steps),
        )[0]
    return video, time.perf_counter() - begun


def pixels(video: Tensor) -> np.ndarray:
    """Frames [frames, height, width, 3] of a video [3, frames, height, width], 0 to 255."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
