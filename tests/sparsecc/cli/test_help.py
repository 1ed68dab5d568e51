"""Help is quick, has examples, and docs/cli.md says the same."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from sparsecc import __version__, errors
from sparsecc.bench import BenchResult
from sparsecc.cli import app
from sparsecc.cli.command import INTERNAL_ERROR
from sparsecc.cli.compile import Allocation, Score
from sparsecc.report import LayerRow, Report
from sparsecc.request import SCORES
from sparsecc.search.allocation import ALLOCATIONS
from sparsecc.targets import TARGETS, is_buildable

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"
COMMANDS = get_command(app).commands


def section(name: str) -> str:
    """What docs/cli.md says about a command."""
    found = re.search(rf"^## sparsecc {name}\b.*?(?=^## |\Z)", DOCS.read_text(), re.M | re.S)
    assert found, f"docs/cli.md has no section on {name}"
    return found[0]


def test_the_commands():
    assert list(COMMANDS) == [
        "compile",
        "plan",
        "apply",
        "bench",
        "verify",
        "inspect",
        "report",
        "package",
        "calibrate",
        "simulate",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_and_every_option(name, sparsecc):
    done = sparsecc(name, "--help")
    assert done.code == 0
    assert "Examples" in done.out
    assert f"sparsecc {name}" in done.out
    for parameter in COMMANDS[name].params:
        assert parameter.param_type_name == "argument" or parameter.opts[0] in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_and_nothing_else_is(name):
    known = {
        option
        for parameter in COMMANDS[name].params
        if parameter.param_type_name == "option"
        for option in (*parameter.opts, *parameter.secondary_opts)
    } - {"--help", "-h"}
    rows = [line for line in section(name).splitlines() if line.startswith("| `-")]
    documented = {option for row in rows for option in re.findall(r"-[-\w]+", row.split("|")[1])}
    assert documented == known


def test_exit_codes_are_documented():
    table = re.findall(r"^\| (\d+) \|.*\| (?:`(\w+)`)? *\|$", DOCS.read_text(), re.M)
    documented = {name: int(code) for code, name in table if name}
    raised = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert documented == raised | {"InternalError": INTERNAL_ERROR}


@pytest.mark.parametrize(
    ("command", "shape"), [("inspect", LayerRow), ("bench", BenchResult)], ids=["inspect", "bench"]
)
def test_json_keys_are_documented(command, shape):
    keys = [field.name for field in dataclasses.fields(shape)]
    if shape is LayerRow:
        keys += Report([], "x86-64").to_json()
    assert [key for key in keys if f"`{key}`" not in section(command)] == []


def test_choices_are_those_of_the_compiler():
    assert set(Score) == set(SCORES)
    assert set(Allocation) == set(ALLOCATIONS)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_documented(target):
    assert f"`{target}`" in section("compile" if is_buildable(TARGETS[target]) else "inspect")


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from sparsecc.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'onnx', 'onnxruntime', 'numpy', 'scipy'} & sys.modules.keys())"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert time.perf_counter() - start < 3  # 0.2 s on a quiet machine


def test_no_command_imports_torch(artifact):
    code = (
        "import sys; from sparsecc.cli import app\n"
        f"for args in (['inspect', {str(artifact)!r}, '--json'], ['verify', {str(artifact)!r}]):\n"
        "    try: app(args)\n"
        "    except SystemExit as done: assert not done.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_version_and_no_arguments(sparsecc):
    assert sparsecc("--version").out == f"sparsecc {__version__}\n"
    assert "Commands" in sparsecc().out
