"""A second run of `jaxconv score` takes what JAX compiled from the cache of the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jaxconv

SCORE = """
import sys
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
from jaxconv.cli import main
assert main(["score", sys.argv[1], "--query", "capital?", "--document", "Paris", "--json", "--backend", "jax"]) == 0
print(*(events.count(f"/jax/compilation_cache/cache_{kind}") for kind in ("hits", "misses")), file=sys.stderr)
"""


def _run(output: Path, cache: Path) -> tuple[str, int, int]:
    environment = os.environ | {"JAXCONV_COMPILATION_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCORE, str(output)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    hits, misses = done.stderr.split()[-2:]
    return done.stdout, int(hits), int(misses)


def test_second_run_takes_from_the_cache(qwen3: Path, tmp_path: Path) -> None:
    """The first process fills the cache; the second hits it more often than it misses, with the same scores."""
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="jax")
    first, _, missed = _run(tmp_path / "out", tmp_path / "cache")
    second, hits, again = _run(tmp_path / "out", tmp_path / "cache")
    assert missed > 0 and any((tmp_path / "cache").iterdir())
    assert hits > 0 and hits > again
    assert first == second
