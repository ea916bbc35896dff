"""Which processes belong together, and which of them writes which file."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.cli import main
from jaxconv.distributed import links
from jaxconv.errors import JaxconvError, ProcessError
from jaxconv.writer.shards import SCORE_FILE, OutputFile, assign
from tests.support.processes import TOKENS, flags, free_port
from tests.support.refs import array_ref


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process-id", "0"], "--process-id needs --distributed"),
        (["--distributed", "--num-processes", "2"], "but not --coordinator, --process-id"),
        (["--distributed", *flags(2, 2, 8476)[1:]], "--process-id 2 is out of range; expected 0 to 1"),
        (["--distributed", *flags(-1, 2, 8476)[1:]], "--process-id -1 is out of range"),
        (["--distributed", *flags(0, 0, 8476)[1:]], "--num-processes 0"),
        (["--distributed", *flags(0, 2, 84760)[1:]], "'127.0.0.1:84760' is not an address"),
        (["--distributed", "--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "'host' is not an address"),
        (["--distributed"], "found no TPU pod, Slurm, Open MPI or Kubernetes job"),
    ],
)
def test_wrong_flags(
    untied: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags that do not fit together are wrong usage, reported before anything is waited for."""
    assert main(["convert", str(untied), str(tmp_path / "out"), *TOKENS, "--backend", "numpy", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def meet_all(members: list[tuple[int, int]], port: int) -> list[links.Links | JaxconvError]:
    """Calls `meet` for each (rank, size) in a thread. Returns the result of each, or its error."""
    results: dict[int, links.Links | JaxconvError] = {}

    def one(number: int, rank: int, size: int) -> None:
        try:
            results[number] = links.meet("127.0.0.1", port, size, rank)
        except JaxconvError as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number, *member)) for number, member in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[number] for number in range(len(members))]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(0, 2), (1, 3)], "process 1 on .* has --num-processes 3, process 0 on .* 2"),
        ([(0, 3), (1, 3), (1, 3)], "process 1 on .* connected twice"),
        ([(0, 3), (2, 3)], "2 of 3 processes connected to 127.0.0.1:.* missing: 1"),
        ([(1, 2)], "process 0 did not answer at 127.0.0.1:"),
    ],
)
def test_processes_that_do_not_belong_together(
    members: list[tuple[int, int]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another count, a number used twice, and processes that never come are errors of all that came."""
    monkeypatch.setattr(links, "JOIN_SECONDS", 2)
    monkeypatch.setattr(links, "HELLO_SECONDS", 2)
    for error in meet_all(members, free_port()):
        assert isinstance(error, ProcessError)
        with pytest.raises(ProcessError, match=message):
            raise error


def test_other_programs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that send something else, or nothing, are dropped, and the processes still join."""
    monkeypatch.setattr(links, "HELLO_SECONDS", 1)
    port = free_port()
    joined: list[links.Links | JaxconvError] = []
    first = threading.Thread(target=lambda: joined.extend(meet_all([(0, 2)], port)))
    first.start()
    strangers = []
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x02{}", b"\0\0\0\x05[1,2]", b"\0\0\0\xff{", b""):
        stranger = connect(port)
        stranger.sendall(words)
        strangers.append(stranger)
    second = links.meet("127.0.0.1", port, 2, 1)
    first.join(30)
    assert isinstance(joined[0], links.Links)
    exchange = threading.Thread(target=lambda: joined[0].exchange("a"))  # type: ignore[union-attr]
    exchange.start()
    assert second.exchange("b") == ["a", "b"]
    exchange.join(10)


def connect(port: int) -> socket.socket:
    """A connection to a listener that is about to start."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except ConnectionRefusedError:
            continue


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
