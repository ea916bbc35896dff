"""`jaxconv verify --structure-only` against merely reading both checkpoints, on a random one of Qwen3-4B's shape.

    python -m benchmarks.verification [--size-gb 8] [--rounds 3]

The first row is how long Python takes to start and to import what verify needs; the last one includes it. Memory is all that
is resident at the peak, and the part of it that is the process's own (the rest are mapped files and libraries).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.conversion import make_source
from benchmarks.process import Measured, run


def commands(source: Path, output: Path) -> dict[str, list[str]]:
    """What is measured, by the name in the table."""
    files = [str(path) for folder in (source, output) for path in sorted(folder.glob("*.safetensors"))]
    start = "import numpy, ml_dtypes, safetensors, tokenizers, jinja2, jaxconv.verification"
    return {
        "start of Python, imports": [sys.executable, "-c", start],
        "cat both > /dev/null": ["sh", "-c", 'cat "$@" > /dev/null', "cat", *files],
        "verify --structure-only": [
            sys.executable, "-m", "jaxconv", "verify", str(source), str(output), "--structure-only",
        ],
    }  # fmt: skip


def main() -> None:
    """Makes a source and its conversion, runs every command in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, on the disk to be measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        source, output = Path(scratch, "source"), Path(scratch, "output")
        make_source(source, arguments.size_gb)
        convert = [sys.executable, "-m", "jaxconv", "convert", str(source), str(output), "--quiet"]
        run([*convert, "--classifier-from-tokens", '["no", "yes"]', "--backend", "numpy"])
        os.sync()
        results: dict[str, list[Measured]] = {}
        for number in range(arguments.rounds + 1):
            for name, command in commands(source, output).items():
                measured = run(command)
                if number:  # the first round fills the page cache
                    results.setdefault(name, []).append(measured)
        nbytes = sum(path.stat().st_size for folder in (source, output) for path in folder.glob("*.safetensors"))
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"\n{nbytes / 1e9:.2f} GB in both, {machine}, median of {arguments.rounds} rounds\n")
    print("| | seconds | x cat | GB/s | peak MB | its own MB |\n|---|---:|---:|---:|---:|---:|")
    read = statistics.median(measured.seconds for measured in results["cat both > /dev/null"])
    for name, values in results.items():
        seconds = statistics.median(v.seconds for v in values)
        peak, own = max(v.peak_mb for v in values), max(v.anonymous_mb for v in values)
        rate = f"{nbytes / seconds / 1e9:.1f}" if not name.startswith("start") else ""
        print(f"| {name} | {seconds:.2f} | {seconds / read:.2f} | {rate} | {peak:.0f} | {own:.0f} |")


if __name__ == "__main__":
    main()
