"""The one table of GPU kernels. Builds, launches, tests and the benchmark all read it.

A kernel is one row: a function of ``kernels/``, the types of its arguments, and for each
architecture the constants it is compiled with and what the compiler is known to make of that.
``python -m sparsecc.backends.cuda.build`` prints what it makes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from sparsecc.backends.cuda.kernel import Kernel
from sparsecc.backends.cuda.rows.attention import ATTENTION, ATTENTION_BACKWARD, ATTENTION_SEARCH
from sparsecc.backends.cuda.rows.bitmap import BITMAP
from sparsecc.backends.cuda.rows.columns import COLUMNS
from sparsecc.backends.cuda.rows.dense import DENSE
from sparsecc.backends.cuda.rows.experts import EXPERTS
from sparsecc.backends.cuda.rows.groups import GROUP_KERNELS
from sparsecc.backends.cuda.rows.parts import ADD, TURN
from sparsecc.backends.cuda.rows.two_of_four import TWO_OF_FOUR

KERNELS: Mapping[str, Kernel] = {
    kernel.name: kernel
    for kernel in itertools.chain(
        ATTENTION,
        ATTENTION_BACKWARD,
        ATTENTION_SEARCH,
        BITMAP,
        COLUMNS,
        DENSE,
        GROUP_KERNELS,
        EXPERTS,
        TWO_OF_FOUR,
        TURN,
        ADD,
    )
}
"""Every kernel by its name."""
