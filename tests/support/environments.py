"""Environments of other libraries, whose pins clash with the project's: made by make, used by slow tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(environment: str) -> Path:
    """The Python of an environment that `make test-slow` sets up from `requirements/<environment>.txt`."""
    python = ROOT / f".venv-{environment}" / "bin" / "python"
    assert python.is_file(), f"{python} does not exist; run: make .venv-{environment}/.installed"
    return python


def run_in(environment: str, program: str, *arguments: str | Path, folder: Path | None = None) -> str:
    """Runs a file or `-m MODULE` of this repository with that Python, in `folder`; its standard output."""
    command = [str(python_of(environment)), *program.split(), *map(str, arguments)]
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=folder or ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr[-4000:]}"
    return done.stdout
