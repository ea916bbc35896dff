"""Damages the inputs of one target and has them read, in a process that may die of one."""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jaxconv.errors import JaxconvError
from jaxconv.text.chat_environment import RenderingError
from tests.fuzz.target import Target

SECONDS = 5.0  # of processor time that an input may take
PEAK = 1 << 28  # bytes that an input may add to the peak
SPACE = 4 << 30  # bytes of address space that all inputs together may ask for; blosc claims 2 GiB of it for a damaged chunk
STATISTICS = Path("/proc/self/statm")  # on Linux
KEPT = 3  # inputs that are saved of one place of the code


class Board:
    """Four counts that the parent reads while a worker runs, and after it died."""

    NEXT, ACCEPTED, REFUSED, FINDINGS = range(4)

    def __init__(self) -> None:
        self.counts = memoryview(mmap.mmap(-1, 32)).cast("q")

    def __getitem__(self, which: int) -> int:
        return int(self.counts[which])

    def __setitem__(self, which: int, value: int) -> None:
        self.counts[which] = value


@dataclass
class Bench:
    """A folder of good files, one of which is damaged at a time.

    Attributes:
        target: Whose files they are.
        name: The target's name.
        seed: Of the damage.
        folder: The folder.
    """

    target: Target
    name: str
    seed: int
    folder: Path
    good: dict[Path, bytes] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = (path for pattern in self.target.files for path in self.folder.glob(pattern))
        self.good = {path: path.read_bytes() for path in sorted(set(found)) if path.is_file() and path.stat().st_size}
        self.listed = list(_walk(self.folder))

    def damage(self, number: int) -> Path:
        """Damages a file as input `number` has it. Returns which."""
        dice = random.Random(f"{self.seed} {number} {self.name}")
        path = dice.choice(list(self.good))
        path.write_bytes(self.target.damage(self.good[path], dice))
        return path

    def check(self) -> None:
        """Raises `AssertionError` if reading has written something."""
        listed = list(_walk(self.folder))
        if listed != self.listed:
            raise AssertionError(f"files changed: {sorted({*listed} ^ {*self.listed})}")


def _walk(folder: Path) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def outcome(bench: Bench, damaged: Path) -> str:
    """What becomes of one damaged file: `accepted` or `refused`. Everything else is raised."""
    peak, started = _peak(), time.process_time()
    result = "accepted"
    try:
        bench.target.read(bench.folder, damaged)
    except (JaxconvError, RenderingError) as error:
        result = "refused"
        if not str(error):
            raise AssertionError("an error without a message") from error
    if time.process_time() - started > SECONDS:
        raise AssertionError(f"it took {time.process_time() - started:.1f} s")
    if _peak() - peak > PEAK and bench.target.limited is None:
        raise AssertionError(f"it took {_peak() - peak >> 20} MB")
    bench.check()
    return result


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def place_of(error: BaseException) -> str:
    """Where an error comes from: the last lines of the package, and its type."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" not in frame.filename]
    ours = [frame for frame in frames if "/jaxconv/" in frame.filename or "/torch_backend/" in frame.filename]
    last = (ours or frames or traceback.extract_tb(error.__traceback__))[-1]
    return f"{'/'.join(last.filename.split('/')[-3:])}:{last.lineno} {type(error).__name__}"


def work(bench: Bench, board: Board, end: int, seconds: float, save: Path) -> None:
    """Reads inputs from `board[NEXT]` on, until `end` or until the time is up; findings are saved.

    Args:
        bench: The target and its folder.
        board: Where the counts are kept.
        end: The number after the last input.
        seconds: How long it may take.
        save: Where findings are saved.
    """
    _warm_up(bench)
    if STATISTICS.exists():
        space = int(STATISTICS.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + SPACE, resource.RLIM_INFINITY))
    places: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while board[Board.NEXT] < end and time.monotonic() < until:
        number = board[Board.NEXT]
        damaged = bench.damage(number)
        try:
            board[Board.ACCEPTED if outcome(bench, damaged) == "accepted" else Board.REFUSED] += 1
        except BaseException as error:
            board[Board.FINDINGS] += 1
            place = place_of(error)
            places[place] += 1
            if places[place] <= KEPT:
                save_finding(bench, damaged, number, place, f"{type(error).__name__}: {error}"[:500], save)
        damaged.write_bytes(bench.good[damaged])
        board[Board.NEXT] = number + 1


def _warm_up(bench: Bench) -> None:
    """Reads every good file once, so that what is imported late is in memory before anything is measured."""
    for path in bench.good:
        try:
            bench.target.read(bench.folder, path)
        except JaxconvError as error:
            raise RuntimeError(f"{bench.name} does not accept its own {path.name}: {error}") from error


def save_finding(bench: Bench, damaged: Path, number: int, place: str, error: str, save: Path) -> None:
    """Saves the folder as it was read, and a line about it."""
    to = save / f"{bench.name.replace(' ', '-')}-{number}"
    shutil.copytree(bench.folder, to, dirs_exist_ok=True)
    path = damaged.relative_to(bench.folder)
    line = {"target": bench.name, "number": number, "place": place, "error": error, "folder": str(to), "file": str(path)}
    with (save / "findings.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
