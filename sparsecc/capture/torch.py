"""Capture of torch models by torch.export and torch's ONNX exporter; torch is imported late."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from sparsecc.capture import experts, weights
from sparsecc.errors import ModelError
from sparsecc.passes import names

if TYPE_CHECKING:
    import torch

OPSET = 23
"""From here on scaled_dot_product_attention stays one `Attention` node."""

Tree = Any
"""Tensors in nested lists, tuples and mappings."""

_NOISY_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
_WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
_REASON_LENGTH = 300


def capture_torch(
    model: torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Tree = None,
) -> ir.Model:
    """Export a torch model to the IR, in evaluation mode.

    The module itself is left as it is. Inputs are named as the arguments of `forward`; every
    node is named by the path of its module, such as "encoder.layer.0.attention.self.query".

    Args:
        model: A module (also an FX GraphModule) or an ExportedProgram.
        example_inputs: Arguments of one call (torch tensors or numpy arrays), by position or,
            in a mapping, by name. An ExportedProgram brings its own.
        dynamic_shapes: Which dimensions vary, as `torch.export.export` takes it. Default: the
            first dimension of every input as far as the model allows, nothing else.

    Raises:
        ModelError: torch is absent, the example inputs are missing or torch cannot export the
            model, with its short reason.
    """
    torch = _import_torch()
    with _quiet(), torch.no_grad():
        if isinstance(model, torch.export.ExportedProgram):
            exported = _to_ir(model, model)
        else:
            args, kwargs = _arguments(example_inputs)
            with _evaluation_mode(model):
                exported = _exported(model, args, kwargs, dynamic_shapes)
    weights.check_finite(exported)
    _name_batch(exported)
    _name_by_module(exported)
    names.name_nodes(exported)
    # Stack traces and file names of the exporting machine would make every artifact different.
    rewritten = exported.metadata_props.get(experts.REWRITTEN)
    common.ClearMetadataAndDocStringPass()(exported)
    if rewritten:
        exported.metadata_props[experts.REWRITTEN] = rewritten
    return exported


def _import_torch() -> Any:
    try:
        import torch
        import torch.export  # not every torch build imports it by itself
    except ImportError as error:
        raise ModelError(
            "capturing a torch model needs torch", fix="pip install 'sparsecc[torch]'"
        ) from error
    return torch


def _arguments(example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments, numpy arrays turned into tensors."""
    import torch

    if example_inputs is None:
        raise ModelError(
            "a torch module is captured by running it once, which needs example inputs",
            fix="pass example_inputs=(tensor, …), the arguments of one call of the module",
        )
    if isinstance(example_inputs, (torch.Tensor, np.ndarray)):
        example_inputs = (example_inputs,)
    tensors = _map(
        lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf,
        example_inputs,
    )
    if isinstance(tensors, Mapping):
        return (), dict(tensors)
    return tuple(tensors), {}


def _exported(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Tree
) -> ir.Model:
    """The module in the IR; mixtures of experts in a form that can be traced, where theirs is not.

    What only a comparison on tokens finds to be a mixture is rewritten where nothing else helps.
    """
    failure: ModelError | None = None
    for listed in (False, True):
        with experts.every_expert(module, listed=listed) as paths:
            if failure is not None and not paths:
                break
            try:
                if dynamic_shapes is None:
                    program = _trace_batched(module, args, kwargs)
                else:
                    program = _trace(module, args, kwargs, dynamic_shapes)
                exported = _to_ir(program, module)
            except ModelError as error:
                failure = failure or error
                continue
        if paths:
            exported.metadata_props[experts.REWRITTEN] = ", ".join(paths)
        return exported
    assert failure is not None
    raise failure


