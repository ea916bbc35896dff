"""Tokens a second of scoring after compilation: JAX against transformers in PyTorch, the same folder, batch and dtype.

    python -m benchmarks.scoring [OUTPUT] [--device auto] [--dtype float32 --dtype bfloat16] [--rows 16] [--length 128]

OUTPUT is a folder that `jaxconv convert` wrote; without it SmolLM2-135M is converted. Both models stay loaded, their rounds
alternate and swap their order, and medians are printed. The ratio is JAX's time over PyTorch's: below 1 JAX is faster. The
last two rows are whole runs of `jaxconv score` with an empty compilation cache, and with the one that the first run left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import run
from jaxconv.errors import BackendUnavailable


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M converted with the prompt of the demo."""
    import jaxconv
    from examples.demo import PROMPT
    from examples.smollm2 import checkpoint

    tokens = ["ĠNo", "ĠYes"]
    jaxconv.convert(checkpoint(), folder / "smollm2", classifier_from_tokens=tokens, template=PROMPT, copy_mode="link")
    return folder / "smollm2"


def models(output: Path, device: str, dtype: str) -> dict[str, Any]:
    """JAX's model and, where PyTorch has the same kind of device, PyTorch's."""
    from jaxconv.backends import get_backend

    opened = get_backend("jax", device)
    found: dict[str, Any] = {"jax": opened.classifier(output, dtype=dtype)}
    try:
        found["torch"] = get_backend("torch", opened.device).classifier(output, dtype=dtype)
    except BackendUnavailable as error:
        print(error)
    return found


def measure(
    found: dict[str, Any], token_ids: list[list[int]], rounds: int
) -> dict[str, tuple[float, float, list[list[float]]]]:
    """Seconds of the first call, median seconds of later ones, and logits of each model."""
    first: dict[str, tuple[float, list[list[float]]]] = {}
    for name, model in found.items():
        started = time.perf_counter()
        logits = model.logits(token_ids)
        first[name] = (time.perf_counter() - started, logits)
    later: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds):
        for name in sorted(found, reverse=bool(number % 2)):
            started = time.perf_counter()
            found[name].logits(token_ids)
            later[name].append(time.perf_counter() - started)
    return {name: (first[name][0], statistics.median(later[name]), first[name][1]) for name in found}


def table(output: Path, options: argparse.Namespace) -> None:
    """A row for each dtype and backend."""
    vocabulary = json.loads((output / "config.json").read_bytes())["vocab_size"]
    token_ids = np.random.default_rng(0).integers(0, vocabulary, (options.rows, options.length)).tolist()
    exact = None
    print("| | dtype | first call, s | compilations | seconds | tokens/s | x torch | max diff. to torch | to jax float32 |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for dtype in options.dtype or ["float32"]:
        found = models(output, options.device, dtype)
        measured = measure(found, token_ids, options.rounds)
        exact = measured["jax"][2] if dtype == "float32" else exact
        for name, (first, seconds, logits) in measured.items():
            ratio = f"{seconds / measured['torch'][1]:.2f}" if "torch" in measured else ""
            gap = f"{difference(logits, measured['torch'][2]):.1e}" if "torch" in measured else ""
            loss = f"{difference(logits, exact):.1e}" if exact is not None else ""
            rate = options.rows * options.length / seconds
            compiled = getattr(found[name], "compilations", "")
            print(
                f"| {name} | {dtype} | {first:.2f} | {compiled} | {seconds:.3f} | {rate:.0f} | {ratio} | {gap} | {loss} |",
                flush=True,
            )


def difference(one: list[list[float]], other: list[list[float]]) -> float:
    """The largest difference of a raw score."""
    return float(np.abs(np.array(one) - np.array(other)).max())


def command_line(output: Path, device: str, cache: Path) -> None:
    """Seconds of the command with an empty compilation cache and with a filled one."""
    os.environ["JAXCONV_COMPILATION_CACHE"] = str(cache)
    flags = [
        "--query",
        "what do cows eat?",
        "--document",
        "Cows eat grass and hay.",
        "--document",
        "The library closes at six.",
    ]
    score = [sys.executable, "-m", "jaxconv", "score", str(output), *flags, "--backend", "jax", "--device", device]
    print("\n| jaxconv score, two documents | seconds | peak MB |\n|---|---:|---:|")
    for name in ("nothing compiled yet", "from the compilation cache"):
        found = run(["sh", "-c", '"$@" > /dev/null', "sh", *score])
        print(f"| {name} | {found.seconds:.2f} | {found.peak_mb:.0f} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", help="default: SmolLM2-135M, converted on the spot")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16", "float16"], help="may be repeated")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu", "tpu"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU
    import jax

    device = jax.devices(None if options.device == "auto" else options.device)[0]
    with tempfile.TemporaryDirectory() as scratch:
        output = options.output or smollm2(Path(scratch))
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        print(f"\n{options.rows} x {options.length} tokens on {device.device_kind} ({machine}), median of {options.rounds}\n")
        table(output, options)
        command_line(output, options.device, Path(scratch, "cache"))


if __name__ == "__main__":
    main()
