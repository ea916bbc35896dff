"""The public names, and what importing and running them costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jaxconv

FORBID = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise AssertionError("imported " + name)

sys.meta_path.insert(0, Forbid())
"""
FRAMEWORKS = ("jax", "flax", "torch", "transformers", "tensorstore")


def run(forbidden: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process where importing the forbidden packages fails."""
    return subprocess.run(
        [sys.executable, "-c", FORBID.format(forbidden=forbidden) + code], capture_output=True, text=True, check=False
    )


def test_public_names() -> None:
    """`__all__` is complete, and every name is there, functions not hidden by modules of the same name."""
    assert jaxconv.__all__ == sorted(jaxconv.__all__) == dir(jaxconv)
    for name in jaxconv.__all__:
        assert callable(getattr(jaxconv, name)) or name == "__version__", name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = jaxconv.nonsense


def test_help_imports_no_framework() -> None:
    """`jaxconv --help` and `import jaxconv` import no framework, and the guard can fail."""
    code = "import jaxconv, jaxconv.cli; sys.exit(jaxconv.cli.main(['--help']))"
    found = run((*FRAMEWORKS, "numpy"), code)
    assert found.returncode == 0, found.stderr
    assert "convert" in found.stdout
    assert "imported numpy" in run(("numpy",), "import numpy").stderr


@pytest.mark.parametrize(
    ("backend", "forbidden"),
    [("jax", ("torch", "transformers")), ("torch", ("jax", "flax")), ("numpy", FRAMEWORKS)],
)
def test_the_other_framework_is_never_imported(qwen3: Path, tmp_path: Path, backend: str, forbidden: tuple[str, ...]) -> None:
    """A conversion imports only the backend that was chosen."""
    arguments = ["convert", str(qwen3), str(tmp_path / "out"), "--token-ids", "[5,6]", "--backend", backend]
    found = run(forbidden, f"from jaxconv.cli import main; sys.exit(main({arguments!r}))")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "out" / "config.json").is_file()


def test_torch_backend_stands_alone() -> None:
    """torch_backend imports nothing from jaxconv."""
    found = run(("jaxconv",), "import torch_backend.arithmetic, torch_backend.models")
    assert found.returncode == 0, found.stderr


def test_files_stay_short() -> None:
    """No file of the packages passes 300 lines."""
    root = Path(jaxconv.__file__).parents[1]
    files = [path for package in ("jaxconv", "torch_backend") for path in (root / package).rglob("*.py")]
    assert len(files) > 30
    assert not [path.name for path in files if len(path.read_text().splitlines()) > 300]
