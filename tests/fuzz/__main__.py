"""Damages good checkpoints and opens them until the time is up.

python -m tests.fuzz [--seconds 60] [--seed 0] [--first 0] [--target NAME]

Whatever was done to a file, `open_checkpoint` and reading every tensor must end in tensors of the said shape or in a
JaxconvError, in bounded time and memory, and nothing may be written. A flipped bit of an uncompressed tensor's own data
gives another value, which no container here can tell. A finding prints the command
that repeats it.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from itertools import count
from pathlib import Path

from jaxconv.errors import JaxconvError
from jaxconv.readers import open_checkpoint
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.seeds import SEEDS

CASE_SECONDS = 20
CASE_BYTES = 1 << 26  # what a case may add to the peak
LARGE = 1 << 24  # bytes; the layouts refuse larger claims by the config's shapes before anything is read


def _files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _damage(folder: Path, dice: random.Random) -> str:
    """Damages one file of the folder, or several times; says which and how."""
    target = folder / dice.choice(sorted(name for name, size in _files(folder).items() if size))
    done = []
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        raw = bytearray(target.read_bytes())
        if raw:
            mutation = dice.choice(MUTATIONS)
            target.write_bytes(mutation(raw, dice))
            done.append(mutation.__name__)
    return f"{target.relative_to(folder)} by {', '.join(done)}"


def _read(folder: Path) -> str:
    """Opens and reads: `tensors` or `refused`. Anything else is raised."""
    try:
        for ref in open_checkpoint(folder).tensors.values():
            if ref.nbytes <= LARGE:
                array = ref.read()
                if array.shape != ref.shape or array.nbytes != ref.nbytes:
                    raise AssertionError(f"{ref.name} gave {array.shape}, {array.nbytes} bytes; expected {ref.shape}")
    except JaxconvError as error:
        if not str(error):
            raise AssertionError("an error without a message") from error
        return "refused"
    return "tensors"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _case(root: Path, good: Path, name: str, seed: int, number: int) -> str:
    """One damaged checkpoint. Raises for a finding."""
    folder = root / "case" / name
    shutil.copytree(good, folder)
    what = _damage(folder, random.Random(f"{seed} {number} {name}"))
    before, peak, started = _files(root), _peak(), time.monotonic()
    faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
    print(f"case {number} of {name}: {what}", file=sys.stderr, flush=True)
    try:
        outcome = _read(folder)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if time.monotonic() - started > CASE_SECONDS / 2:
        raise AssertionError(f"it took {time.monotonic() - started:.1f} s")
    if _peak() - peak > CASE_BYTES:
        raise AssertionError(f"it took {_peak() - peak >> 20} MB")
    if _files(root) != before:
        raise AssertionError("files changed")
    shutil.rmtree(folder)
    return outcome


def main() -> int:
    """Runs until the time is up; 1 at the first finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--target", choices=list(SEEDS))
    arguments = parser.parse_args()
    seen: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name, make in SEEDS.items():
            if arguments.target in (None, name):
                (root / "good" / name).mkdir(parents=True)
                make(root / "good" / name)
                _read(root / "good" / name)  # what is imported late is in memory before anything is measured
        end = time.monotonic() + arguments.seconds
        for number in count(arguments.first):
            for good in sorted((root / "good").iterdir()):
                try:
                    outcome = _case(root, good, good.name, arguments.seed, number)
                except BaseException:
                    traceback.print_exc()
                    print(f"python -m tests.fuzz --seed {arguments.seed} --first {number} --target {good.name}")
                    return 1
                outcomes = seen.setdefault(good.name, {"tensors": 0, "refused": 0})
                outcomes[outcome] += 1
            if time.monotonic() > end:
                break
    for name, outcomes in seen.items():
        print(f"{name}: {outcomes['refused']} refused, {outcomes['tensors']} read")
    return 0


if __name__ == "__main__":
    sys.exit(main())
