"""A process that fails, dies, or has another source: an error on all of them, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from jaxconv.cli import main
from tests.support.processes import HEARTBEAT_TIMEOUT, TOKENS, Ended, flags, free_port, run_together
from tests.support.tiny import tiny_checkpoint

SCRIPT = """
import os, signal, sys, threading, time
import jaxconv.conversion as conversion
import jaxconv.writer.share as share
from jaxconv.cli import main
rank, victim, fault = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
real = share.write_file
def write_file(file, folder, copy_mode, advance):
    done = real(file, folder, copy_mode, advance)
    if rank == victim:
        if fault.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, fault))
        if fault.startswith("waiting "):
            number = getattr(signal, fault.removeprefix("waiting "))
            threading.Timer(5, os.kill, (os.getppid(), number)).start()
            return done
        if fault.startswith("parent "):
            os.kill(os.getppid(), getattr(signal, fault.removeprefix("parent ")))
            time.sleep(60)
        raise OSError(28, "No space left on device")
    for _ in range(600):  # the others need five minutes for each file
        time.sleep(0.5)
        advance(0)
    return done
share.write_file = write_file
if rank == victim and fault == "early SIGKILL":
    conversion.staged_output = lambda *_: os.kill(os.getpid(), 9)
sys.exit(main(sys.argv[1:]))
"""


def run_with_fault(source: Path, output: Path, victim: int, fault: str, size: int = 3) -> list[Ended]:
    """Converts in several processes, to one of which something happens after its first file."""
    port = free_port()
    command = ["convert", str(source), str(output), *TOKENS, "--backend", "numpy"]
    return run_together(
        [["-c", SCRIPT, str(rank), str(victim), fault, *command, *flags(rank, size, port)] for rank in range(size)],
        frozen=[victim] if fault == "SIGSTOP" else [],
    )


@pytest.mark.parametrize("victim", [0, 1])
def test_a_full_disk_ends_all(untied: Path, tmp_path: Path, victim: int) -> None:
    """A process that fails tells the others why within seconds, and nothing is left."""
    ended = run_with_fault(untied, tmp_path / "new" / "out", victim, "full disk")
    for rank, process in enumerate(ended):
        assert process.code == 1 and process.seconds < 30, process
        named = rank == victim or f"process {victim} on {socket.gethostname()} failed: writing" in process.err
        assert named and "No space left on device" in process.err and process.err.count("\n") == 1, process
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("victim", "fault"),
    [
        (0, "SIGKILL"),
        pytest.param(2, "SIGKILL", marks=pytest.mark.slow),
        pytest.param(1, "SIGSTOP", marks=pytest.mark.slow),
        pytest.param(1, "early SIGKILL", marks=pytest.mark.slow),
        pytest.param(0, "SIGSTOP", marks=pytest.mark.slow),
    ],
)
def test_a_lost_process_ends_all(untied: Path, tmp_path: Path, victim: int, fault: str) -> None:
    """A process that is killed or frozen is named by the others in time; the next run removes what they had staged."""
    ended = run_with_fault(untied, tmp_path / "out", victim, fault)
    for rank, process in enumerate(ended):
        if rank == victim:
            assert fault == "SIGSTOP" or (process.code == 1 and "was ended by SIGKILL" in process.err), process
            continue
        assert process.code == 1 and process.seconds < 20 + HEARTBEAT_TIMEOUT + 30, process
        assert f"process {victim} on {socket.gethostname()} died or froze" in process.err, process
        assert process.err.count("\n") == 1 and "`jaxconv clean`" in process.err
    assert not (tmp_path / "out").exists()
    if fault == "SIGSTOP":
        time.sleep(2)  # its parent was killed, so it is woken and ends
    assert main(["convert", str(untied), str(tmp_path / "out"), *TOKENS, "--backend", "numpy", "--quiet"]) == 0
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code"), [("parent SIGTERM", 143), ("parent SIGINT", 130), ("parent SIGKILL", -9), ("waiting SIGTERM", 143)]
)
def test_an_interrupted_process_ends_all(untied: Path, tmp_path: Path, fault: str, code: int) -> None:
    """A signal to what was started reaches what works, or waits for the others, which are told: nothing is left."""
    ended = run_with_fault(untied, tmp_path / "out", 1, fault)
    assert ended[1].code == code
    for process in (ended[0], ended[2]):
        assert process.code == 1 and process.seconds < 30, process
        assert f"process 1 on {socket.gethostname()} failed: it was interrupted" in process.err, process
    assert not os.listdir(tmp_path)


def another_source(untied: Path, directory: Path, difference: str) -> Path:
    """A source that differs from that of the first process."""
    place = directory / "other" / untied.name
    if difference == "values":
        return tiny_checkpoint(place, "llama", tie=False, shards=3, seed=1)
    other = shutil.copytree(untied, place)
    if difference == "absent":
        shutil.rmtree(other)
    if difference == "config":
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    if difference == "backbone":
        shard = other / "model-00002-of-00004.safetensors"
        data = bytearray(shard.read_bytes())
        data[-2000:] = bytes(2000)
        shard.write_bytes(data)
    return other


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("absent", "does not exist"),
        ("values", "process 1 on HOST has another set of weights than process 0 on HOST"),
        ("backbone", "process 1 on HOST has another set of weights than process 0 on HOST"),
        ("config", "process 1 on HOST has another config.json than process 0 on HOST"),
    ],
)
def test_another_source_on_one_host(untied: Path, tmp_path: Path, difference: str, message: str) -> None:
    """A process that sees something else than the first: an error of both that says what and where."""
    port = free_port()
    places = [untied, another_source(untied, tmp_path, difference)]
    (tmp_path / "at").mkdir()
    ended = run_together(
        [
            ["-m", "jaxconv", "convert", str(places[rank]), str(tmp_path / "at" / "out"), *TOKENS, "--backend", "numpy",
             *flags(rank, 2, port)]
            for rank in range(2)
        ]
    )  # fmt: skip
    for process in ended:
        assert process.code == 1 and process.out == "", process
        assert message.replace("HOST", socket.gethostname()) in process.err and "Traceback" not in process.err
    assert not os.listdir(tmp_path / "at")


@pytest.mark.slow
def test_an_output_that_one_host_does_not_see(untied: Path, tmp_path: Path) -> None:
    """Directories that are not shared are noticed before anything is written."""
    port = free_port()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    ended = run_together(
        [
            ["-m", "jaxconv", "convert", str(untied), str(tmp_path / "ab"[rank] / "out"), *TOKENS, "--backend", "numpy",
             *flags(rank, 2, port)]
            for rank in range(2)
        ]
    )  # fmt: skip
    for process in ended:
        assert process.code == 1
        assert f"host {socket.gethostname()} does not see {tmp_path / 'b'}/.jaxconv-stage-" in process.err
    assert not os.listdir(tmp_path / "a") and not os.listdir(tmp_path / "b")
