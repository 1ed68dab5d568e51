"""The IR in torch: any captured model as a module with gradients, on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from sparsecc import ops
from sparsecc.errors import ModelError
from sparsecc.ops import int8
from sparsecc.torch.fusions import fuse
from sparsecc.torch.graph import (
    HOST,
    ON_HOST,
    all_graphs,
    parameters_of,
    read_graph,
    store,
    stored_tensor,
)
from sparsecc.torch.ops.table import to_numpy, to_torch
from sparsecc.torch.program import Program, needed


class Interpreter(nn.Module):  # type: ignore[misc]
    """Runs a model of the IR in torch.

    Floating-point weights, biases, scales and tables are parameters, found by their ONNX names.
    Bare numbers (the 8 of a division), statistics of BatchNormalization and all that is no
    floating point are constants.

    Args:
        model: Any model; it is not changed, and later changes of it are not seen.
        device: Where to compute. Small integers that only say sizes stay in the host's memory.

    Raises:
        UnsupportedOpError: An op, an attribute or an element type that it does not know.
    """

    def __init__(self, model: ir.Model, *, device: str | torch.device = "cpu") -> None:
        super().__init__()
        model = _without_functions(model)
        self.device = torch.device(device)
        with _in_full_precision(self.device):
            self._network = read_graph(model.graph, model.opset_imports, self.device)
        self._trained, self._fixed = nn.Module(), nn.Module()
        for name, value in parameters_of(model.graph).items():
            tensor = stored_tensor(value)
            made = to_torch(tensor.numpy(), tensor.dtype)
            if made is None:
                raise ModelError(f"the weight {name!r} has elements of type {tensor.dtype.name}")
            self._trained.register_parameter(_key(name), nn.Parameter(made.to(self.device)))
        for name in [name for name in self._network.constants if not name.endswith(ON_HOST)]:
            constant = self._network.constants.pop(name)
            self._fixed.register_buffer(_key(name), constant, persistent=False)
        self._programs: dict[Any, Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return self._network.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return self._network.outputs

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """ONNX name → parameter, in the order of the graph."""
        return {name: self.parameter(name) for name in self._network.parameters}

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter that was the constant of this name (KeyError if there is none)."""
        try:
            return getattr(self._trained, _key(name))
        except AttributeError:
            raise KeyError(name) from None

    def forward(
        self, feed: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute values from other values.

        Only the nodes between what is fed and what is wanted run.

        Args:
            feed: Name → tensor of any values of the graph: its inputs, what a node makes, or a
                parameter, which is then not read (a masked weight, say).
            wanted: Names of any values; by default the outputs of the graph.

        Raises:
            ModelError: There is no value of such a name, a value that is needed is not fed, or a
                node fails on what is fed.
        """
        names = self._network.outputs if wanted is None else tuple(wanted)
        key = (tuple(feed), names)
        run = self._programs.get(key)
        if run is None:
            run = self._programs[key] = self._prepared(*key)
        return dict(zip(names, run(feed), strict=True))

    def _prepared(
        self, fed: tuple[str, ...], wanted: tuple[str, ...]
    ) -> Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]:
        """A function from what is fed to what is wanted."""
        network = self._network
        constants = {n: getattr(self._fixed, _key(n)) for n in network.fixed}
        constants.update(network.constants)
        self._check_names(fed, network.sources, "fed")
        self._check_names(wanted, network.sources | constants.keys(), "asked for")
        steps = needed(network.steps, fed, wanted)
        read = {*wanted, *(name for step in steps for name in step.inputs)} - set(fed)
        keys = [(name, _key(name)) for name in network.parameters if name in read]
        with _in_full_precision(self.device):
            steps = fuse(steps, wanted, self._shapes())
            program = Program(steps, [*fed, *(name for name, _ in keys)], wanted, constants)
        places = [HOST if name in network.on_host else self.device for name in fed]
        trained = self._trained

        def run(feed: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            given = [_placed(x, place) for x, place in zip(feed.values(), places, strict=True)]
            return program(*given, *[getattr(trained, key) for _, key in keys])

        return run

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, of the parameters."""
        return {name: tuple(each.shape) for name, each in self.weights.items()}

    def _check_names(self, names: Sequence[str], known: set[str], what: str) -> None:
        for name in names:
            if name not in known:
                raise ModelError(
                    f"the value {name!r} is {what}, but the graph has none of that name",
                    fix=f"the graph's inputs are {', '.join(self.inputs)}; constants that are no "
                    "parameters cannot be fed",
                )

    def write_back(self, model: ir.Model) -> None:
        """Write the parameters into a model of the same graph, in the types that it has.

        Raises:
            ModelError: A parameter is not there, or has another shape.
        """
        found = parameters_of(model.graph)
        for name, parameter in self.weights.items():
            value = found.get(name)
            tensor = None if value is None else stored_tensor(value)
            if value is None or tensor is None or tensor.shape.numpy() != tuple(parameter.shape):
                raise ModelError(
                    f"the model has no constant {name!r} of shape {list(parameter.shape)}",
                    fix="write back to the model that the interpreter was made of",
                )
            store(value, to_numpy(parameter, tensor.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """A change of type makes new constants; another device needs another interpreter."""
        result: Self = super()._apply(fn, recurse)
        self._programs.clear()
        if any(each.device.type != self.device.type for each in self.parameters()):
            raise ModelError(
                f"an interpreter on {self.device} cannot be moved",
                fix="make one there: Interpreter(model, device=...)",
            )
        return result


def _in_full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Without autocast: constants are computed once, for every later run."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)  # type: ignore[no-any-return]


def _placed(x: Any, device: torch.device) -> Any:
    """A tensor, or a sequence of them, or no value at all, on a device."""
    if isinstance(x, list):
        return [_placed(each, device) for each in x]
    return None if x is None else x.to(device)


def _key(name: str) -> str:
    """The ONNX name as the name of an attribute of a module, which may hold no dots."""
    return ":" + name.replace("%", "%25").replace(".", "%2E")


def _without_functions(model: ir.Model) -> ir.Model:
    """The model, or a copy of it with every function put in place of its calls."""
    domains = {node.domain for graph in all_graphs(model.graph) for node in graph}
    ours = domains & {ops.DOMAIN, int8.DOMAIN}
    if not ours and not model.functions:
        return model
    model = model.clone()
    if ours:
        ops.attach_functions(model)
        int8.attach(model)
    common.InlinePass()(model)
    return model


__all__ = ["Interpreter"]
