"""Calibration data: sample inputs of a model, checked against it and cut into batches.

Every fifth batch is held out: statistics come from the others, and whether a change of the
weights helped is judged on the held-out ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from sparsecc.errors import CalibrationError
from sparsecc.quality.samples import read_source
from sparsecc.quality.samples.base import BATCH, Batches, Samples
from sparsecc.quality.samples.base import Feed as Feed

Source = (
    str
    | os.PathLike[str]
    | Samples
    | Batches
    | Mapping[str, ArrayLike]
    | Iterable[Mapping[str, ArrayLike]]
)
"""A place on disk (:func:`sparsecc.quality.samples.open_source`), samples still to be read, a
mapping of name → array with the samples along axis 0, or batches of feeds."""

HELD_OUT_EVERY = 5
SEARCH_HELD_OUT_EVERY = 2
"""A search judges whole models on what is held out, and needs more of it."""
TRAIN_SAMPLES, HELD_OUT_SAMPLES = 384, 128
"""Samples that statistics of layers come from, where more would take long."""
LONG = 1e11
"""Multiply-adds of a model from which on they take long."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Checked batches of a model's inputs.

    Attributes:
        train: Batches the layer statistics are taken from; never empty.
        held_out: Batches that judge; empty when there is only one batch in all.
        labels: What the held-out batches should give, one array each, if the user said.
        train_labels: What the training batches should give.
    """

    train: tuple[Feed, ...]
    held_out: tuple[Feed, ...]
    labels: tuple[NDArray[Any], ...] | None = None
    train_labels: tuple[NDArray[Any], ...] | None = None

    @property
    def batches(self) -> tuple[Feed, ...]:
        """All batches, the training ones first."""
        return self.train + self.held_out

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        digest = hashlib.sha256(f"{len(self.train)} {len(self.held_out)}".encode())
        for name, array in (pair for feed in self.batches for pair in feed.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        for truth in (*(self.train_labels or ()), *(self.labels or ())):
            digest.update(repr(truth.tolist()).encode())
        return digest.hexdigest()

    def for_statistics(self, macs: float) -> Calibration:
        """As many of the batches as statistics of layers need.

        Args:
            macs: Multiply-adds of the model for one sample.
        """
        quick = int(LONG / max(macs, 1.0))
        return Calibration(
            first(self.train, max(TRAIN_SAMPLES, quick)),
            first(self.held_out, max(HELD_OUT_SAMPLES, quick)),
        )


def count_samples(feed: Feed) -> int:
    """Samples in one batch: the longest first dimension."""
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def first(feeds: Sequence[Feed], samples: int) -> tuple[Feed, ...]:
    """The first batches that hold so many samples between them."""
    before = itertools.accumulate(map(count_samples, feeds), initial=0)
    return tuple(feed for feed, seen in zip(feeds, before, strict=False) if seen < samples)


def load_calibration(
    source: Source,
    model: ir.Model,
    *,
    labels: ArrayLike | Sequence[ArrayLike] | None = None,
    held_out_every: int = HELD_OUT_EVERY,
) -> Calibration:
    """Read calibration data and check it against the inputs of ``model``.

    A mapping (or .npz file) holds all samples along axis 0 of every array and is cut into
    batches here; inputs of rank 0 are given to every batch. An iterable of mappings is taken as
    batches, each passed to the model as it is.

    Args:
        source: The data.
        model: What it is for.
        labels: What the samples should give: one entry along axis 0 per sample, or one array for
            each batch of an iterable.
        held_out_every: One batch of so many is held out.

    Raises:
        CalibrationError: Names, dtypes, ranks, fixed dimensions or counts do not fit, or values
            are not finite; names the input, what was expected and what came.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    given: Batches | Mapping[str, ArrayLike] | Iterable[Mapping[str, ArrayLike]]
    given = read_source(source, model)
    if isinstance(given, Batches):
        feeds = [_checked(feed, inputs, batch_axis=False) for feed in given.feeds]
        truth = None if labels is None else _labels_in_order(np.asarray(labels), given)
    elif isinstance(given, Mapping):
        feeds = _cut(_checked(given, inputs, batch_axis=True), inputs)
        truth = None if labels is None else _cut_labels(np.asarray(labels), given, feeds)
    else:
        feeds = [_checked(feed, inputs, batch_axis=False) for feed in given]
        truth = None if labels is None else _labels_of_batches(labels, feeds)
    if not feeds:
        raise CalibrationError("the calibration data is empty", fix="pass at least one sample")
    every = min(held_out_every, len(feeds)) if len(feeds) > 1 else len(feeds) + 1
    held = [number % every == every - 1 for number in range(len(feeds))]
    return Calibration(
        train=tuple(itertools.compress(feeds, map(operator.not_, held))),
        held_out=tuple(itertools.compress(feeds, held)),
        labels=None if truth is None else tuple(itertools.compress(truth, held)),
        train_labels=None
        if truth is None
        else tuple(itertools.compress(truth, map(operator.not_, held))),
    )


def _checked(
    feed: Mapping[str, ArrayLike], inputs: Mapping[str, ir.Value], *, batch_axis: bool
) -> Feed:
    """``feed`` as arrays, in the order of the model's inputs."""
    if not isinstance(feed, Mapping):
        raise CalibrationError(
            f"a calibration batch is a {type(feed).__name__}, not a mapping",
            fix=f"pass mappings with the keys {_listed(inputs)}",
        )
    _check_names(feed, inputs)
    return {
        name: _check_array(name, np.asarray(feed[name]), value, batch_axis=batch_axis)
        for name, value in inputs.items()
    }


