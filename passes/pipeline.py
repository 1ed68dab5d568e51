"""The one place that says which passes run, and in which order."""

from __future__ import annotations

from sparsecc.passes.attention.constant_masks import ConstantMasks
from sparsecc.passes.base import Pass
from sparsecc.passes.canonicalize.batch_norm_folding import BatchNormFolding
from sparsecc.passes.canonicalize.common_subexpressions import CommonSubexpressions
from sparsecc.passes.canonicalize.constant_folding import ConstantFolding
from sparsecc.passes.canonicalize.dead_code import DeadCode
from sparsecc.passes.canonicalize.explicit_pads import ExplicitPads
from sparsecc.passes.canonicalize.gemm import GemmNormalization
from sparsecc.passes.canonicalize.hard_sigmoid import HardSigmoidForm
from sparsecc.passes.canonicalize.identity_elimination import IdentityElimination
from sparsecc.passes.canonicalize.inline_functions import InlineFunctions
from sparsecc.passes.canonicalize.input_scale_folding import InputScaleFolding
from sparsecc.passes.canonicalize.known_sizes import KnownSizes
from sparsecc.passes.canonicalize.lower_contrib import LowerContrib
from sparsecc.passes.canonicalize.lower_opset import LowerOpset
from sparsecc.passes.canonicalize.reshape_sizes import ReshapeSizes
from sparsecc.passes.canonicalize.scale_folding import ScaleFolding
from sparsecc.passes.canonicalize.shape_inference import ShapeInference
from sparsecc.passes.canonicalize.sink_views import SinkViews
from sparsecc.passes.fuse.activation import Activation
from sparsecc.passes.fuse.residual_add import ResidualAdd
from sparsecc.passes.fuse.sparse_bias import SparseBias
from sparsecc.passes.moe.recognise import Mixtures
from sparsecc.passes.quantize.to_int8 import ToInt8
from sparsecc.passes.regions.own_views import OwnViews

EXACT_BEFORE: tuple[Pass, ...] = (
    InlineFunctions(),  # first: the layers inside functions are seen by every later pass
    ShapeInference(),  # before lowering: heads and ranks of an Attention are in its shapes
    LowerContrib(),  # with lowering, for the same reasons
    LowerOpset(),  # before all that folds: it writes shape arithmetic down
    IdentityElimination(),  # before folding: an Identity would hide a weight from its layer
    ShapeInference(),  # before folding: a known shape turns shape arithmetic into constants
    ConstantFolding(),  # before all that match constants: weights are then plain initializers
    CommonSubexpressions(),  # after folding: equal constants are told apart no more
    ShapeInference(),  # again: folded shapes make more shapes known, and pads need sizes
    KnownSizes(),  # after folding, which knows no open sizes: what it leaves may be numbers
    ConstantFolding(),  # again: scales that were computed from such sizes
    ReshapeSizes(),  # after folding: what is left of shape arithmetic depends on open sizes
    Mixtures(),  # after the sizes are known, before views of tokens move into experts
    DeadCode(),  # at once: what a mixture was made of has no layers that others should find
    SinkViews(),  # after reshape sizes, so that a view's dimensions are known
    ExplicitPads(),  # before input-scale folding, which asks whether a convolution pads
    GemmNormalization(),  # before BN folding: its bias is then one number per output
    BatchNormFolding(),  # after folding: scale and variance are constants by now
    HardSigmoidForm(),  # before scale folding, which takes the slope into the layer
    ScaleFolding(),  # after BN folding: Conv + BN + Mul + Add then collapses as well
    InputScaleFolding(),  # after scale folding: what could join the layer before it has done so
    DeadCode(),  # last: drops what the rewrites left behind
)
"""Canonical form, before any weight is looked at."""

EXACT_AFTER: tuple[Pass, ...] = (
    ConstantMasks(),  # first: the shapes of what it writes are then known to all others
    ShapeInference(),  # the fusions below need to know that two shapes are equal
    SparseBias(),  # before the residual: a bias can join a sparse op only while nothing follows
    ResidualAdd(),  # before the activation, which applies to the sum
    Activation(),  # after these two: a sparse op with an activation takes nothing more
    ToInt8(),  # anywhere here: it takes layers that are quantized, the others those that are not
    OwnViews(),  # anywhere here: a search of blocks and its attention are then steps of their own
    DeadCode(),  # last: dense weights that became sparse ones are gone from here on
)
"""Attention over kept blocks, and fusion into the sparse ops, once there are any."""
