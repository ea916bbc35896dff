"""Conversion from and to a bucket of Google Cloud Storage on this machine: the tests' emulator, which keeps it in memory.

python -m benchmarks.object_stores [--size-gb 1]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.conversion import make_source
from benchmarks.process import Measured, run
from tests.support.google_storage import BUCKET, GoogleStorage


@contextmanager
def serving() -> Iterator[GoogleStorage]:
    """The emulator, where the environment of all commands points."""
    server = GoogleStorage()
    os.environ |= {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server.server_port}", "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }  # fmt: skip
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def convert(source: Path | str, output: Path | str) -> list[str]:
    """The command that converts."""
    return [
        sys.executable, "-m", "jaxconv", "convert", str(source), str(output), "--backend", "numpy", "--quiet",
        "--classifier-from-tokens", '["no", "yes"]',
    ]  # fmt: skip


def measure(scratch: Path, size_gb: float) -> dict[str, Measured]:
    """Seconds and memory of each way, by its name in the table.

    Args:
        scratch: A directory on the disk to be measured.
        size_gb: The size of the model; the embedding alone has 0.8 GB.
    """
    source, address = scratch / "source", f"gs://{BUCKET}"
    make_source(source, size_gb)
    results = {"cp -r": run(["cp", "-r", str(source), str(scratch / "copy")])}
    results["disk to disk"] = run(convert(source, scratch / "local"))
    with serving() as server:
        results["disk to bucket"] = run(convert(source, f"{address}/uploaded"))
        server.objects.clear()
        server.objects.update({f"source/{path.name}": path.read_bytes() for path in source.iterdir()})
        results["bucket to disk"] = run(convert(f"{address}/source", scratch / "downloaded"))
        results["bucket to bucket"] = run(convert(f"{address}/source", f"{address}/copied"))
        results["bucket to bucket, --hash"] = run([*convert(f"{address}/source", f"{address}/hashed"), "--hash"])
    return results


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        results = measure(Path(scratch), arguments.size_gb)
        nbytes = sum(path.stat().st_size for path in Path(scratch, "source").iterdir())
    print(f"\n{nbytes / 1e9:.2f} GB, {os.cpu_count()} cores\n")
    print("| | seconds | peak MB |\n|---|---:|---:|")
    for name, measured in results.items():
        print(f"| {name} | {measured.seconds:.1f} | {measured.peak_mb:.0f} |")


if __name__ == "__main__":
    main()
