"""Lines of text as inputs of a model: tokenised, cut, padded and named as the model has them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import CalibrationError
from sparsecc.progress import Progress
from sparsecc.quality.example_inputs import InputSpec, input_specs
from sparsecc.quality.samples.base import (
    BATCH,
    LIMIT,
    Batches,
    Drawn,
    Feed,
    Samples,
    check_limit,
    needed,
    spread,
    uncovered,
    unreadable,
)
from sparsecc.quality.samples.tables import table_rows

TOKENIZER = "tokenizer.json"
TOKENS = 128
"""The longest line in tokens, where neither model nor tokenizer sets a limit."""
_MOST_BYTES = 1 << 28
_LONGEST_LINE = 1 << 16

IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
_ROLES = (("mask", MASK), ("type", TYPES), ("segment", TYPES), ("position", POSITIONS))
"""Part of an input's name → what it takes; an input that has none of these takes token numbers."""

Line = Mapping[str, Sequence[int]]


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """A tokenizer.

    Attributes:
        encode: Lines and the most tokens of each → what it makes of them.
        pad: Token that fills up.
        longest: Most tokens that it makes, if it says so.
    """

    encode: Callable[[list[str], int], list[Line]]
    pad: int
    longest: int | None


def texts(
    file: str | os.PathLike[str], tokenizer: Any, *, tokens: int | None = None, limit: int = LIMIT
) -> Samples:
    """Lines of a text file (UTF-8), one sample each, as the inputs of a language model.

    The tokenizer's ``input_ids``, ``attention_mask`` and ``token_type_ids`` go to the inputs of
    these names, or of names that say mask, type, segment or position; an only other input takes the
    token numbers. Where the model leaves the length open, lines of like length share a
    batch, so that little is padded. Empty lines are left out.

    Args:
        file: The text.
        tokenizer: A ``tokenizer.json``, the folder it is in, or a tokenizer of transformers.
        tokens: The longest line, in tokens; by default what the tokenizer says, else 128. Lines are
            cut to it, and to what the model takes.
        limit: How many lines at most; of more, every so many-th.

    Raises:
        CalibrationError: When the samples are read: a file cannot be read, or the tokens are none
            of the model's.
    """

    def of(model: ir.Model, progress: Progress) -> Drawn:
        roles = _roles(input_specs(model))
        encoder = _encoder(tokenizer)
        fixed = _fixed_length(roles)
        most = fixed or tokens or encoder.longest or TOKENS
        lines = spread(_lines(Path(file)), limit)
        progress("reading text", 0.0)
        encoded = encoder.encode(lines, most)
        _check_tokens(encoded, model, roles)
        return _batches(encoded, roles, encoder.pad, fixed)

    check_limit(limit)
    return Samples(of)


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MB")
        found = [line.strip()[:_LONGEST_LINE] for line in file.read_text("utf-8").split("\n")]
    except (OSError, ValueError) as error:
        raise unreadable(file, "text file (UTF-8)", error) from error
    if not any(found):
        raise CalibrationError(f"{file} holds no text", fix="pass some hundred lines")
    return [line for line in found if line]


def _roles(specs: Sequence[InputSpec]) -> dict[str, tuple[str, InputSpec]]:
    """Name of each input → what it takes, and what it is.

    Raises:
        CalibrationError: One takes nothing that a tokenizer makes.
    """
    found: dict[str, tuple[str, InputSpec]] = {}
    for spec in specs:
        name = spec.name.lower()
        role = next((role for part, role in _ROLES if part in name), IDS)
        taken = any(role == other for other, _ in found.values())
        if len(spec.dims) != 2 or taken or (role == IDS and spec.dtype.kind not in "iu"):
            raise uncovered(spec, "tokenised lines")
        found[spec.name] = (role, spec)
    if not any(role == IDS for role, _ in found.values()):
        raise CalibrationError(
            f"no input of the model takes token numbers: {', '.join(map(str, specs)) or 'none'}",
            fix="text is for models with an input like int64[N, tokens]",
        )
    return found


