"""Launches that multiply by codes of four bits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.recipe import Given, Recipe, Step
from sparsecc.backends.cuda.rows.groups import FEW, ROWS, STEP, codes_name, tokens_of
from sparsecc.backends.cuda.steps import UNPACKED, parts_of, sum_of
from sparsecc.backends.cuda.table import KERNELS


def recipe_of(
    product: Product,
    group: int,
    programs: int,
    few: Mapping[str, str],
    many: Mapping[str, str],
) -> Recipe:
    """A few tokens are multiplied by codes as they are read, more by tiles made from them.

    In tiles weights are rounded to the element type of X.

    Args:
        product: Which one.
        group: Inputs of a group.
        programs: Of a kernel for few tokens.
        few: Indices that this kernel reads beside codes and words, and their tensors.
        many: Those of the kernel that makes tiles.
    """
    tokens, rows = product.tokens, product.rows
    kernel = KERNELS[codes_name(product.dtype, group, tokens_of(tokens))]
    given: dict[str, Given] = {name: name for name in ("X", "Codes", "Words", "Out")}
    given |= {name: getattr(product, name) for name in ("tokens", "rows", "columns")}
    if tokens <= FEW:
        return Recipe((Step(kernel, (programs,), {**given, **few}),))
    wide = kernel.constants["TOKENS"]
    tiles = math.ceil(rows / ROWS), math.ceil(tokens / wide)
    steps, read = math.ceil(product.columns / STEP), UNPACKED * ROWS * product.columns
    splits = parts_of(product, tiles, wide, steps, read)
    parts = (splits, tokens, rows) if splits > 1 else (1,)
    given |= {"Parts": "Parts", "splits": splits, **many}
    step = Step(kernel, (*tiles, splits), given)
    return Recipe((step, *sum_of(product, splits)), {"Parts": ("float32", parts)})
