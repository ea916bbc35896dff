"""Conversion from and to a bucket of S3 on this machine (moto), whose uploads and downloads are measured beside it.

python -m benchmarks.object_stores [--size-gb 4]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.conversion import make_source
from benchmarks.process import Measured, run

BUCKET = "bucket"
STORE = "import fsspec, sys; store = fsspec.filesystem('s3', config_kwargs={'read_timeout': 300}); "
PUT = STORE + "store.put(sys.argv[1] + '/', sys.argv[2], recursive=True)"
GET = STORE + "store.get(sys.argv[1], sys.argv[2], recursive=True)"


def serve() -> None:
    """Starts the server, makes the bucket, and points the environment of all commands there."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    boto3.client("s3").create_bucket(Bucket=BUCKET)


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
        size_gb: The size of the model.
    """
    source = scratch / "source"
    make_source(source, size_gb)
    remote = f"s3://{BUCKET}/source"
    commands = {
        "upload by fsspec": [sys.executable, "-c", PUT, str(source), f"{BUCKET}/source"],
        "download by fsspec": [sys.executable, "-c", GET, f"{BUCKET}/source", str(scratch / "copy")],
        "disk to bucket": convert(source, f"s3://{BUCKET}/uploaded"),
        "bucket to disk": convert(remote, scratch / "downloaded"),
        "bucket to bucket": convert(remote, f"s3://{BUCKET}/copied"),
    }
    return {name: run(command) for name, command in commands.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is made")
    arguments = parser.parse_args()
    serve()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        results = measure(Path(scratch), arguments.size_gb)
        nbytes = sum(path.stat().st_size for path in Path(scratch, "source").iterdir())
    print(f"\n{nbytes / 1e9:.2f} GB, {os.cpu_count()} cores\n")
    print("| | seconds | peak MB |\n|---|---:|---:|")
    for name, measured in results.items():
        print(f"| {name} | {measured.seconds:.1f} | {measured.peak_mb:.0f} |")


if __name__ == "__main__":
    main()
