"""Runs a command in a child process, so that somebody is left to report when JAX ends it.

JAX ends a process (SIGABRT, from C++) when another one of its job is lost, or does not come. `jax_enable_recoverability`
spares the others, but only while process 0 lives, and once all have come (jaxlib 0.10).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import FrameType
from typing import TextIO

from jaxconv.distributed import JOIN_SECONDS
from jaxconv.json_files import JsonDict, JsonObject

UNHEALTHY = re.compile(r"(?:stopped sending heartbeats\)|timed out task names):\s*([\d,\s]+)")
FATAL = re.compile(r"^F.*absl::Status: (.*?)(?:\nRPC: \S+/(\w+)|\n\*\*\*|\Z)", re.MULTILINE | re.DOTALL)
NEXT = (
    "If no output is in its place, nothing was published; one that is there is complete. What was staged is removed by the "
    "next run into the same output, or by `jaxconv clean`. Look at the logs, then start the command again on every host."
)
_link: Connection | None = None  # of the child to its parent


def supervised(command: Callable[[], int]) -> int:
    """Runs a command in a child and waits for it. Signals that would interrupt this process go to the child.

    Args:
        command: Returns the exit code, after it has printed all that there is to say.

    Returns:
        The exit code of the command; 1 if it was ended before it had one, and the reason is on stderr.
    """
    processes, facts = multiprocessing.get_context("fork"), JsonDict()
    ours, theirs = processes.Pipe(duplex=False)
    with tempfile.TemporaryFile() as log:
        child = processes.Process(target=_work, args=(command, theirs, log.fileno()))
        child.start()
        theirs.close()

        def forward(number: int, frame: FrameType | None) -> None:
            if child.pid is not None:
                os.kill(child.pid, number)
                os.kill(child.pid, signal.SIGCONT)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, forward)
        with contextlib.suppress(EOFError):
            while True:
                facts |= ours.recv()
        child.join()
        if "code" in facts:
            return int(facts["code"])
        log.seek(0)
        reason = _explain(child.exitcode or 0, log.read().decode(errors="replace"), facts.get("hosts", []))
        print(f"jaxconv: {reason} {NEXT}", file=sys.stderr, flush=True)
    return 1


def report(facts: JsonObject) -> None:
    """Tells the parent `facts`, if this process has one that looks on."""
    if _link is not None:
        _link.send(facts)


def _work(command: Callable[[], int], link: Connection, log: int) -> None:
    """The child, from beginning to end. It is interrupted if its parent is killed."""
    global _link
    _link = link
    os.setpgid(0, 0)  # a terminal sends Ctrl-C to the parent alone, which passes it on
    sys.stdout, sys.stderr = _moved(1, log), _moved(2, log)
    threading.Thread(target=_await_orphanhood, daemon=True).start()
    report({"code": command()})
    if jax := sys.modules.get("jax"):
        jax.distributed.shutdown()  # waits for the others, and ends this process if one is lost


def _await_orphanhood() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _moved(descriptor: int, log: int) -> TextIO:
    """A stream to where `descriptor` leads; what C++ code writes to it goes to the log from now on."""
    stream = open(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    os.dup2(log, descriptor)
    return stream


def _explain(code: int, log: str, hosts: Sequence[str]) -> str:
    """What is known about the end of a child of this exit code, with its C++ log and the hosts of all processes."""
    fatal, named = FATAL.search(log), UNHEALTHY.search(log)
    if fatal is None:
        name = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        why = "The system does so when memory is short." if name == "SIGKILL" else " ".join(log.splitlines()[-1:])
        return f"the process that did the work was ended by {name}. {why}"
    words = " ".join(fatal[1].split())
    if fatal[2] == "RegisterTask":
        return f"not all processes came within {JOIN_SECONDS} seconds, or not with numbers of their own: {words}."
    lost = re.findall(r"\d+", named[1]) if named else ["0"]
    names = ", ".join(
        f"process {rank} on {hosts[int(rank)]}" if int(rank) < len(hosts) else f"process {rank}" for rank in lost
    )
    return f"{names} died or froze before the conversion was done, or its host was lost ({words})."
