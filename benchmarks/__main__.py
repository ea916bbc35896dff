"""Runs every benchmark of this package, each in its own process: python -m benchmarks."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if not module.name.startswith("_"):
        print(f"## {module.name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{module.name}"], check=True)
