"""Several real processes on this machine that belong together, as the hosts of a pod do."""

from __future__ import annotations

import filecmp
import os
import socket
import subprocess
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEARTBEAT_TIMEOUT = 10  # seconds
TOKENS = ["--classifier-from-tokens", '["no","yes"]']


@dataclass(frozen=True)
class Ended:
    """How a process ended; `seconds` counts from the start of all."""

    code: int
    out: str
    err: str
    seconds: float


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def flags(rank: int, size: int, port: int) -> list[str]:
    """The flags that name one of `size` processes."""
    return [
        "--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", str(size), "--process-id", str(rank),
        "--heartbeat-timeout", str(HEARTBEAT_TIMEOUT),
    ]  # fmt: skip


def run_together(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]] = (),
    timeout: float = 120,
    frozen: Container[int] = (),
) -> list[Ended]:
    """Runs `python ARGUMENTS...` for each command at once and waits for all but the `frozen`, which are killed in the end.

    Whatever outlives the timeout is an error.
    """
    started = time.monotonic()
    running = []
    for rank, command in enumerate(commands):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"} | (environments[rank] if environments else {})
        pipe = subprocess.PIPE
        running.append(
            subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
        )
    ended = {}
    try:
        while any(rank not in ended and rank not in frozen for rank in range(len(running))):
            assert time.monotonic() - started < timeout, f"of {len(running)} processes only {sorted(ended)} ended"
            for rank, process in enumerate(running):
                if rank not in ended and process.poll() is not None:
                    ended[rank] = time.monotonic() - started
            time.sleep(0.02)
    finally:
        for process in running:
            process.kill()
    said = [process.communicate() for process in running]
    return [
        Ended(process.returncode, out, err, ended.get(rank, timeout))
        for rank, (process, (out, err)) in enumerate(zip(running, said, strict=True))
    ]


def same_tree(one: Path, other: Path) -> bool:
    """Whether two folders have the same files with the same bytes."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*"))
    assert len(names) > 5 and names == sorted(str(path.relative_to(other)) for path in other.rglob("*"))
    files = [name for name in names if (one / name).is_file()]
    return filecmp.cmpfiles(one, other, files, shallow=False) == (files, [], [])


def convert_together(size: int, source: Path, output: Path, *more: str) -> list[Ended]:
    """`jaxconv convert` in `size` processes."""
    port = free_port()
    command = ["-m", "jaxconv", "convert", str(source), str(output), *TOKENS, *more]
    return run_together([[*command, *flags(rank, size, port)] for rank in range(size)])
