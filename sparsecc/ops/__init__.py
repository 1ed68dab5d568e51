"""The ops of the ``sparsecc`` domain. One file per op; each is declared once.

A declaration (:class:`~sparsecc.ops.spec.OpSpec`) gives schema, shape inference, the portable
body in standard ops and the numpy meaning; the packed weight is shared by all.
"""

from sparsecc.ops.activations import ACTIVATIONS
from sparsecc.ops.packed import initializer, packed_arrays, read_packed
from sparsecc.ops.registry import (
    SPECS,
    attach_functions,
    attributes_of,
    check_node,
    evaluate,
    function,
    infer_shape,
    input_names,
    is_region,
    is_sparse,
    region_functions,
    schema,
    spec_of,
)
from sparsecc.ops.spec import Call, OpSpec
from sparsecc.ops.variants import BASES, DOMAIN, REGION, VARIANTS, VERSION, Variant, parse, variant

__all__ = [
    "ACTIVATIONS",
    "BASES",
    "DOMAIN",
    "REGION",
    "SPECS",
    "VARIANTS",
    "VERSION",
    "Call",
    "OpSpec",
    "Variant",
    "attach_functions",
    "attributes_of",
    "check_node",
    "evaluate",
    "function",
    "infer_shape",
    "initializer",
    "input_names",
    "is_region",
    "is_sparse",
    "packed_arrays",
    "parse",
    "read_packed",
    "region_functions",
    "schema",
    "spec_of",
    "variant",
]
