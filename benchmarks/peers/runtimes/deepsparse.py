"""DeepSparse: reads ONNX files of older opsets directly."""

from __future__ import annotations

import numpy as np
from deepsparse import Engine


def open_side(job, feeds):
    """An engine for the shapes of `feeds`."""
    batch = len(next(iter(feeds.values())))
    engine = Engine(job["model"], batch_size=batch, num_cores=job["threads"])
    arrays = [np.ascontiguousarray(value) for value in feeds.values()]
    return lambda: engine.run(arrays), lambda result: {"output": result[0]}
