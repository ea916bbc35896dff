"""Kills or freezes one of several processes at random moments: `python -m tests.reliability.pods [--kills 50] [--seed 0]`.

Exit code 1 if an output was damaged, a process outlived the timeout, or the next run did not remove what was left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jaxconv.cli import main as jaxconv_main
from jaxconv.writer.target import STAGE_PREFIX
from tests.support.conversions import TOKENS, digests, names
from tests.support.processes import HEARTBEAT_TIMEOUT, ROOT, flags, free_port

SIZE = 3
FORMS = ("safetensors", "msgpack")
MORE = ("--max-shard-size", "500KB", "--dtype", "float32")  # many small files, all of them written
JOIN_SECONDS = 20  # before all have joined JAX waits as long for one that is gone
PROGRAM = (
    f"import sys, jaxconv.distributed as d; d.JOIN_SECONDS = {JOIN_SECONDS}; "
    "from jaxconv.cli import main; sys.exit(main(sys.argv[1:]))"
)
VICTIMS = ("worker", "parent", "host", "frozen worker")


@dataclass
class Outcome:
    """What became of the conversions.

    Attributes:
        kills: How many processes were killed or frozen, by what was hit.
        finished: How many conversions had ended before.
        published: After how many kills the output was in place, whole.
        staged: After how many there was a staged directory, which the next run removed.
        slowest: The longest time from a kill to the end of the last of the other processes, in seconds.
        broken: What was wrong, a sentence each.
    """

    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    published: int = 0
    staged: int = 0
    slowest: float = 0.0
    broken: list[str] = field(default_factory=list)


def start(source: Path, output: Path) -> list[subprocess.Popen[bytes]]:
    """The processes of one conversion."""
    port, environment = free_port(), os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM, "convert", str(source), str(output), *TOKENS, *MORE]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT, "env": environment}
    return [subprocess.Popen([*command, *flags(rank, SIZE, port)], **quiet) for rank in range(SIZE)]  # type: ignore[call-overload]


def hit(parent: int, victim: str) -> None:
    """Kills the process that was started, its child that does the work, or both; or freezes the child."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    workers = [int(child) for child in children]
    with suppress(ProcessLookupError):
        for process in {"parent": [parent], "host": [parent, *workers]}.get(victim, workers):
            os.kill(process, signal.SIGSTOP if victim.startswith("frozen") else signal.SIGKILL)


def trial(source: Path, place: Path, expected: dict[str, str], dice: random.Random, outcome: Outcome) -> None:
    """Hits one process of a conversion, looks at what is left, and converts once more."""
    running, output, victim, rank = start(source, place / "out"), place / "out", dice.choice(VICTIMS), dice.randrange(SIZE)
    limit = HEARTBEAT_TIMEOUT + 30
    if dice.random() < 0.8:
        while not any(name.startswith(STAGE_PREFIX) for name in names(place)) and running[0].poll() is None:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.5))
    else:
        time.sleep(dice.uniform(0, 4))
        limit += JOIN_SECONDS
    if running[rank].poll() is not None:
        outcome.finished += 1
    else:
        hit(running[rank].pid, victim)
        outcome.kills[victim] += 1
    began = time.monotonic()
    try:
        for process in running[:rank] + running[rank + 1 :]:
            process.wait(max(0.1, began + limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        outcome.broken.append(f"{victim} {rank}: a process outlived the limit of {limit} s")
    outcome.slowest = max(outcome.slowest, time.monotonic() - began)
    for process in running:
        process.kill()
        process.wait()
    time.sleep(1)  # workers whose parent is gone end by themselves
    state = digests(output) if output.is_dir() else None
    if state not in (None, expected):
        outcome.broken.append(f"{victim} {rank}: the output is damaged")
    outcome.published += state is not None
    outcome.staged += any(name.startswith(STAGE_PREFIX) for name in names(place))
    shutil.rmtree(output, ignore_errors=True)
    code = jaxconv_main(["convert", str(source), str(output), *TOKENS, *MORE, "--quiet"])
    if code != 0 or digests(output) != expected or names(place) != ["out"]:
        outcome.broken.append(f"{victim} {rank}: the next run ended with {code} and left {names(place)}")
    shutil.rmtree(place)
    place.mkdir()


def main() -> int:
    """Runs the kills and prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.pods", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started, dice, outcome = time.monotonic(), random.Random(arguments.seed), Outcome()
    with tempfile.TemporaryDirectory() as temporary:
        sources, place = Path(temporary) / "sources", Path(temporary) / "place"
        subprocess.run([sys.executable, "-m", "tests.reliability.sources", str(sources)], check=True, capture_output=True)
        expected = {}
        for form in FORMS:
            one = Path(temporary) / form
            assert jaxconv_main(["convert", str(sources / form), str(one), *TOKENS, *MORE, "--quiet"]) == 0
            expected[form] = digests(one)
        place.mkdir()
        while outcome.kills.total() < arguments.kills:
            form = dice.choice(FORMS)
            trial(sources / form, place, expected[form], dice, outcome)
    print(json.dumps({**vars(outcome), "seconds": round(time.monotonic() - started)}, indent=2))
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
