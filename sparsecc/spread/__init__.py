"""A model with experts for several processes: each has some of the experts, and tokens go to them.

:func:`spread` writes the parts of a model and the schedule of what is run and sent; a
:class:`Worker` in each process carries it out with ``torch.distributed``.
"""

from sparsecc.spread.run import Worker
from sparsecc.spread.schedule import Schedule
from sparsecc.spread.write import spread

__all__ = ["Schedule", "Worker", "spread"]
