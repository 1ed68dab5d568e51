"""How right the simulator is: `python -m benchmarks.simulate --help`.

Operators are timed on one core and collectives between processes; from these the machine is
described as a cluster, and operators of other sizes are predicted. Then a small mixture of experts
is trained for real on up to four processes, spread in many ways, and the times of its steps are
compared with those that were simulated before.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import typer
from scipy.stats import spearmanr

from benchmarks import page
from benchmarks.cost import Pair, mape
from benchmarks.training import links, operators
from benchmarks.training.mesh import close, mesh
from benchmarks.training.processes import run
from benchmarks.training.step import Trainer
from sparsecc.cost.calibration import processor
from sparsecc.simulate import Choice, Cluster, read_cluster, read_model, simulate
from sparsecc.simulate.choice import objection
from sparsecc.simulate.cluster import CLUSTER_FILE
from sparsecc.simulate.model import Model

NAME = "simulate"
MODEL = Path(__file__).parent / "training" / "small.json"
PROCESSES = (1, 2, 4)
LOW, HIGH = 2e3, 6.4e7
STEPS = 3
AGAIN = "any collective, measured twice"
app = typer.Typer(add_completion=False)
Folder = Annotated[Path, typer.Option("-o", "--out", help="Folder of the findings.")]
FOLDER = Path("out/simulate")


@app.command()
def calibrate(
    out: Folder = FOLDER,
    count: Annotated[int, typer.Option(help="Samples of an operator.")] = 60,
) -> None:
    """Measure operators and collectives, and describe this machine as a cluster."""
    torch.set_num_threads(1)
    model = read_model(MODEL)
    samples = list(operators.measure(model, np.random.default_rng(0), count))
    device = operators.fit(samples)
    pairs = [
        Pair(each.operator, str(each.size), operators.predicted(device, each), each.seconds)
        for each in operators.measure(model, np.random.default_rng(1), count)
    ]
    out.mkdir(parents=True, exist_ok=True)
    sizes, alone, together = links.spaced(LOW, HIGH, 16), 0.0, []
    for processes in PROCESSES:
        measured = [_slowest(run(links.measure, processes, sizes)) for _ in range(2)]
        works, sent = measured[0]
        alone = alone or works
        together.append((processes, min(processes, processes * alone / works)))
        # Every other size is described; those between are predicted from them.
        latency, achieved = links.curves([each for each in sent if _described(each, sizes)])
        cluster = links.described(
            device, processes, latency=latency, achieved=achieved, together=together
        )
        CLUSTER_FILE.save(cluster, _cluster(out, processes))
        pairs += [
            Pair(each.kind, str(each), links.predicted(cluster, each), each.seconds)
            for each in sent
            if not _described(each, sizes)
        ]
        again = zip(sent, measured[1][1], strict=True)
        pairs += [Pair(AGAIN, str(first), second.seconds, first.seconds) for first, second in again]
    _save(out / "operators.json", pairs)
    print(operator_table(pairs))
    print({count: f"{worth:.2f}" for count, worth in together})


@app.command()
def steps(
    out: Folder = FOLDER,
    processes: Annotated[str, typer.Option(help="Comma-separated.")] = "1,2,4",
) -> None:
    """Train in every way, and time the steps."""
    model, path = read_model(MODEL), out / "steps.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for count in map(int, processes.split(",")):
        choices = list(ways(model, read_cluster(_cluster(out, count))))
        measured = np.max(run(train, count, model, choices), axis=0)
        rows = [each for each in rows if each["processes"] != count]
        rows += [
            {"processes": count, "choice": choice.model_dump(), "seconds": float(seconds)}
            for choice, seconds in zip(choices, measured, strict=True)
        ]
        path.write_text(json.dumps(rows, indent=1) + "\n")
    print(step_table(_steps(out)))


@app.command()
def report(
    out: Folder = FOLDER,
    page_file: Annotated[Path, typer.Option("--page")] = Path("docs/simulate.md"),
) -> None:
    """Put what was found into the page."""
    found = [Pair(**row) for row in json.loads((out / "operators.json").read_text())]
    what = f"{processor()}, torch {torch.__version__}, gloo, one thread a process."
    text = "\n\n".join([what, operator_table(found), step_table(_steps(out))])
    page.put(page_file, NAME, text)


def _steps(out: Path) -> list[Pair]:
    """Steps that were measured, and what the simulator says of them."""
    model, pairs = read_model(MODEL), []
    for row in json.loads((out / "steps.json").read_text()):
        cluster = read_cluster(_cluster(out, row["processes"]))
        choice = Choice.model_validate(row["choice"])
        again = ", all computed again" if choice.recompute == "full" else ""
        detail = f"{row['processes']}: {choice}{again}"
        predicted = simulate(model, cluster, choice).seconds
        pairs.append(Pair("step", detail, predicted, row["seconds"]))
    return pairs


def ways(model: Model, cluster: Cluster) -> Iterator[Choice]:
    """Every way to spread the model over so many processes that the code of this benchmark has."""
    count = cluster.devices
    degrees = [each for each in (1, 2, 4) if each <= count]
    for tensor in degrees:
        for pipeline in degrees:
            for expert in degrees:
                for micro_batch in (1, 2):
                    for recompute in ("none", "full") if micro_batch == 2 else ("none",):
                        choice = Choice(
                            tensor=tensor,
                            pipeline=pipeline,
                            expert=expert,
                            micro_batch=micro_batch,
                            recompute=recompute,
                            sharded=False,
                        )
                        if objection(choice, model, cluster) is None:
                            yield choice


def train(model: Model, choices: Sequence[Choice], count: int = STEPS) -> list[float]:
    """Median seconds of a step of each choice; run in every process."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(model.vocabulary, (model.batch, model.sequence + 1), generator=generator)
    medians = []
    for choice in choices:
        where = mesh(choice)
        trainer = Trainer(model, where)
        times = []
        for _ in range(1 + count):
            dist.barrier()
            start = time.perf_counter()
            trainer.step(batch)
            dist.barrier()
            times.append(time.perf_counter() - start)
        close(where)
        medians.append(float(np.median(times[1:])))
    return medians


