"""Conversion of flax msgpack and Orbax checkpoints against `cp`, on a random checkpoint of Qwen3-4B's shape.

The last column is what the peak may be: 600 MB and twice the source's largest tensor, which may be a stack of layers.

python -m benchmarks.flax_sources [--size-gb 4] [--rounds 1]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.conversion import make_source
from benchmarks.process import run
from jaxconv.readers import open_checkpoint

# A process of its own writes them, so that its memory is gone before anything is measured.
WRITE = """
import json
import sys
from pathlib import Path
import flax.serialization
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import load_file
from jaxconv.layouts import maxtext
from jaxconv.layouts._rules import axis_sizes
source, msgpack, orbax, scanned = map(Path, sys.argv[1:])
tree = {}
for shard in sorted(source.glob("*.safetensors")):
    for name, array in load_file(shard).items():
        *path, leaf = name.split(".")
        if array.ndim == 2:
            leaf, array = ("embedding", array) if "embed" in name else ("kernel", array.reshape(array.shape[::-1]))
        at = tree
        for key in path:
            at = at.setdefault(key, {})
        at[leaf] = array

ocp.PyTreeCheckpointer().save(orbax.resolve(), {"params": tree})
msgpack.mkdir()
(msgpack / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
config, tree, random = json.loads((source / "config.json").read_text()), {}, np.random.default_rng(0)
sizes = {**axis_sizes(config), "W": config["vocab_size"], "L": config["num_hidden_layers"]}
for rule in maxtext.rules(config):
    if "{i}" not in rule.foreign and not rule.foreign.endswith(".bias") and "logits" not in rule.foreign:
        *path, leaf = rule.foreign.split(".")
        at = tree
        for key in path:
            at = at.setdefault(key, {})
        bits = random.integers(0, 1 << 16, [sizes[symbol] for symbol in rule.axes.split()], np.uint16)
        at[leaf] = ((bits & 0x807F) | (121 << 7)).view(ml_dtypes.bfloat16)
ocp.PyTreeCheckpointer().save(scanned.resolve(), {"params": {"params": tree}})
"""


def main() -> None:
    """Makes the sources, runs `cp` and the conversion of each in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, on the disk to be measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        base, msgpack, orbax, output = (Path(scratch, name) for name in ("base", "msgpack", "orbax", "output"))
        scanned = Path(scratch, "scanned")
        make_source(base, arguments.size_gb)
        subprocess.run([sys.executable, "-c", WRITE, str(base), str(msgpack), str(orbax), str(scanned)], check=True)
        nbytes = sum(path.stat().st_size for path in msgpack.iterdir())
        for path in base.glob("*.safetensors*"):
            path.unlink()
        print(f"\n{nbytes / 1e9:.2f} GB, {platform.machine()}, {os.cpu_count()} cores\n")
        print("| | seconds | x cp | peak MB | limit MB |\n|---|---:|---:|---:|---:|")
        sources = {"flax msgpack": msgpack, "Orbax": orbax, "Orbax, layers stacked": scanned}
        for _ in range(arguments.rounds):
            for name, source in sources.items():
                limit = 600 + 2 * max(ref.nbytes for ref in open_checkpoint(source).tensors.values()) / 2**20
                convert = [
                    sys.executable, "-m", "jaxconv", "convert", str(source), str(output), "--base", str(base), "--backend",
                    "jax", "--classifier-from-tokens", '["no", "yes"]', "--quiet",
                ]  # fmt: skip
                copy, synced_copy = 0.0, ["sh", "-c", 'cp -r "$1" "$2" && sync -f "$2"', "sh", str(source), str(output)]
                for what, command in ((f"cp -r of the {name}, synced", synced_copy), (name, convert)):
                    files = [str(path) for path in source.rglob("*") if path.is_file()]
                    run(["sh", "-c", 'cat "$@" > /dev/null', "sh", *files])  # the same page cache for everyone
                    os.sync()
                    found = run(command)
                    copy = copy or found.seconds
                    figures = f"{found.seconds:.2f} | {found.seconds / copy:.2f} | {found.peak_mb:.0f} | {limit:.0f}"
                    print(f"| {what} | {figures} |", flush=True)
                    shutil.rmtree(output)


if __name__ == "__main__":
    main()