def _fixed_length(roles: Mapping[str, tuple[str, InputSpec]]) -> int | None:
    return next((dim for _, spec in roles.values() if isinstance(dim := spec.dims[1], int)), None)


def _encoder(tokenizer: Any) -> _Encoder:
    if isinstance(tokenizer, (str, os.PathLike)):
        return _from_file(Path(tokenizer))
    if not callable(tokenizer):
        raise CalibrationError(
            f"a tokenizer is a {TOKENIZER} file or a transformers tokenizer, not a "
            f"{type(tokenizer).__name__}",
            fix=f"pass the path of the model's {TOKENIZER}",
        )

    def encode(lines: list[str], most: int) -> list[Line]:
        made = tokenizer(lines, truncation=True, max_length=most)
        return [{name: made[name][at] for name in made} for at in range(len(lines))]

    longest = int(getattr(tokenizer, "model_max_length", 0))
    pad = getattr(tokenizer, "pad_token_id", None)
    return _Encoder(encode, int(pad or 0), min(longest, TOKENS) if longest else None)


def _from_file(path: Path) -> _Encoder:
    """The tokenizer of a ``tokenizer.json``."""
    package = needed("tokenizers", "texts", "text")
    file = path / TOKENIZER if path.is_dir() else path
    try:
        made = package.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare exceptions
        raise unreadable(file, "tokenizer", error) from error
    said = made.truncation or {}
    pads = [made.token_to_id(token) for token in ("[PAD]", "<pad>", "<|endoftext|>")]
    pad = (made.padding or {}).get("pad_id", next((p for p in pads if p is not None), 0))
    made.no_padding()

    def encode(lines: list[str], most: int) -> list[Line]:
        made.enable_truncation(most)
        return [
            {IDS: each.ids, MASK: each.attention_mask, TYPES: each.type_ids}
            for each in made.encode_batch(lines)
        ]

    return _Encoder(encode, pad, said.get("max_length"))


def _check_tokens(
    encoded: Sequence[Line], model: ir.Model, roles: Mapping[str, tuple[str, InputSpec]]
) -> None:
    """That every token is a row of the table that the model looks it up in."""
    name = next(name for name, (role, _) in roles.items() if role == IDS)
    rows = table_rows(model).get(name)
    largest = max(max(line[IDS], default=0) for line in encoded)
    if rows is not None and largest >= rows:
        raise CalibrationError(
            f"the tokenizer makes the token {largest}, the model's input {name!r} knows {rows}",
            fix="pass the tokenizer that the model was trained with",
        )


def _batches(
    encoded: Sequence[Line],
    roles: Mapping[str, tuple[str, InputSpec]],
    pad: int,
    fixed: int | None,
) -> Drawn:
    """Lines as arrays: all of one length, or batches of about the same."""
    sizes = np.array([len(line[IDS]) for line in encoded])
    every = range(len(encoded))
    if fixed is not None:
        return _padded([encoded[at] for at in every], roles, pad, fixed)
    order = np.argsort(sizes, kind="stable")
    parts = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    feeds = (
        _padded([encoded[at] for at in part], roles, pad, max(1, int(sizes[part].max())))
        for part in parts
    )
    return Batches(tuple(feeds), order)


def _padded(
    lines: Sequence[Line], roles: Mapping[str, tuple[str, InputSpec]], pad: int, length: int
) -> Feed:
    feed: Feed = {}
    for name, (role, spec) in roles.items():
        array: NDArray[Any] = np.full((len(lines), length), pad if role == IDS else 0, spec.dtype)
        for row, line in zip(array, lines, strict=True):
            row[: len(line[IDS])] = _values(role, line)
        if role == POSITIONS:
            array[:] = np.arange(length)
        feed[name] = array
    return feed


def _values(role: str, line: Line) -> Sequence[int] | int:
    """What a line gives an input, a number for each token."""
    if role in line:
        return line[role]
    return 1 if role == MASK else 0


__all__ = ["TOKENIZER", "texts"]
