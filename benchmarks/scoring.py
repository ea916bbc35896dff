"""Tokens a second of scoring: JAX against PyTorch, the same folder, batch and dtype, after compilation.

    python -m benchmarks.scoring OUTPUT [--rows 16] [--length 128] [--dtype float32] [--device cpu]

OUTPUT is a folder that `jaxconv convert` wrote. The ratio is JAX's time over PyTorch's: below 1 JAX is faster.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np


def seconds(model: Any, token_ids: list[list[int]], repeats: int) -> tuple[float, list[list[float]]]:
    """Median time of scoring the batch, after one call that compiles, and the logits."""
    logits = model.logits(token_ids)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        model.logits(token_ids)
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2], logits


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu", "tpu"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    from jaxconv.models.head import JaxClassifier
    from torch_backend.scorer import TorchClassifier

    vocabulary = json.loads((options.output / "config.json").read_bytes())["vocab_size"]
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, vocabulary, (options.rows, options.length)).tolist()
    tokens = options.rows * options.length
    jax_model = JaxClassifier(options.output, options.device, options.dtype)
    jax_time, jax_logits = seconds(jax_model, token_ids, options.repeats)
    print(f"{options.rows} x {options.length} tokens, {options.dtype}, {options.device}")
    print(f"jax    {jax_time:8.3f} s  {tokens / jax_time:10.0f} tokens/s  (compiled in {jax_model.compile_seconds:.1f} s)")
    if options.device == "tpu":
        return
    torch_model = TorchClassifier(options.output, {"gpu": "cuda"}.get(options.device, "cpu"), options.dtype)
    torch_time, torch_logits = seconds(torch_model, token_ids, options.repeats)
    print(f"torch  {torch_time:8.3f} s  {tokens / torch_time:10.0f} tokens/s")
    worst = np.abs(np.array(jax_logits) - np.array(torch_logits)).max()
    print(f"ratio  {jax_time / torch_time:8.2f}    max |difference| {worst:.1e}")


if __name__ == "__main__":
    main()