def _check_names(feed: Mapping[str, object], inputs: Mapping[str, ir.Value]) -> None:
    fix = f"the model's inputs are {_listed(inputs)}"
    if missing := [name for name in inputs if name not in feed]:
        raise CalibrationError(f"calibration data lacks the input {missing[0]!r}", fix=fix)
    if unknown := [name for name in feed if name not in inputs]:
        raise CalibrationError(
            f"calibration data has {unknown[0]!r}, which is no input of the model", fix=fix
        )


def _check_array(
    name: str, array: NDArray[Any], value: ir.Value, *, batch_axis: bool
) -> NDArray[Any]:
    if value.dtype is not None and value.dtype != ir.DataType.STRING:
        expected = value.dtype.numpy()
        if array.dtype != expected:
            raise CalibrationError(
                f"calibration input {name!r} has dtype {array.dtype}, the model wants {expected}",
                fix=f"convert it with .astype(numpy.{expected})",
            )
    if array.size == 0:
        raise CalibrationError(
            f"calibration input {name!r} is empty (shape {list(array.shape)})",
            fix="pass at least one sample",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(
            f"calibration input {name!r} holds NaN or infinity",
            fix="leave out or mend the samples concerned",
        )
    _check_shape(name, array, value, first_fixed=1 if batch_axis else 0)
    return array


def _check_shape(name: str, array: NDArray[Any], value: ir.Value, *, first_fixed: int) -> None:
    if value.shape is None:
        return
    wanted = [dim if isinstance(dim, int) else str(dim.value or "?") for dim in value.shape]
    fits = len(wanted) == array.ndim and all(
        not isinstance(want, int) or axis < first_fixed or want == got
        for axis, (want, got) in enumerate(zip(wanted, array.shape, strict=True))
    )
    if not fits:
        shown = ["samples", *wanted[1:]] if first_fixed and wanted else wanted
        raise CalibrationError(
            f"calibration input {name!r} has shape {list(array.shape)}, the model wants "
            f"[{', '.join(map(str, shown))}]",
            fix="the samples go along axis 0, the other dimensions as the model declares them",
        )


def _cut(arrays: Feed, inputs: Mapping[str, ir.Value]) -> list[Feed]:
    """Cut samples along axis 0 into batches of the size the model fixes, or of about BATCH."""
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(counts.values())) > 1:
        raise CalibrationError(
            f"calibration inputs disagree on the number of samples: {counts}",
            fix="give every input the same length along axis 0, or pass batches one by one",
        )
    samples = next(iter(counts.values()), 1)
    sizes = {name: _fixed_batch(inputs[name]) for name in counts}
    fixed = {size for size in sizes.values() if size is not None}
    if len(fixed) > 1:
        raise CalibrationError(
            f"the model fixes different first dimensions for its inputs: {sizes}",
            fix="pass batches one by one: a list of mappings, each as the model takes it",
        )
    size = fixed.pop() if fixed else min(BATCH, -(-samples // HELD_OUT_EVERY))
    stop = samples - samples % size if fixed or size in sizes.values() else samples
    if stop == 0:
        raise CalibrationError(
            f"{samples} calibration samples, but the model takes batches of {size}",
            fix=f"pass at least {size} samples, or export the model with a dynamic batch",
        )
    return [
        {name: array[at : at + size] if array.ndim else array for name, array in arrays.items()}
        for at in range(0, stop, size)
    ]


def _cut_labels(
    labels: NDArray[Any], source: Mapping[str, ArrayLike], feeds: Sequence[Feed]
) -> list[NDArray[Any]]:
    """Labels of the samples, cut like them."""
    samples = count_samples({name: np.asarray(array) for name, array in source.items()})
    return _split_labels(labels, samples, feeds)


def _labels_in_order(labels: NDArray[Any], source: Batches) -> list[NDArray[Any]]:
    """Labels of the samples, one each in the order of their source, as the batches have them."""
    samples = len(source.order)
    return _split_labels(labels, samples, source.feeds, source.order)


def _split_labels(
    labels: NDArray[Any],
    samples: int,
    feeds: Sequence[Feed],
    order: NDArray[np.intp] | slice = slice(None),
) -> list[NDArray[Any]]:
    if labels.ndim == 0 or len(labels) != samples:
        raise CalibrationError(
            f"labels of shape {list(labels.shape)} for {samples} calibration samples",
            fix="pass one label for each sample, along axis 0",
        )
    sizes = [count_samples(feed) for feed in feeds]
    return np.split(labels[order][: sum(sizes)], np.cumsum(sizes)[:-1])


def _labels_of_batches(
    labels: ArrayLike | Sequence[ArrayLike], feeds: Sequence[Feed]
) -> list[NDArray[Any]]:
    given = [np.asarray(each) for each in labels] if isinstance(labels, Sequence) else []
    if len(given) != len(feeds):
        raise CalibrationError(
            f"labels of {len(given)} batches for {len(feeds)} calibration batches",
            fix="pass a list with one array of labels for each batch",
        )
    return given


def _fixed_batch(value: ir.Value) -> int | None:
    if value.shape is None or not len(value.shape):
        return None
    first = value.shape[0]
    return first if isinstance(first, int) else None


def _listed(names: Iterable[str]) -> str:
    shown: Sequence[str] = [repr(name) for name in names]
    return ", ".join(shown) or "none"
