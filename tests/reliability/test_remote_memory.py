"""The memory of a conversion from and to a bucket does not grow with the model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.object_stores import measure

LIMIT_MB = 500


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="its ru_maxrss counts bytes")
def test_a_model_of_more_than_a_gigabyte(tmp_path: Path) -> None:
    """1.2 GB, 0.8 GB of it one tensor, up and down, under half a gigabyte."""
    results = measure(tmp_path, 0.5)
    assert len(results) == 6 and all(measured.peak_mb < LIMIT_MB for measured in results.values()), results
