"""A classifier loaded over a mesh of simulated devices scores as on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxconv
from tests.support.tiny import tiny_checkpoint

DOCUMENTS = ["Paris is the capital.", "Cats", "a longer document about nothing at all " * 5]
SCORE = """
import json, sys
import jax
from jax.sharding import AxisType
import jaxconv
folder, kind, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(getattr(AxisType, kind),) * 2, devices=jax.devices()[:4])
model = jaxconv.load(folder, backend="jax", mesh=mesh)
devices = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(model.classifier.decoder) if leaf.ndim > 1}
assert devices == {4}, devices
print(json.dumps(model.score("capital?", documents, raw=True)))
"""


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("model_type", ["qwen3", "gemma2"])
def test_scores_over_a_mesh(tmp_path: Path, kind: str, model_type: str) -> None:
    """Two by two devices, with automatic and explicit axes: parameters lie on all, raw scores differ by less than 1e-5."""
    source = tiny_checkpoint(tmp_path / "source", model_type, tie=True)
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="jax")
    expected = jaxconv.load(tmp_path / "out", backend="jax").score("capital?", DOCUMENTS, raw=True)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCORE, str(tmp_path / "out"), kind, json.dumps(DOCUMENTS)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-5)
