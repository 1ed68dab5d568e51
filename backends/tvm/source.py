"""A chain of loop nests as a C file that defines one function of a bundle, an ``sc_extern``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsecc.backends.tvm.expressions import c_of
from sparsecc.backends.tvm.lower import Buffer
from sparsecc.errors import BackendError

HEADER = Path(__file__).with_name("chain.h").read_text(encoding="utf-8")
TYPES = {
    "float32": "SC_F32",
    "int32": "SC_I32",
    "int64": "SC_I64",
    "uint8": "SC_U8",
    "int8": "SC_I8",
    "bool": "SC_U8",
}
"""numpy's names of what may come into a chain or leave it, and what ``region.h`` calls them."""
MAX_RANK = 6


@dataclass(frozen=True)
class Run:
    """One loop nest on values.

    Attributes:
        symbol: The kernel's C name.
        buffers: Its pointers.
        sizes: Its variables.
        extent: Iterations that may run at the same time, or None.
        work: Iterations in all.
    """

    symbol: str
    buffers: tuple[Buffer, ...]
    sizes: tuple[Any, ...]
    extent: Any | None
    work: Any


@dataclass(frozen=True)
class Link:
    """All there is to say of a chain in C.

    Attributes:
        name: A C identifier.
        variables: Of its open sizes; each is a dimension of some input.
        inputs: Values that come in.
        outputs: Values that leave.
        equal: Pairs of sizes that have to be equal.
        constants: In the order in which the step names them.
        runs: Its loop nests.
    """

    name: str
    variables: tuple[Any, ...]
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    equal: tuple[tuple[Any, Any], ...]
    constants: tuple[Buffer, ...]
    runs: tuple[Run, ...]


def c_source(link: Link) -> str:
    """The C file.

    Raises:
        BackendError: A value that comes in or leaves has a type or rank that bundles have not.
    """
    return _Writer(link).text()


