"""Damages what jaxconv reads, and has it read, in bounded time and memory.

python -m tests.fuzz [--inputs 1000000] [--seconds 60] [--seed 0] [--target NAME] [--first 0] [--jobs 2] [--save DIRECTORY]
python -m tests.fuzz --target NAME --replay FOLDER FILE

Whatever was done to a file, its reader must return or raise an error of jaxconv's own, within 5 s of processor time and
256 MB, and nothing may be written. Anything else, the death of the process included, is a finding: the folder is saved, the
command that repeats it is printed, and the exit code is 1. A flipped bit of an uncompressed tensor's own data gives another
value, which no container here can tell.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from jaxconv.errors import JaxconvError
from jaxconv.text.chat_environment import RenderingError
from tests.fuzz.targets import TARGETS, shares
from tests.fuzz.worker import Bench, Board, save_finding, work

HANGS = 60  # seconds after which an input counts as one that never ends
DEATHS = 20  # after so many a target is given up
MEMORY = Path("/dev/shm")


@dataclass
class Run:
    """One target's inputs.

    Attributes:
        bench: Its folder.
        end: The number after the last input.
        seconds: How long it may take, its preparation aside.
        board: The counts.
        pid: The worker, while there is one.
        seen: The input that it was at when it was looked at last, and when that began.
        deaths: How many workers died.
        took: Seconds from the first start to the end.
    """

    bench: Bench
    end: int
    seconds: float
    board: Board = field(default_factory=Board)
    pid: int = 0
    seen: tuple[int, float] = (-1, 0.0)
    deaths: int = 0
    took: float = 0.0

    def start(self, save: Path) -> None:
        """Starts a worker at the next input."""
        self.seen = (-1, time.monotonic())
        self.took = self.took or time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                log = os.open(save / f"{self.bench.name.replace(' ', '-')}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 2)  # panics of tokenizers are printed there, caught or not
                work(self.bench, self.board, self.end, self.seconds, save)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def has_ended(self, save: Path) -> bool:
        """Whether all inputs are through. A worker that died or hangs is started again behind the input that it died of."""
        now = time.monotonic()
        if self.seen[0] != self.board[Board.NEXT]:
            self.seen = (self.board[Board.NEXT], now)
        elif now - self.seen[1] > HANGS:
            os.kill(self.pid, signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        if status:
            self._bury(os.waitstatus_to_exitcode(status), save)
            if self.deaths <= DEATHS and self.board[Board.NEXT] < self.end:
                self.start(save)
                return False
        self.took = now - self.took
        return True

    def _bury(self, code: int, save: Path) -> None:
        """Judges the input that a worker died of."""
        self.deaths += 1
        number = self.board[Board.NEXT]
        damaged = self.bench.damage(number)
        try:
            if self.bench.target.limited is None:
                raise RuntimeError(f"the process ended with {code}")
            self.bench.target.limited(self.bench.folder, damaged)
            self.board[Board.ACCEPTED] += 1
        except (JaxconvError, RenderingError):
            self.board[Board.REFUSED] += 1
        except Exception as error:
            self.board[Board.FINDINGS] += 1
            save_finding(self.bench, damaged, number, "the death of the process", str(error), save)
        damaged.write_bytes(self.bench.good[damaged])
        self.board[Board.NEXT] = number + 1


def prepare(names: list[str], scratch: Path) -> dict[str, Path]:
    """Writes the good files of these targets, a folder each."""
    seeds = sorted({TARGETS[name].seed for name in names})
    (scratch / "good").mkdir()
    # In a process of its own: frameworks start threads, and this process forks.
    command = [sys.executable, "-m", "tests.fuzz.seeds", str(scratch / "good"), *seeds]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(made.stderr)
    folders = {}
    for name in names:
        folders[name] = scratch / name.replace(" ", "-")
        shutil.copytree(scratch / "good" / TARGETS[name].seed, folders[name])
    return folders


def run(runs: list[Run], jobs: int, save: Path) -> None:
    """Runs all targets, so many at once."""
    waiting, running = list(runs), list[Run]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
                running[-1].start(save)
            time.sleep(0.1)
            running = [one for one in running if not one.has_ended(save)]
    finally:
        for one in running:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(one.pid, signal.SIGKILL)
                os.waitpid(one.pid, 0)


def report(runs: list[Run], seed: int, save: Path) -> int:
    """Prints the table and the findings; how many there are."""
    print(f"| target | inputs | accepted | refused | findings | seconds |\n|---|{'---:|' * 5}")
    totals = [0, 0, 0, 0]
    for one in runs:
        counts = [one.board[which] for which in (Board.ACCEPTED, Board.REFUSED, Board.FINDINGS)]
        totals = [total + count for total, count in zip(totals, (sum(counts), *counts), strict=True)]
        print(f"| {one.bench.name} | {sum(counts):,} | {' | '.join(f'{count:,}' for count in counts)} | {one.took:.0f} |")
    print(f"| all | {' | '.join(f'{total:,}' for total in totals)} | |")
    lines = (save / "findings.jsonl").read_text().splitlines() if (save / "findings.jsonl").exists() else []
    places: Counter[str] = Counter()
    for finding in map(json.loads, lines):
        place = f"{finding['target']}: {finding['place']}"
        places[place] += 1
        if places[place] == 1:
            print(f"\n{place}\n  {finding['error']}")
            print(
                f'  python -m tests.fuzz --target "{finding["target"]}" --seed {seed} --first {finding["number"]} --inputs 1'
            )
            print(f'  python -m tests.fuzz --target "{finding["target"]}" --replay {finding["folder"]} {finding["file"]}')
    broken = [one.bench.name for one in runs if one.deaths > DEATHS]
    if broken:
        print(f"given up after {DEATHS} deaths: {', '.join(broken)}")
    return totals[3] + len(broken)


def main() -> int:
    """Runs until the inputs or the time are used up; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1 << 60)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--replay", nargs=2, type=Path)
    arguments = parser.parse_args()
    if arguments.replay:
        folder, damaged = arguments.replay
        TARGETS[arguments.target].read(folder, folder / damaged)
        return 0
    if arguments.inputs == 1 << 60 and arguments.seconds == 1e9:
        arguments.seconds = 60.0
    names = [arguments.target] if arguments.target else list(TARGETS)
    arguments.save.mkdir(parents=True, exist_ok=True)
    (arguments.save / "findings.jsonl").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        folders = prepare(names, Path(scratch))
        seconds = arguments.seconds * arguments.jobs / len(names)
        runs = []
        for name, count in shares(names, arguments.inputs).items():
            one = Run(Bench(TARGETS[name], name, arguments.seed, folders[name]), arguments.first + count, seconds)
            one.board[Board.NEXT] = arguments.first
            runs.append(one)
        run(runs, arguments.jobs, arguments.save)
    return 1 if report(runs, arguments.seed, arguments.save) else 0


if __name__ == "__main__":
    sys.exit(main())
