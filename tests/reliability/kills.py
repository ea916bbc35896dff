"""Kills conversions at random moments and looks at what they leave.

Each conversion runs in a fork of a process that has imported the package already, so that a kill comes after a random part
of the conversion itself and not of Python's start.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import jaxconv.conversion  # noqa: F401 (forks share what is imported)
from jaxconv.cli import main
from jaxconv.writer.target import STAGE_PREFIX
from tests.support.conversions import TOKENS, digests, names

# Mode -> the source's name, and the flags.
MODES: dict[str, tuple[str, tuple[str, ...]]] = {
    "copy": ("safetensors", ()),
    "link": ("safetensors", ("--copy-mode", "link")),
    "rewrite": ("safetensors", ("--dtype", "float32", "--max-shard-size", "2MB")),
    "msgpack": ("msgpack", ("--max-shard-size", "2MB")),
    "orbax": ("orbax", ("--base", "BASE", "--max-shard-size", "2MB")),
    "overwrite": ("safetensors", ("--overwrite",)),
    "overwrite link": ("safetensors", ("--overwrite", "--copy-mode", "link")),
}


@dataclass
class Outcome:
    """What became of the killed conversions.

    Attributes:
        kills: How many processes were killed, by mode.
        finished: How many had ended before the kill came, by mode.
        published: After how many kills the new output was in place, whole.
        staged: After how many kills there was a staged directory, which the rerun then removed.
        broken: What was wrong, a sentence each.
    """

    kills: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    published: int = 0
    staged: int = 0
    broken: list[str] = field(default_factory=list)


class Trial:
    """One mode: its command line, and the outputs that may be there."""

    def __init__(self, mode: str, sources: Path, workplace: Path) -> None:
        self.mode = mode
        self.place = workplace / mode.replace(" ", "-")
        self.output = self.place / "out"
        source, flags = MODES[mode]
        flags = tuple(str(sources / "safetensors") if flag == "BASE" else flag for flag in flags)
        self.overwrites = "--overwrite" in flags
        self.commands = [self._command(sources / source, flags, scale) for scale in ("1", "2")]
        self.place.mkdir(parents=True)
        self.expected = []
        self.planning = self.writing = 0.0  # seconds
        for command in self.commands:
            self._measure(command)
            self.expected.append(digests(self.output))
            if not self.overwrites:
                shutil.rmtree(self.output)

    def _command(self, source: Path, flags: Sequence[str], scale: str) -> list[str]:
        return ["convert", str(source), str(self.output), *TOKENS, *flags, "--scale", scale, "--quiet"]

    def _measure(self, command: Sequence[str]) -> None:
        """Runs a command to its end, and notes how long it takes until it stages something, and from there on."""
        started = time.monotonic()
        child = start(command)
        self._await_stage(child)
        staged = time.monotonic()
        assert os.waitpid(child, 0)[1] == 0
        self.planning, self.writing = staged - started, time.monotonic() - staged

    def _await_stage(self, child: int) -> None:
        """Waits until the conversion has staged something, or has ended."""
        while not any(name.startswith(STAGE_PREFIX) for name in names(self.place)):
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.0005)

    def _run_and_kill(self, command: Sequence[str], dice: random.Random) -> bool:
        """Kills a conversion: most often while it writes, else at any time. Returns False if it was done before."""
        child = start(command)
        if dice.random() < 0.8:
            self._await_stage(child)
            time.sleep(dice.uniform(0, self.writing * 1.1))
        else:
            time.sleep(dice.uniform(0, self.planning + self.writing))
        os.kill(child, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    def kill(self, dice: random.Random, outcome: Outcome) -> None:
        """Kills one conversion, checks what is left, runs it again, and checks that nothing else is left."""
        number = dice.randrange(2)
        killed = self._run_and_kill(self.commands[number], dice)
        (outcome.kills if killed else outcome.finished)[self.mode] += 1
        state = digests(self.output) if self.output.is_dir() else None
        allowed = self.expected if self.overwrites else [self.expected[number], None]
        if state not in allowed:
            outcome.broken.append(f"{self.mode}: after the kill the output is {'missing' if state is None else 'damaged'}")
        outcome.published += state == self.expected[number]
        outcome.staged += len(names(self.place)) > (state is not None)
        if state is not None and not self.overwrites:
            shutil.rmtree(self.output)
        self._measure(self.commands[number])  # a kill is aimed at the duration of the latest run
        if digests(self.output) != self.expected[number]:
            outcome.broken.append(f"{self.mode}: the rerun gave other bytes")
        if names(self.place) != ["out"]:
            outcome.broken.append(f"{self.mode}: the rerun left {names(self.place)}")
        if not self.overwrites:
            shutil.rmtree(self.output)


def start(arguments: Sequence[str]) -> int:
    """Runs a command in a fork. Returns its process id."""
    child = os.fork()
    if child == 0:
        os._exit(main(list(arguments)))
    return child


def kill_at_random(kills: int, seed: int, sources: Path, workplace: Path, modes: Sequence[str]) -> Outcome:
    """Kills conversions of each mode in turn.

    Args:
        kills: How many conversions are killed, apart from those that end before.
        seed: Of the moments.
        sources: What `tests.reliability.sources` wrote.
        workplace: An empty directory on the same file system, for links.
        modes: Names of `MODES`.
    """
    dice, outcome = random.Random(seed), Outcome()
    trials = [Trial(mode, sources, workplace) for mode in modes]
    for trial in cycle(trials):
        if outcome.kills.total() >= kills:
            break
        trial.kill(dice, outcome)
    return outcome