class _Writer:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.names = {each: f"s[{at}]" for at, each in enumerate(link.variables)}
        used = dict.fromkeys(buffer for run in link.runs for buffer in run.buffers)
        ends = (*link.inputs, *link.constants)
        self.made = [buffer for buffer in used if buffer not in ends]
        first = dict.fromkeys(link.outputs)
        self.inside = [buffer for buffer in self.made if buffer not in first]
        self.place = {each: at for at, each in enumerate([*ends, *self.made])}
        for buffer in (*link.inputs, *link.outputs):
            _check(buffer, link.name)

    def text(self) -> str:
        parts = ['#include "extern.h"', HEADER, self._kernels(), self._bind(), self._infer()]
        return "\n".join([*parts, *self._tasks(), self._run(), self._table()])

    def _c(self, expression: Any) -> str:
        return c_of(expression, self.names)

    def _kernels(self) -> str:
        """Declarations, each kernel once."""
        lines = {}
        for run in self.link.runs:
            kinds = ["void *"] * len(run.buffers) + ["i64"] * len(run.sizes)
            kinds += ["i64", "i64"] * (run.extent is not None)
            hidden = '__attribute__((visibility("hidden")))'
            lines[run.symbol] = f"{hidden} void {run.symbol}({', '.join(kinds)});"
        return "\n".join(lines.values())

    def _bind(self) -> str:
        """Sizes from the inputs, and that these agree with what the code was made for."""
        count = max(1, len(self.link.variables))
        lines = [
            "static const char *bind(const sc_tensor *const *in, i64 *s)",
            "{",
            "  (void)in;",
            f"  for (i64 i = 0; i < {count}; i++) s[i] = 0;",
        ]
        known: set[Any] = set()
        checks = []
        for at, buffer in enumerate(self.link.inputs):
            kind, rank = TYPES[buffer.dtype], len(buffer.dims)
            lines.append(f"  if (in[{at}]->type != {kind} || in[{at}]->rank != {rank})")
            lines.append('    return "an input has another type or rank than in the model";')
            for axis, dim in enumerate(buffer.dims):
                if dim in self.names and dim not in known:
                    known.add(dim)
                    lines.append(f"  {self.names[dim]} = in[{at}]->dims[{axis}];")
                else:
                    checks.append(f"in[{at}]->dims[{axis}] != {self._c(dim)}")
        checks += [f"{self._c(a)} != {self._c(b)}" for a, b in self.link.equal]
        for check in dict.fromkeys(checks):
            lines.append(f'  if ({check}) return "the sizes of the inputs do not agree";')
        return "\n".join([*lines, "  return 0;", "}", ""])

    def _infer(self) -> str:
        head = "const sc_tensor *const *in, const sc_constant *constants, sc_tensor *const *out"
        lines = [
            f"static const char *infer({head})",
            "{",
            f"  i64 s[{max(1, len(self.link.variables))}];",
            "  (void)constants;",
            "  const char *wrong = bind(in, s);",
            "  if (wrong) return wrong;",
        ]
        for at, buffer in enumerate(self.link.outputs):
            dims = ", ".join(self._c(dim) for dim in buffer.dims) or "0"
            shape = f".rank = {len(buffer.dims)}, .dims = {{{dims}}}"
            kind = f".type = {TYPES[buffer.dtype]}, .layout = SC_PLAIN"
            lines.append(f"  *out[{at}] = (sc_tensor){{{kind}, {shape}}};")
        return "\n".join([*lines, "  return 0;", "}", ""])

    def _tasks(self) -> list[str]:
        made = []
        for at, run in enumerate(self.link.runs):
            operands = [f"j->values[{self.place[buffer]}]" for buffer in run.buffers]
            operands += [f"j->sizes[{self.link.variables.index(size)}]" for size in run.sizes]
            if run.extent is not None:
                operands += ["sc_chain_from(j, i)", "sc_chain_from(j, i + 1)"]
            made.append(
                f"static void task{at}(void *data, u64 i)\n{{\n  const sc_chain_job *j = data;\n"
                f"  (void)i;\n  {run.symbol}({', '.join(operands)});\n}}\n"
            )
        return made

    def _elements(self, buffer: Buffer) -> str:
        return " * ".join([self._c(dim) for dim in buffer.dims]) or "1"

    def _lives(self) -> list[str]:
        """A space for each value that is neither an input, an output nor a constant."""
        spaces: list[str] = []
        for buffer in self.inside:
            uses = [at for at, run in enumerate(self.link.runs) if buffer in run.buffers]
            size = f"sc_chain_bytes({self._elements(buffer)}, {_size(buffer)})"
            spaces.append(f"{{-1, {size}, {uses[0]}, {uses[-1]}, {len(spaces)}}}")
        return spaces

    def _run(self) -> str:
        link = self.link
        head = "const sc_tensor *const *in, const sc_constant *constants, sc_tensor *const *out"
        lines = [
            f"static int run({head}, const sc_call *call)",
            "{",
            f"  i64 s[{max(1, len(link.variables))}];",
            f"  void *v[{max(1, len(self.place))}];",
            "  if (bind(in, s)) return SC_WRONG;",
            "  (void)constants, (void)v, (void)call, (void)out;",
            "  int status = SC_OK;",
        ]
        lines += [f"  v[{self.place[b]}] = in[{at}]->data;" for at, b in enumerate(link.inputs)]
        lines += [
            f"  v[{self.place[b]}] = (void *)constants[{at}].data;"
            for at, b in enumerate(link.constants)
        ]
        outputs = {buffer: at for at, buffer in reversed(list(enumerate(link.outputs)))}
        lines += [
            f"  v[{self.place[buffer]}] = out[{at}]->data;"
            for buffer, at in outputs.items()
            if buffer in self.made
        ]
        lines += self._workspace()
        if link.runs:
            lines.append("  sc_chain_job j = {v, s, 0, 1};")
        for at, run in enumerate(link.runs):
            extent = "1" if run.extent is None else self._c(run.extent)
            work = self._c(run.work)
            lines.append(
                f"  if (!status) status = sc_chain_go(call, task{at}, {extent}, {work}, &j);"
            )
        for at, buffer in enumerate(link.outputs):
            if buffer not in self.made or outputs[buffer] != at:
                bytes_ = f"{self._elements(buffer)} * {_size(buffer)}"
                source = f"v[{self.place[buffer]}]"
                lines.append(f"  if (!status) sc_chain_copy(out[{at}]->data, {source}, {bytes_});")
        if self.inside:
            lines.append("  sc_scratch_put(call->host, slot, memory);")
        return "\n".join([*lines, "  return status;", "}", ""])

    def _workspace(self) -> list[str]:
        if not self.inside:
            return []
        spaces = ",\n    ".join(self._lives())
        return [
            f"  sc_space spaces[] = {{\n    {spaces}}};",
            f"  const i64 bytes = sc_chain_place(spaces, {len(self.inside)});",
            "  if (bytes < 0) return SC_TOO_LARGE;",
            "  int slot;",
            "  float *memory = sc_scratch_get(call->host, bytes / 4, &slot);",
            "  if (!memory) return SC_MEMORY;",
            *(
                f"  v[{self.place[buffer]}] = (char *)memory + spaces[{at}].at;"
                for at, buffer in enumerate(self.inside)
            ),
        ]

    def _table(self) -> str:
        name = self.link.name
        hidden = '__attribute__((visibility("hidden")))'
        return (
            f"extern const sc_extern sc_extern_{name};\n"
            f'{hidden} const sc_extern sc_extern_{name} = {{"{name}", infer, run}};\n'
        )


def _size(buffer: Buffer) -> int:
    return int(np.dtype(buffer.dtype).itemsize)


def _check(buffer: Buffer, name: str) -> None:
    if buffer.dtype not in TYPES or len(buffer.dims) > MAX_RANK:
        raise BackendError(
            f"{name} passes on a {buffer.dtype} of rank {len(buffer.dims)}: values between "
            f"the layers of a bundle are {', '.join(TYPES)}, of rank {MAX_RANK} or less",
            fix="convert it to float32 or int32 in the model",
        )