def operator_table(pairs: Sequence[Pair]) -> str:
    """Errors on sizes that were not described."""
    by: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by[pair.what].append(pair)
    lines = ["| operator | sizes held out | MAPE | median |", "|---|---|---|---|"]
    again = by.pop(AGAIN)
    predicted = [pair for each in by.values() for pair in each]
    for what, each in (*by.items(), ("**all**", predicted), (AGAIN, again)):
        middle = float(np.median([abs(pair.error) for pair in each]))
        name = what.replace("_", " ")
        lines.append(f"| {name} | {len(each)} | {mape(each):.1%} | {middle:.1%} |")
    return "\n".join(lines)


def step_table(pairs: Sequence[Pair]) -> str:
    """Steps as simulated and as measured, the fastest first."""
    lines = [
        "| processes, configuration | simulated, ms | measured, ms | error |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each.detail} | {each.predicted * 1e3:.0f} "
        f"| {each.measured * 1e3:.0f} | {each.error:+.0%} |"
        for each in sorted(pairs, key=lambda each: each.measured)
    ]
    rank = spearmanr([each.predicted for each in pairs], [each.measured for each in pairs])
    lines.append(
        f"| **{len(pairs)} configurations** | Spearman **{rank.statistic:.3f}** "
        f"| MAPE {mape(pairs):.0%} | |"
    )
    return "\n".join(lines)


def _slowest(found: Sequence[tuple[float, list[links.Sent]]]) -> tuple[float, list[links.Sent]]:
    """What the slowest process measured."""
    works, sent = zip(*found, strict=True)
    return max(works), [max(each, key=lambda one: one.seconds) for each in zip(*sent, strict=True)]


def _cluster(out: Path, processes: int) -> Path:
    return out / f"cluster_{processes}.json"


def _described(sent: links.Sent, sizes: Sequence[int]) -> bool:
    nearest = min(range(len(sizes)), key=lambda index: abs(sizes[index] - sent.size))
    return nearest % 2 == 0 or nearest == len(sizes) - 1


def _save(path: Path, pairs: Sequence[Pair]) -> None:
    rows: list[dict[str, Any]] = [asdict(pair) for pair in pairs]
    path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    app()
