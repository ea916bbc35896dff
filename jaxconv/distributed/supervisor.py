"""Runs a command in a child process, so that somebody is left to report when JAX ends it.

JAX ends a process (SIGABRT, from C++) when another one of its job is lost, or does not come. `jax_enable_recoverability`
spares the others, but only while process 0 lives, and once all have come (jaxlib 0.10).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn, TextIO

from jaxconv.distributed import JOIN_SECONDS
from jaxconv.json_files import JsonDict, JsonObject

UNHEALTHY = re.compile(r"(?:stopped sending heartbeats\)|timed out task names):\s*([\d,\s]+)")
FATAL = re.compile(r"^F.*absl::Status: (.*?)(?:\nRPC: \S+/(\w+)|\n\*\*\*|\Z)", re.MULTILINE | re.DOTALL)
NEXT = (
    "If no output is in its place, nothing was published; one that is there is complete. What was staged is removed by the "
    "next run into the same output, or by `jaxconv clean`. Look at the logs, then start the command again on every host."
)
_parent: socket.socket | None = None  # of the child


def supervised(command: Callable[[], int]) -> int:
    """Runs a command in a child and waits for it. Signals that would interrupt this process go to the child.

    Args:
        command: Returns the exit code, after it has printed all that there is to say.

    Returns:
        The exit code of the command; 1 if it was ended before it had one, and the reason is on stderr.
    """
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as log, ours:
        child = os.fork()
        if child == 0:
            ours.close()
            _work(command, theirs, log.fileno())
        theirs.close()
        facts = _follow(ours, child)
        status = os.waitpid(child, 0)[1]
        if "code" in facts:
            return int(facts["code"])
        log.seek(0)
        reason = _explain(status, log.read().decode(errors="replace"), facts.get("hosts", []))
        print(f"jaxconv: {reason} {NEXT}", file=sys.stderr, flush=True)
    return 1


def report(facts: JsonObject) -> None:
    """Tells the parent `facts`, if this process has one that looks on."""
    if _parent is not None:
        _parent.sendall(json.dumps(facts).encode() + b"\n")


def _work(command: Callable[[], int], parent: socket.socket, log: int) -> NoReturn:
    """The child, from beginning to end. It is interrupted if its parent is killed."""
    global _parent
    _parent, code = parent, 1
    os.setpgid(0, 0)  # a terminal sends Ctrl-C to the parent alone, which passes it on
    sys.stdout, sys.stderr = _moved(1, log), _moved(2, log)
    threading.Thread(target=_await_orphanhood, args=(parent,), daemon=True).start()
    try:
        code = command()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    report({"code": code})
    if jax := sys.modules.get("jax"):
        jax.distributed.shutdown()  # waits for the others, and ends this process if one is lost
    os._exit(code)


def _await_orphanhood(parent: socket.socket) -> None:
    parent.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _moved(descriptor: int, log: int) -> TextIO:
    """A stream to where `descriptor` leads; what C++ code writes to it goes to the log from now on."""
    stream = open(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    os.dup2(log, descriptor)
    return stream


def _follow(link: socket.socket, child: int) -> JsonDict:
    """What the child reports until it ends."""

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)
        os.kill(child, signal.SIGCONT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, forward)
    with link.makefile() as lines:
        return {name: value for line in lines for name, value in json.loads(line).items()}


def _explain(status: int, log: str, hosts: Sequence[str]) -> str:
    """What is known about the end of a child of this `waitpid` status, with its C++ log and the hosts of all processes."""
    fatal, named = FATAL.search(log), UNHEALTHY.search(log)
    if fatal is None:
        code = os.waitstatus_to_exitcode(status)
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
