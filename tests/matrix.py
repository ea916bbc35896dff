"""Runs the fast part of the suite in every supported Python: `make test-matrix`, `make test-fast`.

The fast part needs no PyTorch, so each environment holds jaxconv with JAX and the readers of Orbax alone: what a person
with `pip install 'jaxconv[jax,orbax]'` has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
PACKAGES = ("pytest", "pytest-xdist", "hypothesis", "mypy", "orbax-checkpoint")
FAST = (
    "tests/golden", "tests/layouts/test_rules.py", "tests/readers/test_flax_msgpack.py", "tests/readers/test_orbax.py",
    "tests/readers/test_training_state.py", "tests/models/test_batching.py", "tests/test_architecture.py",
)  # fmt: skip


def interpreters(version: str) -> Iterator[str]:
    """Commands that may be that Python: on the PATH, or installed by pyenv."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from (str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True))


def find(version: str) -> str:
    """A command that starts that Python. Exits with a message if there is none."""
    for command in interpreters(version):
        asked = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.startswith(f"Python {version}."):
            return command
    sys.exit(f"Python {version} is not installed; expected python{version} on the PATH or in pyenv.")


def environment(version: str) -> Path:
    """The interpreter of an environment with jaxconv in it."""
    folder = ROOT / f".venv-{version}"
    python = folder / "bin" / "python"
    if not (folder / ".installed").is_file():
        subprocess.run([find(version), "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-e", f"{ROOT}[jax,orbax]", *PACKAGES], check=True)
        (folder / ".installed").touch()
    return python


def main() -> int:
    """Tests every version, or with `--here` the Python that runs; the exit code is that of the first that fails."""
    here = sys.argv[1:] == ["--here"]
    for version in ("",) if here else sys.argv[1:] or VERSIONS:
        print(f"Python {version or sys.version.split()[0]}", flush=True)
        python = sys.executable if here else str(environment(version))
        tests = [python, "-m", "pytest", "-n", "2", "-q", "-m", "not vllm and not torch and not slow", *FAST]
        code = subprocess.run(tests, cwd=ROOT, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
