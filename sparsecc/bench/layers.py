"""Times of single layers of an artifact: each alone, as a model of one node."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sparsecc import ops
from sparsecc.backends.onnxruntime.run import open_session
from sparsecc.measure import Feed, run_once
from sparsecc.passes.base import Context, run
from sparsecc.passes.regions.inline import InlineRegions
from sparsecc.progress import Progress, silent
from sparsecc.quality.segments import Schedule, reads, schedule, segment_of_fixed_sizes
from sparsecc.report.measured import LayerTime

Run = Callable[[], object]

_TURNS = 3
_FEWEST_RUNS, _MOST_RUNS = 3, 1000  # of one turn
_KERNELS = ("", ops.DOMAIN)
"""Domains whose nodes have kernels of their own; eight-bit ones are steps of regions alone."""


def time_layers(
    model: Path,
    library: Path | None,
    names: list[str],
    feed: Feed,
    *,
    threads: int = 1,
    seconds: float = 10.0,
    progress: Progress = silent,
) -> dict[str, LayerTime]:
    """Time layers one by one, with the library and without it, on what they read in the model.

    A layer that is alone is a node of its own, and its values are laid out as ONNX has them: inside
    a region it is cheaper. What an empty call takes is measured and left out.

    Args:
        model: File of the artifact's model.
        library: Its library; None when it has none.
        names: Layers to time; those without a node of their own are passed over.
        feed: Inputs of the model.
        threads: Threads inside one operator.
        seconds: About how long to measure in all; each layer is run a few times however slow.
        progress: Told how far it is.

    Returns:
        Layer name → its times.

    Raises:
        BackendError: ONNX Runtime refuses a layer.
        ModelError: The model does not run on the feed.
    """
    graph = ir.load(model)
    run([InlineRegions()], graph, Context())
    wanted = set(names)
    nodes = [node for node in graph.graph if node.name in wanted and node.domain in _KERNELS]
    if not nodes:
        return {}
    plan = schedule(graph, [(node.outputs[0], node) for node in nodes])
    times: dict[str, LayerTime] = {}
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as scratch:
        folder = Path(scratch)
        progress("running the model once", 0.0)
        values = _values(plan, nodes, feed, folder)
        empty = _empty_ms(threads)
        for done, node in enumerate(nodes):
            progress(f"timing {node.name}", done / len(nodes))
            inputs = {name: values[name] for name in _varying(plan, node)}
            source = segment_of_fixed_sizes(
                plan, [node], inputs, [str(node.outputs[0].name)], folder
            )
            sides = [library, None] if library and ops.is_sparse(node) else [None]
            runs = [
                _bound(open_session(source, library=each, threads=threads), inputs)
                for each in sides
            ]
            took = _medians(runs, seconds / len(nodes) / len(runs))
            own, dense = (max(0.0, each - empty) for each in (took[0], took[-1]))
            times[str(node.name)] = LayerTime(ms=own, dense_ms=dense)
    progress("done", 1.0)
    return times


def _varying(plan: Schedule, node: ir.Node) -> list[str]:
    """Names of the values that a node reads and that the inputs of the model decide."""
    varying = (value for value in reads(node) if value in plan.born)
    return list(dict.fromkeys(str(value.name) for value in varying))


def _values(
    plan: Schedule, nodes: list[ir.Node], feed: Feed, folder: Path
) -> dict[str, NDArray[Any]]:
    """What the nodes read in one run of the model; computed by the portable bodies."""
    wanted = dict.fromkeys(name for node in nodes for name in _varying(plan, node))
    made = [name for name in wanted if name not in feed]
    values = dict(feed)
    if made:
        source = segment_of_fixed_sizes(plan, plan.nodes, dict(feed), made, folder)
        values |= zip(made, run_once(open_session(source), feed), strict=True)
    return values


def _bound(session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> Run:
    """One run over memory that is there already, so that nothing is copied in or out."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    outputs = [meta.name for meta in session.get_outputs()]
    for name, array in zip(outputs, session.run(outputs, dict(inputs)), strict=True):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    return functools.partial(session.run_with_iobinding, binding)


def _empty_ms(threads: int) -> float:
    """Time of a call that computes next to nothing."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "empty", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = open_session(model.SerializeToString(), threads=threads)
    return _medians([_bound(session, {"x": np.ones(1, np.float32)})], 0.05)[0]


def _medians(runs: list[Run], seconds: float) -> list[float]:
    """Median time of each, ms; they take turns, and each is measured for about `seconds`."""
    taken: list[list[float]] = [[] for _ in runs]
    for each in runs:
        each()
    for _ in range(_TURNS):
        for run_it, its in zip(runs, taken, strict=True):
            end = time.perf_counter() + seconds / _TURNS
            for done in range(_MOST_RUNS):
                start = time.perf_counter()
                if done >= _FEWEST_RUNS and start > end:
                    break
                run_it()
                its.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(each) for each in taken]


__all__ = ["time_layers"]
