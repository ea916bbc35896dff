"""Live parameters: trees, modules and states, on one device or sharded over eight, give the bytes of the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import jaxconv
from jaxconv.errors import RefusedError, SourceError
from tests.support.tiny import tiny_checkpoint
from tests.support.trees import as_tree

TOKENS = ["no", "yes"]


class Module(nnx.Module):
    """A tree of arrays as an nnx.Module."""

    def __init__(self, tree: dict) -> None:
        for key, value in tree.items():
            setattr(
                self, f"layer_{key}" if key.isdigit() else key, Module(value) if isinstance(value, dict) else nnx.Param(value)
            )


def _module(tree: dict) -> nnx.Module:
    layers = tree["model"].pop("layers")
    module = Module(tree)
    module.model.layers = nnx.List([Module(layers[str(number)]) for number in range(len(layers))])
    return module


FORMS = {
    "tree": lambda tree: tree,
    "linen": lambda tree: {"params": tree},
    "train state": lambda tree: {"params": tree, "opt_state": {"mu": tree}, "step": 3},
    "module": _module,
    "state": lambda tree: nnx.state(_module(tree)),
    "numpy": lambda tree: {"model.embed_tokens": {}, **tree},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tie", [True, False])
def test_same_bytes_as_from_the_file(tmp_path: Path, form: str, tie: bool) -> None:
    """Whatever holds the parameters, the output's weights are those of the file."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3", tie=tie)
    jaxconv.convert(source, tmp_path / "a", classifier_from_tokens=TOKENS, backend="jax")
    made = jaxconv.convert_params(FORMS[form](as_tree(source)), tmp_path / "b", base=source, classifier_from_tokens=TOKENS)
    assert (made.plan.model.format, made.plan.model.layout) == ("live", "nnx")
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert array.dtype == found[name].dtype and array.tobytes() == found[name].tobytes(), name


def test_what_is_no_parameter_is_said(tmp_path: Path, qwen3: Path) -> None:
    """Leaves that are no arrays, and trees of optimizer state, are errors."""
    with pytest.raises(SourceError, match=r"model\.a is a str"):
        jaxconv.convert_params({"model": {"a": "text"}}, tmp_path / "out", base=qwen3, classifier_from_tokens=TOKENS)
    with pytest.raises(RefusedError, match="optimizer state"):
        jaxconv.convert_params({"opt_state": {"mu": np.ones(3)}}, tmp_path / "out", base=qwen3)


SHARDED = """
import sys
from pathlib import Path
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxconv
from tests.support.trees import as_tree
source, output, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
assert len(jax.devices()) == 8
mesh = jax.make_mesh((4, 2), ("fsdp", "tp"), axis_types=(getattr(AxisType, kind),) * 2)
def put(x):
    return jax.device_put(x, NamedSharding(mesh, P("fsdp", "tp") if x.ndim == 2 else P(None)))
tree = jax.tree.map(put, as_tree(source))
assert len(tree["lm_head"]["kernel"].sharding.device_set) == 8
jaxconv.convert_params(tree, output, base=source, classifier_from_tokens=["no", "yes"])
kept = [x.shape for x in jax.tree.leaves(tree) if x._npy_value is not None]
assert not kept, f"JAX keeps host copies of {kept}"
"""


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_sharded_over_eight_devices(tmp_path: Path, kind: str) -> None:
    """Arrays over a mesh of eight simulated devices, with automatic and explicit axes, give the single device's bytes.

    And no array keeps its copy on the host, which together would be the whole model.
    """
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=False)
    jaxconv.convert(source, tmp_path / "a", classifier_from_tokens=TOKENS, backend="jax")
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SHARDED, str(source), str(tmp_path / "b"), kind]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "a" / "model.safetensors").read_bytes()[-1000:] == (tmp_path / "b" / "model.safetensors").read_bytes()[
        -1000:
    ]
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert expected.keys() == found.keys()
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)
