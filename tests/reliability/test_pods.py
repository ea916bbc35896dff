"""A bounded run of the kills among several processes; `python -m tests.reliability.pods --kills 50` runs more."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_six_random_kills() -> None:
    """A process that dies or freezes ends the others in time, and leaves no damaged output."""
    arguments = [sys.executable, "-m", "tests.reliability.pods", "--kills", "6"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    outcome = json.loads(ended.stdout)
    assert outcome["broken"] == [] and ended.returncode == 0
    assert sum(outcome["kills"].values()) == 6
