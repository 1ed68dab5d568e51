"""``compile``, ``plan`` and ``apply``: from a trained model to a plan and an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsecc.compiled import Compiled
from sparsecc.outcome import follow, plan_of, prune_as_asked
from sparsecc.progress import Progress, part, silent
from sparsecc.quality.exam import Quality
from sparsecc.request import read_budget, read_request, request_of
from sparsecc.search.plan import Plan
from sparsecc.stages import finish, rows_of, start


def compile(
    model: Any,
    target: str = "native",
    *,
    backend: str | None = None,
    name: str = "model",
    sparsity: str = "existing",
    overrides: Mapping[str, str] | None = None,
    calibration: Any = None,
    labels: Any = None,
    max_drop: float | None = None,
    max_ms: float | None = None,
    max_bytes: float | None = None,
    quality: str | Quality | None = None,
    mode: str = "fast",
    seed: int = 0,
    best_effort: bool = False,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    score: str = "alps",
    refit: bool = True,
    allocation: str = "uniform",
    recover: str | None = None,
    recover_loss: Callable[[Any, Any], Any] | None = None,
    checkpoint: str | Path | None = None,
    permute: bool = False,
    attention: str | None = None,
    online: str | None = None,
    experts: str | None = None,
    keep_experts: str | None = None,
    quantize: str | None = None,
    tune: str | None = None,
    verify: bool = False,
    executor: str = "processes",
    progress: Progress = silent,
) -> Compiled:
    """Compile a trained model into a sparse artifact for a target.

    With a budget (``max_drop``, ``max_ms`` or ``max_bytes``) the compiler searches for the plan:
    the fastest that loses at most so much quality, or the one that loses least within a time or a
    size. Without one it does what ``sparsity`` asks for.

    Args:
        model: Path of an ONNX file, ``onnx.ModelProto``, ``onnx_ir.Model``, ``torch.nn.Module``,
            ``torch.export.ExportedProgram`` or ``torch.fx.GraphModule``. It is not changed.
        target: ``native``, a name such as ``x86-64`` (see ``sparsecc.targets``), or the path of a
            target's JSON file.
        backend: What comes out: ``onnxruntime``, an ONNX file and a library of its ops;
            ``bundle``, a library that needs no runtime; ``tvm``, a library for TVM's. By default
            what the target is for: ``onnxruntime`` where there is one, ``bundle`` on the web.
        name: What functions and files of such a library are called, a C identifier.
        sparsity: ``existing`` (the zeros already there), or a request such as ``4x1:0.8``,
            ``unstructured:0.5`` or ``2:4``. ``channels:0.3`` and ``heads:0.25`` are removed from
            the whole model, so that its layers become smaller.
        overrides: Layer-name pattern → request; the first that matches wins. Layers that are
            ``dense`` by name lose no channels.
        calibration: Sample inputs: a mapping of input name → array with the samples along axis 0,
            an iterable of feeds, an .npz path, a folder of pictures, sounds or arrays, or what
            :mod:`sparsecc.quality.samples` reads; ``generated`` makes them up. Without them masks
            are by magnitude.
        labels: What the samples should give, one entry each; for ``quality``.
        max_drop: Quality that may be lost, as a share: .01 is one per cent.
        max_ms: Estimated time that one run may take on one thread, ms.
        max_bytes: Bytes that the weights of the layers may take together.
        quality: What quality is: ``cosine``, ``relative-error``, ``top-1``, ``psnr``, ``accuracy``
            or a function (:mod:`sparsecc.quality.exam`). By default ``accuracy`` where there are
            labels, else ``cosine``.
        mode: ``fast`` searches for minutes, ``thorough`` for as long as it takes.
        seed: Of the search.
        best_effort: Go on with the best plan found where none keeps to the budget.
        example_inputs: For torch: the arguments of one call.
        dynamic_shapes: For torch: which dimensions vary, as ``torch.export.export`` takes it. By
            default the first, if that can be; on a GPU none.
        score: How masks are found: ``alps``, ``sparsegpt``, ``wanda`` or ``magnitude``.
        refit: Whether kept weights are refitted where held-out data say that it helps.
        allocation: How the sparsity spreads over the layers: ``uniform``, ``erk`` (by size), or,
            with ``calibration``, ``owl`` (by outliers) or ``spdy`` (by what layers lose).
        recover: Train the weights that stay, so long (``10min``) or so many steps (``400 steps``):
            the dense model teaches its sparse twin on ``calibration``, which needs no labels.
            Needs torch. With ``max_drop`` the search prunes more, and the recovered model has to
            keep to the budget.
        recover_loss: What is learnt instead of the dense model's outputs: (outputs as a mapping of
            name → tensor, labels of the batch or the dense model's outputs) → a scalar tensor.
        checkpoint: A .safetensors file that a recovery writes as it goes, and goes on from. Where a
            search with ``max_drop`` tries a second plan, that one's is beside it, with ``-2``.
        permute: Put coupled channels into the order under which blocks and N:M lose least, before
            pruning; what the model computes stays the same.
        attention: The tokens of a video transformer, frames x height x width as attention sees
            them and words before or behind, such as ``8+16x24x24``, or ``auto`` where one grid
            fits: each head keeps the blocks of its scores that matter on ``calibration``
            (docs/attention.md). ``max_drop`` limits what that loses; ``sparsity="dense"`` then
            leaves the weights alone.
        online: Steps of one sampling, such as ``20``, or ``20:0.7`` with the share of blocks that
            is left out if not .8: attentions whose blocks move with the input, all of them where
            there is no ``calibration``, search while the model runs. What they find is carried
            from call to call by :meth:`Compiled.steps`.
        experts: The share of its hidden features that a token goes through in feed-forward
            networks behind ReLU, such as ``0.25``, or ``auto``, what ``max_drop`` allows: neurons
            become experts of 32, with a router that is trained on ``calibration``
            (docs/moe.md). ``sparsity="dense"`` then leaves the other weights alone.
        keep_experts: Share of its experts that every mixture of experts keeps, such as ``0.75``, or
            ``auto`` for the fewest within ``max_drop``: experts that ``calibration`` hardly needs
            are left out or merged with others (docs/moe.md).
        quantize: ``int8`` makes weights and activations eight-bit, after pruning (best with
            ``4x4:0.8``); it needs ``calibration``. A model in QDQ form is eight-bit already.
            ``experts-int8`` and ``experts-int4`` round the weights of experts alone, and need none.
        tune: Time many schedules of the code that TVM generates, so long (``5min``) or so many of
            each function (``64 steps``), and take those that are quicker; they are kept for the
            next time. Or the ``tuning.json`` of an artifact: its schedules, without timing.
        verify: Check the graph after every pass.
        executor: Where layers are worked on: ``processes`` beside this one, ``serial`` in this one,
            or a ``ray`` cluster. The result is the same.
        progress: Called with what is being done and the share done, 0 to 1.

    Returns:
        The compiled model: call it, ``print(it.report)``, ``it.save(folder)``.

    Raises:
        SparseccError: The model, the data or the request cannot be used; says what to do.
    """
    budget = read_budget(max_drop=max_drop, max_ms=max_ms, max_bytes=max_bytes)
    request = read_request(
        target,
        sparsity,
        overrides,
        score=score,
        refit=refit,
        allocation=allocation,
        quantize=quantize,
        budget=budget,
        mode=mode,
        seed=seed,
        quality=quality,
        executor=executor,
        recover=recover,
        recover_loss=recover_loss,
        checkpoint=checkpoint,
        permute=permute,
        attention=attention,
        online=online,
        experts=experts,
        keep_experts=keep_experts,
        backend=backend,
        name=name,
        tune=tune,
    )
    job = start(
        model, request, calibration, labels, example_inputs, dynamic_shapes, verify, progress
    )
    outcome = prune_as_asked(job, part(progress, 0.15, 0.7), best_effort=best_effort)
    return finish(job, outcome, progress)


def plan(
    model: Any,
    target: str = "native",
    *,
    backend: str | None = None,
    calibration: Any,
    labels: Any = None,
    max_drop: float | None = None,
    max_ms: float | None = None,
    max_bytes: float | None = None,
    quality: str | Quality | None = None,
    mode: str = "fast",
    seed: int = 0,
    best_effort: bool = False,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    score: str = "alps",
    refit: bool = True,
    recover: str | None = None,
    permute: bool = False,
    attention: str | None = None,
    online: str | None = None,
    experts: str | None = None,
    keep_experts: str | None = None,
    executor: str = "processes",
    progress: Progress = silent,
) -> Plan:
    """Search for the plan of a model, and stop there: ``apply`` carries it out.

    Args:
        model: As :func:`compile` takes it, like all that follows.
        target: What it is for.
        backend: What the model will become.
        calibration: Sample inputs; half of the batches judge.
        labels: What the samples should give.
        max_drop: Quality that may be lost, as a share.
        max_ms: Estimated time that one run may take on one thread, ms.
        max_bytes: Bytes that the weights of the layers may take together.
        quality: What quality is.
        mode: ``fast`` or ``thorough``.
        seed: Of the search.
        best_effort: Go on with the best plan found where none keeps to the budget.
        example_inputs: For torch: the arguments of one call.
        dynamic_shapes: For torch: which dimensions vary.
        score: How masks are found.
        refit: Whether kept weights are refitted.
        recover: How long or how many steps the weights that stay may train after the search, which
            counts on it; the plan records the steps, and :func:`apply` repeats them.
        permute: Put coupled channels into a better order for blocks first.
        attention: The tokens of a video transformer whose heads are to keep some of their blocks.
        online: Steps of one sampling, where blocks that move with the input are searched in it.
        experts: The share of neurons that a token goes through, or ``auto``.
        keep_experts: Share of its experts that every mixture of experts keeps, or ``auto``.
        executor: Where layers are worked on.
        progress: Called with what is being done and the share done, 0 to 1.

    Raises:
        SparseccError: As :func:`compile`.
    """
    budget = read_budget(max_drop=max_drop, max_ms=max_ms, max_bytes=max_bytes, needed=True)
    request = read_request(
        target,
        score=score,
        refit=refit,
        budget=budget,
        mode=mode,
        seed=seed,
        quality=quality,
        executor=executor,
        recover=recover,
        permute=permute,
        attention=attention,
        online=online,
        experts=experts,
        keep_experts=keep_experts,
        backend=backend,
    )
    job = start(
        model, request, calibration, labels, example_inputs, dynamic_shapes, False, progress
    )
    outcome = prune_as_asked(job, part(progress, 0.15, 0.95), best_effort=best_effort)
    rows = rows_of(job, outcome)
    progress("done", 1.0)
    return plan_of(job, outcome, rows)


def apply(
    model: Any,
    plan: Plan,
    *,
    target: str | None = None,
    backend: str | None = None,
    name: str = "model",
    calibration: Any = None,
    labels: Any = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    tune: str | None = None,
    verify: bool = False,
    executor: str = "processes",
    progress: Progress = silent,
) -> Compiled:
    """Compile a model as a plan says: the model it was made for, or another checkpoint of it.

    Args:
        model: As :func:`compile` takes it.
        plan: From :func:`plan`, an artifact or a file, edited or not.
        target: Another target than the plan's.
        backend: Another backend than the plan's.
        name: Of a library without a runtime, as :func:`compile` takes it.
        calibration: Sample inputs; without them masks are by magnitude.
        labels: What the samples should give.
        example_inputs: For torch: the arguments of one call.
        dynamic_shapes: For torch: which dimensions vary.
        tune: As :func:`compile` takes it.
        verify: Check the graph after every pass.
        executor: Where layers are worked on: ``processes`` beside this one, ``serial`` in this one,
            or a ``ray`` cluster. The result is the same.
        progress: Called with what is being done and the share done, 0 to 1.

    Raises:
        PlanError: The plan is for another model; names the first layer that differs.
        SparseccError: As :func:`compile`.
    """
    request = request_of(plan, target, executor, backend=backend, name=name, tune=tune)
    job = start(
        model, request, calibration, labels, example_inputs, dynamic_shapes, verify, progress
    )
    outcome = follow(job, plan, part(progress, 0.15, 0.7))
    return finish(job, outcome, progress)
