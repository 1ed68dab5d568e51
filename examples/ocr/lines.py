"""Rendered text lines with exact labels: many faces, sizes, colours, slants, blur and noise."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from examples._text import Split, sentences, split_of

HEIGHT, WIDTH = 48, 320  # the recogniser's own input size
SUPERSAMPLED = 2  # lines are drawn this much larger than their size and reduced by the final resize
FONT_PACKAGES = (
    "font_caladea",
    "font_hanken_grotesk",
    "font_manrope",
    "font_source_sans_pro",
    "font_source_serif_pro",
)
UNREADABLE = ("ExtraLight", "Variable")  # hairlines vanish; variable fonts need a chosen axis


@cache
def fonts() -> tuple[Path, ...]:
    """Font files of the installed font packages.

    Raises:
        RuntimeError: None is installed.
    """
    specs = [importlib.util.find_spec(name) for name in FONT_PACKAGES]
    roots = [Path(root) for spec in specs if spec for root in spec.submodule_search_locations or ()]
    files = {path.stem: path for root in roots for path in sorted(root.glob("files/*.[ot]tf"))}
    chosen = [files[stem] for stem in sorted(files) if not any(u in stem for u in UNREADABLE)]
    if not chosen:
        raise RuntimeError("no fonts found; pip install 'sparsecc[examples]'")
    return tuple(chosen)


def _words(rng: np.random.Generator, split: Split) -> str:
    """One to three neighbouring words of a sentence, in a random case."""
    words = str(rng.choice(sentences(split))).rstrip(".").split()
    count = int(rng.integers(1, 4))
    start = int(rng.integers(0, len(words) - count + 1))
    text = " ".join(words[start : start + count])
    return (str, str.title, str.upper, str.lower)[int(rng.integers(4))](text)


def _number(rng: np.random.Generator, split: Split) -> str:
    a, b, c = (int(value) for value in rng.integers(1, (10_000, 29, 100)))
    forms = (
        f"${a:,}.{c:02d}",
        f"{1950 + c}-{1 + b % 12:02d}-{b:02d}",
        f"{b % 24:02d}:{c % 60:02d}",
        f"{a / 100:.1f} kg",
        f"{c}% of {a}",
        f"+44 {b:02d} {a:04d}",
    )
    return forms[int(rng.integers(len(forms)))]


def _code(rng: np.random.Generator, split: Split) -> str:
    letters = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZ"), 3))
    digits = int(rng.integers(100, 100_000))
    inside = f"{letters[:2]}{digits}{letters[2]}"
    forms = (f"{letters}-{digits}", f"No. {digits}", inside, f"Room {digits % 900}")
    return forms[int(rng.integers(len(forms)))]


def _label(rng: np.random.Generator, split: Split) -> str:
    """A label that belongs to `split` by its checksum."""
    kind = (_words, _words, _words, _number, _code)[int(rng.integers(5))]
    while split_of(text := kind(rng, split)) != split:
        pass
    return text


def _render(text: str, rng: np.random.Generator) -> Image.Image:
    """Draws `text` as a tightly cropped RGB picture of any width."""
    size = int(rng.integers(18, 49)) * SUPERSAMPLED
    font = ImageFont.truetype(str(rng.choice([str(path) for path in fonts()])), size)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    margin = int(size * rng.uniform(0.1, 0.3))
    ink, paper = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
    if rng.random() < 0.3:
        ink, paper = paper, ink
    background = tuple(int(value) for value in paper)
    canvas = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), background)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin - left, margin - top), text, tuple(int(value) for value in ink), font)
    angle = float(rng.uniform(-2, 2))
    canvas = canvas.rotate(angle, Image.Resampling.BICUBIC, fillcolor=background)
    canvas = canvas.resize(
        (max(1, canvas.width // SUPERSAMPLED), max(1, canvas.height // SUPERSAMPLED)),
        Image.Resampling.BILINEAR,
    )
    canvas = canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.9))))
    pixels = np.asarray(canvas, np.float64)
    noisy = pixels + rng.normal(0, rng.uniform(0, 14), pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def preprocess(picture: Image.Image) -> NDArray[np.float32] | None:
    """RGB picture → [3, 48, 320] as PP-OCR does it: BGR, in [-1, 1], zeros on the right.

    Returns:
        None where the line is too long for 320 columns.
    """
    width = -(-HEIGHT * picture.width // picture.height)
    if width > WIDTH:
        return None
    pixels = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    line = np.zeros((3, HEIGHT, WIDTH), np.float32)
    line[:, :, :width] = (pixels[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return line


def make_lines(count: int, seed: int, split: Split) -> tuple[NDArray[np.float32], list[str]]:
    """Renders lines of text.

    Args:
        count: How many lines.
        seed: Seed of text and looks.
        split: "calibration" or "test"; no label is in both, whatever the seeds.

    Returns:
        Pictures [count, 3, 48, 320] and their labels, all distinct.

    Raises:
        RuntimeError: No fonts are installed.
    """
    rng = np.random.default_rng(seed)
    pictures: dict[str, NDArray[np.float32]] = {}
    while len(pictures) < count:
        text = _label(rng, split)
        line = preprocess(_render(text, rng))
        if line is not None:
            pictures.setdefault(text, line)
    return np.stack(list(pictures.values())), list(pictures)
