"""Seconds and memory of one command, measured by a small process that starts it.

Linux counts the peak of a process from before its exec, so a child of a large parent seems as large as the parent. A bare
Python in between keeps that floor at about ten megabytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

# ru_maxrss counts pages of mapped files too, which are the page cache's and given back at need; RssAnon is what the
# command itself holds. It is read every 5 ms from the command, not from what that starts in turn.
WATCH = """
import json, os, sys, threading, time
start = time.monotonic()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
peak, over = 0, threading.Event()

def sample():
    global peak
    while not over.wait(0.005):
        try:
            with open(f"/proc/{pid}/status") as file:
                found = [int(line.split()[1]) for line in file if line.startswith("RssAnon")]
        except OSError:
            return
        peak = max([peak, *found])

threading.Thread(target=sample, daemon=True).start()
_, status, usage = os.wait4(pid, 0)
seconds = time.monotonic() - start
over.set()
os.write(int(sys.argv[1]), json.dumps([status, seconds, usage.ru_maxrss, peak]).encode())
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Wall seconds, and megabytes at the peak: all resident memory, and the part that is not mapped from files."""

    seconds: float
    peak_mb: float
    anonymous_mb: float


def run(command: list[str]) -> Measured:
    """Runs a command to its end. Raises `SystemExit` when it fails."""
    reader, writer = os.pipe()
    try:
        watch = [sys.executable, "-I", "-S", "-c", WATCH, str(writer), *command]
        subprocess.run(watch, check=True, pass_fds=[writer])
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            status, seconds, resident, anonymous = json.load(file)
    except subprocess.CalledProcessError:
        raise SystemExit(f"failed: {' '.join(command)}") from None
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return Measured(seconds, resident / 1024, anonymous / 1024)
