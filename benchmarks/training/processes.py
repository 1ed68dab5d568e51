"""Running a function in several processes that can talk to each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

T = TypeVar("T")
LIMIT = timedelta(seconds=120)


def run(function: Callable[..., T], processes: int, *arguments: Any) -> list[T]:
    """What a function returns in each of so many gloo processes of one thread.

    Args:
        function: Importable by its name.
        processes: How many.
        arguments: Of the function.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, (function, processes, folder, arguments), nprocs=processes, join=True)
        return [torch.load(_result(folder, rank), weights_only=False) for rank in range(processes)]


def _enter(
    rank: int, function: Callable[..., Any], processes: int, folder: str, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes, timeout=LIMIT)
    try:
        torch.save(function(*arguments), _result(folder, rank))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _result(folder: str, rank: int) -> Path:
    return Path(folder) / f"{rank}.pt"
