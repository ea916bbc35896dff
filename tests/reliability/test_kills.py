"""A bounded run of the random kills; `python -m tests.reliability --kills 500` runs more."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_forty_random_kills() -> None:
    """No kill leaves a damaged output, and the next run removes every leftover."""
    arguments = [sys.executable, "-m", "tests.reliability", "--kills", "40"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    outcome = json.loads(ended.stdout)
    assert outcome["broken"] == [] and ended.returncode == 0
    assert sum(outcome["kills"].values()) == 40 and outcome["staged"] >= 5  # kills do hit the writing
