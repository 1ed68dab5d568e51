"""Launches that multiply by codes of four bits."""

from __future__ import annotations

from collections.abc import Mapping

from sparsecc.backends.cuda.forms.base import Product
from sparsecc.backends.cuda.recipe import Given, Recipe, Step
from sparsecc.backends.cuda.rows.groups import FEW, ROWS, STEP, codes_name, tokens_of
from sparsecc.backends.cuda.steps import UNPACKED, by_name, tiled
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
    kernel = KERNELS[codes_name(product.dtype, group, tokens_of(product.tokens))]
    codes = by_name(("Codes", "Words"))
    if product.tokens > FEW:
        tile = ROWS, kernel.constants["TOKENS"]
        return tiled(product, kernel, {**codes, **many}, tile, STEP, UNPACKED)
    given: dict[str, Given] = {**by_name(("X", "Out")), **codes, **few}
    given |= {name: getattr(product, name) for name in ("tokens", "rows", "columns")}
    return Recipe((Step(kernel, (programs,), given),))
