"""The structure that docs/architecture.md describes, and that the checks of it can fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import CHECKS, Module, modules

TYPING = Path(__file__).parent / "typing"


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_the_structure_is_kept(check: object) -> None:
    """No import climbs or goes in a circle; files and functions are short; parameters are documented."""
    assert callable(check)
    assert list(check(modules())) == []


def example(name: str, code: str) -> Module:
    """A module of the given code."""
    return Module(name, Path(__file__), ast.parse(code))


def test_a_climbing_import_is_found() -> None:
    """A reader that imports the writer climbs; so does a room that nobody placed."""
    reader = example("jaxconv.readers.npz", "from jaxconv.writer import write_files")
    writer, attic = example("jaxconv.writer", ""), example("jaxconv.attic", "")
    assert len(list(architecture.climbing_imports([reader, writer]))) == 1
    assert len(list(architecture.climbing_imports([attic]))) == 1


def test_a_circle_is_found() -> None:
    """Two modules that import each other are reported, a function-level import included."""
    first = example("jaxconv.readers.a", "def f():\n    import jaxconv.readers.b")
    second = example("jaxconv.readers.b", "from jaxconv.readers import a")
    assert list(architecture.circles([first, second]))


def test_long_functions_and_undocumented_parameters_are_found() -> None:
    """A function of 51 statements, and a parameter that its docstring leaves out."""
    long = "def long() -> None:\n" + "    x = 1\n" * 51
    silent = 'def silent(path: str, mode: str) -> None:\n    """Opens path."""\n'
    assert len(list(architecture.long_functions([example("jaxconv.readers.a", long)]))) == 1
    assert list(architecture.undocumented([example("jaxconv.readers.a", silent)])) == [
        "jaxconv.readers.a.silent does not document mode"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(TYPING.glob("*.py")), ids=lambda path: path.stem)
def test_the_public_api_is_typed(program: Path) -> None:
    """`mypy --strict` accepts a program that uses the whole API, and finds every wrong call."""
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(program)]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    assert checked.returncode == 0, checked.stdout
