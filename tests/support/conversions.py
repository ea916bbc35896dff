"""Conversions that something happens to, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jaxconv

TOKENS = ["--token-ids", "[5,6]", "--backend", "numpy"]
# Runs the command line and calls `happening(rank of the call)` on each report of progress.
SCRIPT = """
import contextlib, os, signal, sys, time
import jaxconv.cli.convert as command
from jaxconv.cli import main
calls = 0
def progress(done, total):
    global calls
    calls += 1
    if calls == 1:
        {happening}
command.progress_bar = lambda quiet: contextlib.nullcontext(progress)
sys.exit(main(sys.argv[1:]))
"""


def convert(source: Path, output: Path, during: Callable[[], object] = lambda: None, **options: Any) -> None:
    """Converts in this process; `during` is called once, when the first bytes have been written."""
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 1:
            during()

    jaxconv.convert(source, output, token_ids=[5, 6], backend="numpy", progress=progress, **options)
    assert calls


def command(happening: str, source: Path, output: Path, *flags: str) -> list[str]:
    """A process that converts; the statement runs when the first bytes have been written."""
    code = SCRIPT.format(happening=happening)
    return [sys.executable, "-c", code, "convert", str(source), str(output), *TOKENS, *flags]


def run(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a process to its end."""
    return subprocess.run(arguments, capture_output=True, text=True, check=False, **options)


def leave_stage(source: Path, output: Path, *flags: str) -> Path:
    """Has a conversion killed while it writes. Returns the staged directory that it leaves."""
    before = set(_stages(output))
    killed = run(command("os.kill(os.getpid(), signal.SIGKILL)", source, output, *flags))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    [stage] = set(_stages(output)) - before
    return stage


def _stages(output: Path) -> list[Path]:
    places = [output.parent, output]
    return [path for place in places if place.is_dir() for path in place.glob(".jaxconv-stage-*")]


def digests(directory: Path) -> dict[str, str]:
    """The sha256 of every file in a directory."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(directory: Path) -> list[str]:
    """What lies in a directory, hidden entries included."""
    return sorted(os.listdir(directory))