def _trace_batched(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.export.ExportedProgram:
    """Trace with a dynamic first dimension if that is possible, else as the example is.

    torch.export takes a dimension of size 1 for a constant, so such an example is traced with
    its batch doubled. What it traced must then hold for the example itself, too.
    """
    doubled = _all_first_dims_are_one((args, kwargs))
    more_args, more_kwargs = _map(_twice, (args, kwargs)) if doubled else (args, kwargs)
    try:
        free = _map(_free_first_dim, more_kwargs or more_args)
        program = _trace(module, more_args, more_kwargs, free)
        if not doubled or _reproduces(program, module, args, kwargs):
            return program
    except ModelError:
        pass  # the static trace below says what is wrong, if anything is
    return _trace(module, args, kwargs, None)


def _reproduces(
    program: torch.export.ExportedProgram,
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether a program computes for these arguments what the module does."""
    import torch

    try:
        torch.testing.assert_close(program.module()(*args, **kwargs), module(*args, **kwargs))
    except Exception:  # a guard that fails is any kind of exception
        return False
    return True


def _all_first_dims_are_one(tree: Tree) -> bool:
    import torch

    first = {t.shape[0] for t in _leaves(tree) if isinstance(t, torch.Tensor) and t.ndim}
    return first == {1}


def _twice(leaf: Any) -> Any:
    """Twice the example: torch.export takes a dimension of size 1 for a constant."""
    import torch

    return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf


def _free_first_dim(leaf: Any) -> Any:
    import torch

    if isinstance(leaf, torch.Tensor) and leaf.ndim:
        return {0: torch.export.Dim.AUTO}
    return None


def _trace(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Tree
) -> torch.export.ExportedProgram:
    # The exporter would trace the module by itself, but then calls a dimension dynamic even
    # where tracing has found the module to work for one size only.
    import torch

    try:
        return torch.export.export(
            module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False
        )
    except Exception as error:
        raise _not_exportable(module, error) from error


def _to_ir(program: torch.export.ExportedProgram, model: object) -> ir.Model:
    import torch

    try:
        converted = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:
        raise _not_exportable(model, error) from error
    exported: ir.Model = converted.model
    return exported


def _not_exportable(model: object, error: Exception) -> ModelError:
    return ModelError(
        f"torch cannot export {type(model).__name__}: {_reason(error)}",
        fix="make torch.onnx.export(model, example_inputs, dynamo=True) work first, or pass an "
        "ONNX file",
    )


def _reason(error: BaseException) -> str:
    """First line of the exception the chain began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_REASON_LENGTH]


@contextlib.contextmanager
def _evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Clear every training flag and put each back: `eval()` would lose which were set."""
    flags = [(each, each.training) for each in module.modules()]
    try:
        for each, _ in flags:
            each.training = False
        yield
    finally:
        for each, flag in flags:
            each.training = flag


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, log lines and warnings from the user's terminal."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_batch(model: ir.Model) -> None:
    """Call the first dimension "batch" where all inputs share it (the exporter calls it s12)."""
    first = {value.shape[0] for value in model.graph.inputs if value.shape}
    symbol = first.pop() if len(first) == 1 else None
    if not isinstance(symbol, ir.SymbolicDim) or not re.fullmatch(r"s\d+", symbol.value or ""):
        return
    word = re.compile(rf"\b{symbol.value}\b")
    outputs = [output for node in model.graph.all_nodes() for output in node.outputs]
    for value in (*model.graph.inputs, *outputs):
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            renamed = [word.sub("batch", dim) if isinstance(dim, str) else dim for dim in dims]
            value.shape = ir.Shape(renamed)


def _name_by_module(model: ir.Model) -> None:
    """Name nodes by module path: a layer's weighted node alone, the others with their op.

    Weighted nodes choose first, so that no helper of a layer takes the layer's own name.
    """
    nodes = list(model.graph.all_nodes())
    taken: set[str] = set()
    for node in sorted(nodes, key=lambda node: _weight(node) is None):
        path, operation = _scopes(node)
        weight = _weight(node)
        if weight is not None:
            own = (weight.name or "").removesuffix(".weight")
            # The exporter folds a BatchNorm into the convolution and files the result under
            # the BatchNorm's path; the weight still has the name of the convolution.
            name = own if own != weight.name else path or operation
        else:
            name = f"{path}.{operation}" if path else operation
        if name:
            node.name = names.unique(name, taken)
        taken.add(node.name or "")


def _weight(node: ir.Node) -> ir.Value | None:
    position = _WEIGHTED.get(node.op_type)
    if position is None or len(node.inputs) <= position:
        return None
    value = node.inputs[position]
    return value if value is not None and value.is_initializer() and value.shape else None


def _scopes(node: ir.Node) -> tuple[str, str]:
    """Path of the module a node came from and the name of its operation there."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    try:
        parsed = json.loads(scopes.replace("'", '"')) if scopes else []
    except json.JSONDecodeError:
        parsed = []
    if not parsed:
        return "", node.name or ""
    return (str(parsed[-2]) if len(parsed) > 1 else ""), str(parsed[-1])


def _map(change: Callable[[Any], Any], tree: Tree) -> Tree:
    """Apply `change` to every leaf of nested tuples, lists and mappings."""
    if isinstance(tree, Mapping):
        return {key: _map(change, item) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map(change, item) for item in tree)
    return change(tree)


def _leaves(tree: Tree) -> list[Any]:
    found: list[Any] = []
    _map(found.append, tree)
    return found
