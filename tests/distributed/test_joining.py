"""Which processes belong together, and which of them writes which file."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxconv
from jaxconv.errors import UsageError
from jaxconv.writer.shards import SCORE_FILE, OutputFile, assign
from tests.support.processes import TOKENS, flags, free_port, run_together
from tests.support.refs import array_ref


def named(rank: int, size: int, coordinator: str = "127.0.0.1:8476") -> dict[str, Any]:
    """The arguments that name one of `size` processes."""
    return {"distributed": True, "coordinator": coordinator, "num_processes": size, "process_id": rank}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"process_id": 0}, "--process-id needs --distributed"),
        ({"heartbeat_timeout": 9}, "--heartbeat-timeout needs --distributed"),
        ({"distributed": True, "num_processes": 2}, "--distributed has only a part of its address"),
        (named(2, 2), "--process-id 2 is none of --num-processes 2"),
        (named(-1, 2), "--process-id -1 is none of --num-processes 2"),
        (named(0, 0), "--process-id 0 is none of --num-processes 0"),
        (named(0, 2) | {"heartbeat_timeout": 0}, "--heartbeat-timeout 0"),
        (named(0, 2, "127.0.0.1:84760"), "'127.0.0.1:84760' is not an address"),
        (named(0, 2, "host"), "'host' is not an address"),
    ],
)
def test_wrong_flags(untied: Path, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """Flags that do not fit together are wrong usage, reported before anything is waited for."""
    with pytest.raises(UsageError, match=re.escape(message)):
        jaxconv.convert(untied, tmp_path / "out", classifier_from_tokens=["no", "yes"], **arguments)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        ("", 2, "found no TPU pod, Slurm, Open MPI or Kubernetes job"),
        ("sys.modules['jax'] = None", 2, "jax is not installed. Install it with: pip install 'jaxconv[jax]'"),
    ],
)
def test_nothing_to_join(untied: Path, tmp_path: Path, code: str, exit_code: int, message: str) -> None:
    """Outside a cluster, and without jax whichever backend computes, --distributed is wrong usage."""
    program = f"import sys; {code or 'pass'}; from jaxconv.cli import main; sys.exit(main(sys.argv[1:]))"
    command = ["convert", str(untied), str(tmp_path / "out"), *TOKENS, "--backend", "numpy", "--distributed"]
    [ended] = run_together([["-c", program, *command]])
    assert ended.code == exit_code and message in ended.err and ended.err.count("\n") == 1, ended
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param([(0, 3), (2, 3)], "not all processes came within 5 seconds", marks=pytest.mark.slow),
        pytest.param([(1, 2)], "not all processes came within 5 seconds", marks=pytest.mark.slow),
        pytest.param([(0, 3), (1, 3), (1, 3)], "or not with numbers of their own", marks=pytest.mark.slow),
        pytest.param([(0, 2), (1, 3)], "has another number of processes than process 0", marks=pytest.mark.slow),
    ],
)
def test_processes_that_do_not_belong_together(
    untied: Path, tmp_path: Path, members: list[tuple[int, int]], message: str
) -> None:
    """Another count, a number used twice, and processes that never come are errors of all that came."""
    port = free_port()
    program = (
        "import sys, jaxconv.distributed as d; d.JOIN_SECONDS = 5; from jaxconv.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["convert", str(untied), str(tmp_path / "out"), *TOKENS, "--backend", "numpy"]
    ended = run_together([["-c", program, *command, *flags(rank, size, port)] for rank, size in members])
    for process in ended:
        assert process.code == 1 and message in process.err and process.err.count("\n") == 1, process
    assert not os.listdir(tmp_path)


def test_a_port_that_is_taken(untied: Path, tmp_path: Path) -> None:
    """JAX dies of a port that somebody else listens on; its last words say why."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        arguments = [str(untied), str(tmp_path / "out"), *TOKENS, *flags(0, 1, server.getsockname()[1])]
        [ended] = run_together([["-m", "jaxconv", "convert", *arguments]])
    reasons = ("Failed to add port to server", "Failed to start RPC server")  # which of them JAX sees first is a race
    assert ended.code == 1 and any(reason in ended.err for reason in reasons) and ended.err.count("\n") == 1, ended
    assert not os.listdir(tmp_path)


def test_strangers_at_the_port(untied: Path, tmp_path: Path) -> None:
    """Connections of other programs, which send something else or nothing, change nothing."""
    port, done = free_port(), threading.Event()

    def disturb() -> None:
        while not done.is_set():
            for words in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\x02{}", b""):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as stranger:
                    stranger.sendall(words)
                    time.sleep(0.05)

    stranger = threading.Thread(target=disturb)
    stranger.start()
    command = ["-m", "jaxconv", "convert", str(untied), str(tmp_path / "out"), *TOKENS, "--backend", "numpy"]
    ended = run_together([[*command, *flags(rank, 2, port)] for rank in range(2)])
    done.set()
    stranger.join()
    assert [process.code for process in ended] == [0, 0], ended


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), processes=st.integers(1, 9))
def test_files_are_shared_by_bytes(sizes: list[int], processes: int) -> None:
    """Every file has one owner, the same each time; loads differ by one file at most, apart from the score file."""
    refs = [array_ref(f"t{number}", np.zeros(size, np.uint8)) for number, size in enumerate(sizes)]
    score = OutputFile(SCORE_FILE, (array_ref("score.weight", np.zeros(4, np.float32)),))
    files = [*(OutputFile(f"model-{ref.name}", (ref,)) for ref in refs), score]
    owners = assign(files, processes)
    assert owners == assign(files, processes) and owners[-1] == 0 and set(owners) <= set(range(processes))
    loads = [
        sum(file.nbytes for file, owner in zip(files, owners, strict=True) if owner == rank) for rank in range(processes)
    ]
    assert max(loads) - min(loads) <= max(sizes) + score.nbytes
