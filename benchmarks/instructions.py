"""Counts the instructions that a program runs under qemu's user-mode emulation, exactly.

The emulator logs every block of code that it translates and every one that it runs; a count is the
sum, over blocks, of their instructions times how often they ran. A program says what is counted: it
calls ``getpriority`` with :data:`MARK` before and after.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence

MARK = 0x5C
LOG = "exec,nochain,in_asm,strace"
_CHUNK = 1 << 22
_CALL = f"getpriority({MARK:#x},{MARK:#x})".encode()


def emulator() -> str | None:
    """The emulator of 64-bit ARM, if it is installed."""
    names = ("qemu-aarch64-static", "qemu-aarch64")
    return next((path for path in map(shutil.which, names) if path), None)


class Counter:
    """Reads the log of qemu line by line.

    Attributes:
        counts: Instructions between each two marks.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._sizes: dict[bytes, int] = {}
        self._translated: list[bytes] = []
        self._total = 0
        self._last = 0
        self._marked = False

    def read(self, lines: Iterable[bytes]) -> None:
        """Take lines, each without its end."""
        sizes = self._sizes
        for line in lines:
            if line.startswith(b"Trace "):
                key = line[line.index(b"[") : line.index(b"]")]
                if self._translated:
                    self._translate(key)
                if self._marked:
                    self._last = sizes[key]
                    self._total += self._last
            elif line.startswith(b"0x"):
                self._translated.append(line[: line.index(b":")])
            elif line.startswith(b"IN:"):
                self._translated = []
            elif line.startswith(b"Stopped execution"):
                self._total -= self._last
            elif _CALL in line:
                self._mark()

    def _translate(self, key: bytes) -> None:
        """The block that was translated last runs for the first time."""
        first = int(self._translated[0], 16)
        if int(key.split(b"/")[1], 16) != first:
            raise ValueError(f"block {first:#x} was translated, but {key.decode()} runs")
        self._sizes[key] = len(self._translated)
        self._translated = []

    def _mark(self) -> None:
        if self._marked:
            self.counts.append(self._total)
        self._total, self._marked = 0, not self._marked


def count(qemu: str, options: Sequence[str], command: Sequence[str]) -> list[int]:
    """Instructions of a program between each two marks.

    Args:
        qemu: The emulator.
        options: More of its options.
        command: The program and its arguments; it writes nothing to its standard output.

    Raises:
        RuntimeError: It failed, or said nothing of what is counted.
    """
    counter, rest = Counter(), b""
    arguments = [qemu, *options, "-d", LOG, "-D", "/dev/stdout", *command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        while chunk := run.stdout.read(_CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            counter.read(lines)
        said = run.stderr.read().decode(errors="replace").strip()
    if run.returncode or not counter.counts:
        raise RuntimeError(f"{command[0]} under {qemu}: code {run.returncode}: {said[-500:]}")
    return counter.counts
