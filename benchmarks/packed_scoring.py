"""Memory and time of `jaxconv score` with INT8 weights of Qwen3-4B's shape: codes in memory, and numbers made on loading.

python -m benchmarks.packed_scoring [--layers 36] [--backend jax] [--backend torch] [--only-codes] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import jaxconv
from benchmarks.process import run
from benchmarks.quantised import config_of, make_source

PAIRS = 8
WORDS = 120  # of a document, a token each
# What `jaxconv score` does, with weights as they are stored or as numbers.
SCORE = """
import sys
from jaxconv.quantisation import reading
if sys.argv[4] == "numbers":
    reading._packed = lambda *_: None
import json, time, jaxconv
model = jaxconv.load(sys.argv[1], backend=sys.argv[3], device="cpu")
pairs = [(pair["query"], pair["document"]) for pair in map(json.loads, open(sys.argv[2]))]
model.logits(pairs)
started = time.monotonic()
print(json.dumps({"scores": model.logits(pairs), "seconds": time.monotonic() - started}))
"""


def main() -> None:
    """Makes the checkpoint, scores it in every way and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--backend", action="append", choices=["jax", "torch"])
    parser.add_argument("--only-codes", action="store_true", help="where the numbers do not fit into memory")
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.layers} layers, {PAIRS} pairs of about {WORDS} tokens\n")
    print("| | GB | peak MB | of them not mapped | seconds, all |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        source, output, pairs = (Path(scratch, name) for name in ("source", "output", "pairs.jsonl"))
        make_source(source, config_of("int8", arguments.layers, tied=True))
        jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], backend="numpy", copy_mode="link")
        size = sum(path.stat().st_size for path in source.glob("*.safetensors")) / 1e9
        document = " ".join(f"word{number % 990 + 4}" for number in range(WORDS))
        pairs.write_text("\n".join(json.dumps({"query": f"word{n + 9}", "document": document}) for n in range(PAIRS)))
        for backend in arguments.backend or ["jax", "torch"]:
            for form in ("codes",) if arguments.only_codes else ("codes", "numbers"):
                measured = run([sys.executable, "-c", SCORE, str(output), str(pairs), backend, form])
                row = f"| {backend}, {form} | {size:.2f} | {measured.peak_mb:.0f} | {measured.anonymous_mb:.0f} |"
                print(f"{row} {measured.seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
