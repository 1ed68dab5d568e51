"""Benchmark models as text: one layer per line, parsed into `Layer` records.

A line is `<op> <name> [<argument>] [key=value ...]`; `#` starts a comment. A layer reads the layer
above it unless `from=a,b` says otherwise. `conv` and `linear` take the number of outputs (`dw` =
depthwise), `input` a shape such as `1x3x224x224`. The operations are the keys of
`benchmarks.build.OPS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Layer:
    """One line of a model file.

    Attributes:
        op: Operation, a key of `benchmarks.build.OPS`.
        name: Unique layer name; also the name of its ONNX node and output.
        argument: Positional argument ("" when there is none): outputs, heads or a shape.
        inputs: Names of the layers read.
        options: The `key=value` pairs.
    """

    op: str
    name: str
    argument: str = ""
    inputs: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)

    def number(self, key: str, default: int) -> int:
        """Integer option `key`, or `default`."""
        return int(self.options.get(key, default))


def parse(text: str) -> list[Layer]:
    """Parses a model file.

    Raises:
        ValueError: A line is incomplete, repeats a name or reads a layer that does not exist.
    """
    layers: list[Layer] = []
    known: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) < 2:
            raise ValueError(f"line {number}: expected '<op> <name> ...', got {line!r}")
        op, name, *rest = words
        argument = rest.pop(0) if rest and "=" not in rest[0] else ""
        options = dict(word.split("=", 1) for word in rest)
        above = layers[-1].name if layers and op != "input" else ""
        inputs = tuple(options.pop("from", above).split(",")) if op != "input" else ()
        if name in known or (missing := set(inputs) - known):
            problem = f"{name!r} is defined twice" if name in known else f"unknown {missing}"
            raise ValueError(f"line {number}: {problem}")
        known.add(name)
        layers.append(Layer(op, name, argument, inputs, options))
    return layers


def load(name: str) -> list[Layer]:
    """Layers of `benchmarks/models/<name>.txt`.

    Raises:
        ValueError: There is no such model.
    """
    path = MODELS / f"{name}.txt"
    if not path.is_file():
        raise ValueError(f"no benchmark model {name!r}; choose from {', '.join(names())}")
    return parse(path.read_text())


def reads_pictures(layers: list[Layer]) -> bool:
    """Whether the input is [batch, channels, height, width]."""
    return layers[0].argument.count("x") == 3


def names() -> list[str]:
    """Names of all benchmark models."""
    return sorted(path.stem for path in MODELS.glob("*.txt"))


def shrink(layers: list[Layer], width: float, size: int) -> list[Layer]:
    """A small twin for tests: the same graph, thinner and on a smaller input.

    Args:
        layers: A parsed model.
        width: Factor on the channels of every layer whose output count is a multiple of 8 and that
            is not marked `fixed=1` (classifiers); results are rounded to multiples of 8.
        size: New height and width of a picture, new token count of a text.
    """

    def thinner(layer: Layer) -> Layer:
        if layer.op == "input":
            *lead, _ = layer.argument.split("x")
            picture = len(lead) == 3
            shape = [*lead[:-1], str(size), str(size)] if picture else [*lead, str(size)]
            return replace(layer, argument="x".join(shape))
        scalable = layer.op in {"conv", "linear", "embed"} and layer.argument.isdigit()
        if not scalable or "fixed" in layer.options or int(layer.argument) % 8:
            return layer
        return replace(layer, argument=str(max(8, round(int(layer.argument) * width / 8) * 8)))

    return [thinner(layer) for layer in layers]
