"""Kills conversions at random moments: `python -m tests.reliability [--kills 500] [--seed 0] [--modes copy,link]`.

Exit code 1 if a kill left a damaged output, or leftovers that the next run did not remove.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.reliability.kills import MODES, kill_at_random


def main() -> int:
    """Runs the kills and prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", default=",".join(MODES))
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary) / "sources"
        # In a process of its own: frameworks start threads, and this process forks.
        subprocess.run([sys.executable, "-m", "tests.reliability.sources", str(sources)], check=True, capture_output=True)
        outcome = kill_at_random(
            arguments.kills, arguments.seed, sources, Path(temporary) / "work", arguments.modes.split(",")
        )
    print(json.dumps({**vars(outcome), "seconds": round(time.monotonic() - started)}, indent=2))
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
