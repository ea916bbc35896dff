"""A real `vllm serve` of an output, and requests to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VLLM = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "vllm"
# CI_ENV: compiles without C++, which takes minutes on a busy machine where the command has no --enforce-eager
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_CI_ENV": "1",
}  # fmt: skip
START_SECONDS = 300
# vLLM's attention on a CPU has kernels for heads of 32, not 16
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(output: Path, log: Path) -> Iterator[str]:
    """A `vllm serve` of the output with its own template at float32; the URL of the server."""
    command = [str(VLLM), "serve", str(output), "--runner", "pooling"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--served-model-name", "model", "--chat-template", str(output / "score_template.jinja")]
    with running(command, log) as url:
        yield url


@contextmanager
def running(command: list[str], log: Path, folder: Path | None = None) -> Iterator[str]:
    """A server started by `command` in `folder`, at a free loopback port; its URL once it answers."""
    port = free_port()
    path = f"{VLLM.parent}:{os.environ['PATH']}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            stdout=file,
            stderr=file,
            env={**os.environ, **ENVIRONMENT, "PATH": path},
            start_new_session=True,
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(url: str, path: str, **body: Any) -> Any:
    """One JSON request to the server."""
    request = urllib.request.Request(
        url + path, json.dumps({"model": "model", **body}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
