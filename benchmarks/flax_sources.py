"""Conversion of flax msgpack and Orbax checkpoints against `cp`, on a random checkpoint of Qwen3-4B's shape.

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

# A process of its own writes them, so that its memory is gone before anything is measured.
WRITE = """
import sys
from pathlib import Path
import flax.serialization
import orbax.checkpoint as ocp
from safetensors.numpy import load_file
source, msgpack, orbax = map(Path, sys.argv[1:])
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
        make_source(base, arguments.size_gb)
        subprocess.run([sys.executable, "-c", WRITE, str(base), str(msgpack), str(orbax)], check=True)
        nbytes = sum(path.stat().st_size for path in msgpack.iterdir())
        for path in base.glob("*.safetensors*"):
            path.unlink()
        print(f"\n{nbytes / 1e9:.2f} GB, {platform.machine()}, {os.cpu_count()} cores\n")
        print("| | seconds | x cp | peak MB |\n|---|---:|---:|---:|")
        for _ in range(arguments.rounds):
            for name, source in (("flax msgpack", msgpack), ("Orbax", orbax)):
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
                    print(f"| {what} | {found.seconds:.2f} | {found.seconds / copy:.2f} | {found.peak_mb:.0f} |", flush=True)
                    shutil.rmtree(output)


if __name__ == "__main__":
    main()
