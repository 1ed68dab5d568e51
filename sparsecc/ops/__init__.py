"""The ops of the ``sparsecc`` domain. One file per op; each is declared once.

A declaration (:class:`~sparsecc.ops.spec.OpType`) gives schema, check, shape inference and the
portable body in standard ops; layers (:class:`~sparsecc.ops.spec.LayerSpec`) share the packed
weight.
"""

from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.ops.attention_blocks import SEARCH, next_blocks
from sparsecc.ops.attention_parts import UNBOUNDED
from sparsecc.ops.block_sparse_attention import (
    ATTENTIONS,
    LEAST_SCORE,
    RULE,
    attend,
    rule_of,
)
from sparsecc.ops.block_sparse_attention import variant as attention_variant
from sparsecc.ops.layers import attributes_of, evaluate, spec_of
from sparsecc.ops.moe import MIXTURES, ROUTED, mixture, moe_variant
from sparsecc.ops.packed import initializer, packed_arrays, read_packed
from sparsecc.ops.registry import (
    OP_TYPES,
    attach_functions,
    check_node,
    function,
    infer_shape,
    input_names,
    is_attention,
    is_mixture,
    is_ours,
    is_packed_mixture,
    is_region,
    is_search,
    is_sparse,
    output_type,
    region_functions,
    schema,
)
from sparsecc.ops.sparse_moe import (
    PACKED_MIXTURES,
    bits_of,
    packed_mixture,
    parse_mixture,
    parts_of,
    sparse_moe_variant,
)
from sparsecc.ops.spec import Call, LayerSpec, OpType
from sparsecc.ops.variants import BASES, DOMAIN, REGION, VARIANTS, VERSION, Variant, parse, variant

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "BASES",
    "DOMAIN",
    "LEAST_SCORE",
    "MIXTURES",
    "OP_TYPES",
    "PACKED_MIXTURES",
    "REGION",
    "ROUTED",
    "RULE",
    "SEARCH",
    "UNBOUNDED",
    "VARIANTS",
    "VERSION",
    "Call",
    "LayerSpec",
    "OpType",
    "Variant",
    "attach_functions",
    "attend",
    "attention_variant",
    "attributes_of",
    "bits_of",
    "check_node",
    "evaluate",
    "function",
    "infer_shape",
    "initializer",
    "input_names",
    "is_attention",
    "is_mixture",
    "is_ours",
    "is_packed_mixture",
    "is_region",
    "is_search",
    "is_sparse",
    "mixture",
    "moe_variant",
    "next_blocks",
    "output_type",
    "packed_arrays",
    "packed_mixture",
    "parse",
    "parse_mixture",
    "parts_of",
    "read_packed",
    "region_functions",
    "rule_of",
    "schema",
    "sparse_moe_variant",
    "spec_of",
    "variant",
]
