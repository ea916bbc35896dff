"""The same weights in three containers, for tests of several processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.processes import run_together
from tests.support.tiny import tiny_checkpoint
from tests.support.trees import as_tree


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, untied: Path) -> dict[str, Path]:
    """The same weights as safetensors shards, as flax msgpack, and as an Orbax checkpoint saved from two devices' shards."""
    import flax.serialization
    import orbax.checkpoint as ocp

    directory = tmp_path_factory.mktemp("sources")
    whole = tiny_checkpoint(directory / "whole", "llama", tie=False)
    tree = as_tree(whole)
    shutil.copytree(whole, directory / "msgpack", ignore=shutil.ignore_patterns("*.safetensors"))
    (directory / "msgpack" / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    code = (
        "import sys, jax, orbax.checkpoint as ocp; from pathlib import Path; from tests.support.trees import as_tree; "
        "from jax.sharding import NamedSharding, PartitionSpec as P; mesh = jax.make_mesh((2,), ('x',)); "
        "put = lambda x: jax.device_put(x, NamedSharding(mesh, P('x') if x.ndim == 2 else P())); "
        "saver = ocp.StandardCheckpointer(); "
        "saver.save(Path(sys.argv[2]), jax.tree.map(put, as_tree(Path(sys.argv[1])))); saver.wait_until_finished()"
    )
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    [saved] = run_together([["-c", code, str(whole), str(directory / "orbax")]], [two])
    assert saved.code == 0, saved.err
    assert ocp.StandardCheckpointer().metadata(directory / "orbax") is not None
    return {"safetensors": untied, "msgpack": directory / "msgpack", "orbax": directory / "orbax", "base": whole}
