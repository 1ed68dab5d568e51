"""Sparse training and attention of torch modules, and models of the IR in torch.

Needs the extra ``torch``.
"""

try:
    import torch as _torch  # noqa: F401 - only to say clearly that it is missing
except ImportError as error:
    from sparsecc.errors import ModelError

    raise ModelError(
        "sparsecc.torch needs torch, which is not installed",
        fix="pip install 'sparsecc[torch]'",
    ) from error

from sparsecc.torch.fisher import fisher
from sparsecc.torch.interpreter import Interpreter
from sparsecc.torch.masking import apply_masks, masks, plan_masks, remove_masks
from sparsecc.torch.online_attention import OnlineAttention, Steps
from sparsecc.torch.optimize import optimize
from sparsecc.torch.precision import fast_products
from sparsecc.torch.relufier import Relufier
from sparsecc.torch.schedules import Dynamic, Gradual, Progressive, SrSte
from sparsecc.torch.soups import greedy_soup, soup
from sparsecc.torch.sparse_experts import SparseExperts
from sparsecc.torch.sparse_ift import sparse_flops, sparse_ift
from sparsecc.torch.sparse_layers import LayerChoice, sparse_layers
from sparsecc.torch.sparse_linear import SparseLinear
from sparsecc.torch.sparsifier import Sparsifier
from sparsecc.torch.tile_attention import TileAttention

__all__ = [
    "Dynamic",
    "Gradual",
    "Interpreter",
    "LayerChoice",
    "OnlineAttention",
    "Progressive",
    "Relufier",
    "SparseExperts",
    "SparseLinear",
    "Sparsifier",
    "SrSte",
    "Steps",
    "TileAttention",
    "apply_masks",
    "fast_products",
    "fisher",
    "greedy_soup",
    "masks",
    "optimize",
    "plan_masks",
    "remove_masks",
    "soup",
    "sparse_flops",
    "sparse_ift",
    "sparse_layers",
]
