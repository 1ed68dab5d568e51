"""A small ensemble of regression trees, as plain numbers: fitted by scikit-learn, used without."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import pydantic
from numpy.typing import NDArray

from sparsecc.errors import BackendError

if TYPE_CHECKING:
    from sklearn.ensemble import GradientBoostingRegressor

Floats = NDArray[np.float64]

MOST_TREES, MOST_NODES, MOST_FEATURES = 400, 127, 64
_DIGITS = 6

Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Index = Annotated[int, pydantic.Field(ge=0, lt=MOST_NODES)]
Numbers = Annotated[tuple[Number, ...], pydantic.Field(max_length=MOST_NODES)]
Indices = Annotated[tuple[Index, ...], pydantic.Field(max_length=MOST_NODES)]


class Tree(pydantic.BaseModel):
    """Nodes of a tree, the root first, children behind their parents.

    Attributes:
        feature: What a node looks at.
        threshold: Up to this it goes left.
        left, right: The nodes it goes to; 0 in a leaf.
        value: What a leaf says.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    feature: Indices
    threshold: Numbers
    left: Indices
    right: Indices
    value: Numbers

    @pydantic.model_validator(mode="after")
    def _ends(self) -> Tree:
        count = len(self.value)
        if not count or {len(self.feature), len(self.threshold), len(self.left)} != {count}:
            raise ValueError("its lists differ in length, or are empty")
        if len(self.right) != count:
            raise ValueError("its lists differ in length")
        for at, children in enumerate(zip(self.left, self.right, strict=True)):
            if children != (0, 0) and not all(at < child < count for child in children):
                raise ValueError(f"node {at} goes to {children}")
        return self


class _Stacked(NamedTuple):
    """The nodes of all trees, one row per tree."""

    feature: NDArray[np.intp]
    threshold: Floats
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    value: Floats
    depth: int


class Ensemble(pydantic.BaseModel):
    """A sum of trees.

    Attributes:
        features: How many numbers it looks at.
        first: What is added to the trees.
        trees: They.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    features: Annotated[int, pydantic.Field(ge=1, le=MOST_FEATURES)]
    first: Number
    trees: Annotated[tuple[Tree, ...], pydantic.Field(max_length=MOST_TREES)]

    @pydantic.model_validator(mode="after")
    def _looks_inside(self) -> Ensemble:
        if any(max(tree.feature) >= self.features for tree in self.trees):
            raise ValueError("a tree looks at a feature that there is not")
        return self

    def predict(self, x: Floats) -> Floats:
        """Values of rows ``x[n, features]``, ``[n]``."""
        out = np.full(len(x), self.first)
        if not self.trees:
            return out
        nodes = self._nodes
        seen = x.astype(np.float32).astype(np.float64)  # as scikit-learn looks at it
        every, rows = np.arange(len(self.trees))[None, :], np.arange(len(x))[:, None]
        at = np.zeros((len(x), len(self.trees)), np.intp)
        for _ in range(nodes.depth):
            left = seen[rows, nodes.feature[every, at]] <= nodes.threshold[every, at]
            after = np.where(left, nodes.left[every, at], nodes.right[every, at])
            at = np.where(after, after, at)
        return np.asarray(out + nodes.value[every, at].sum(axis=1))

    @functools.cached_property
    def _nodes(self) -> _Stacked:
        shape = (len(self.trees), max(len(tree.value) for tree in self.trees))

        def stacked(name: str, dtype: type) -> NDArray[Any]:
            out: NDArray[Any] = np.zeros(shape, dtype)
            for row, tree in zip(out, self.trees, strict=True):
                row[: len(tree.value)] = getattr(tree, name)
            return out

        return _Stacked(
            stacked("feature", np.intp),
            stacked("threshold", np.float64),
            stacked("left", np.intp),
            stacked("right", np.intp),
            stacked("value", np.float64),
            max(map(_depth, self.trees)),
        )


def _depth(tree: Tree) -> int:
    depth = [0] * len(tree.value)
    for at, (left, right) in enumerate(zip(tree.left, tree.right, strict=True)):
        for child in (left, right):
            depth[child] = depth[at] + 1 if child else 0
    return max(depth)


class Size(NamedTuple):
    """Of an ensemble: trees, leaves of each, and the share of the rest that one takes."""

    trees: int
    leaves: int
    rate: float


def fit(x: Floats, y: Floats, size: Size, seed: int = 0) -> Ensemble:
    """An ensemble that tells ``y[n]`` from ``x[n, features]``.

    Raises:
        BackendError: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise BackendError(
            "fitting a calibration needs scikit-learn", fix="pip install 'sparsecc[calibrate]'"
        ) from error
    found = GradientBoostingRegressor(
        loss="huber",
        alpha=0.95,
        n_estimators=size.trees,
        learning_rate=size.rate,
        max_leaf_nodes=size.leaves,
        max_depth=None,
        min_samples_leaf=4,
        subsample=0.7,
        random_state=seed,
    ).fit(x, y)
    return _ensemble(found, x.shape[1], size.rate)


def _ensemble(found: GradientBoostingRegressor, features: int, rate: float) -> Ensemble:
    origin = np.zeros((1, features))
    first = float(found._raw_predict_init(origin)[0, 0])
    grown = [each.tree_ for each in found.estimators_[:, 0]]
    return Ensemble(features=features, first=first, trees=tuple(_tree(t, rate) for t in grown))


def _tree(grown: Any, rate: float) -> Tree:
    leaf = grown.children_left < 0
    return Tree(
        feature=_whole(np.where(leaf, 0, grown.feature)),
        threshold=_rounded(np.where(leaf, 0, grown.threshold)),
        left=_whole(np.where(leaf, 0, grown.children_left)),
        right=_whole(np.where(leaf, 0, grown.children_right)),
        value=_rounded(np.where(leaf, grown.value[:, 0, 0] * rate, 0)),
    )


def _whole(numbers: Sequence[int] | NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _rounded(numbers: Sequence[float] | NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(f"{number:.{_DIGITS}g}") for number in numbers)
