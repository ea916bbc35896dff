"""Arrays that are spread over the processes of a JAX program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import jaxconv
from tests.support.processes import Ended, free_port, run_together, same_tree
from tests.support.trees import as_tree

LIVE = """
import sys
from pathlib import Path
import jax
rank, size, port, source, output, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *sys.argv[5:7]
jax.distributed.initialize(f"127.0.0.1:{port}", size, rank)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxconv
import jaxconv.writer.share as share
from tests.support.trees import as_tree
assert (jax.process_count(), jax.local_device_count()) == (size, 2)
real = share.write_file
def write_file(file, *more):
    if kind == "fails":
        file.tensors[0].read()
        raise OSError(28, "No space left on device")
    return real(file, *more)
share.write_file = write_file if rank == 1 else real
axis_type = AxisType.Auto if kind == "fails" else getattr(AxisType, kind)
mesh = jax.make_mesh((size, 2), ("fsdp", "tp"), axis_types=(axis_type,) * 2)
def put(x):
    x, spec = np.asarray(x), P("fsdp", "tp") if x.ndim == 2 else P()
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])
tree = jax.tree.map(put, as_tree(source))
assert not tree["lm_head"]["kernel"].is_fully_addressable
try:
    result = jaxconv.convert_params(tree, output, base=source, classifier_from_tokens=["no", "yes"], max_shard_size="40KB")
    print(f"result:{result.process_id}/{len(result.files)}")
except jaxconv.JaxconvError as error:
    print(type(error).__name__, error)
"""


def live_together(size: int, source: Path, output: Path, kind: str) -> list[Ended]:
    """A JAX program of several processes with two devices each, that holds the parameters over all of them."""
    port = free_port()
    commands = [["-c", LIVE, str(rank), str(size), str(port), str(source), str(output), kind] for rank in range(size)]
    return run_together(commands, [{"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}] * size, timeout=240)


@pytest.mark.parametrize(
    ("size", "kind"),
    [(2, "Auto"), pytest.param(4, "Explicit", marks=pytest.mark.slow), pytest.param(8, "Auto", marks=pytest.mark.slow)],
)
def test_live_arrays_over_processes(sources: dict[str, Path], tmp_path: Path, size: int, kind: str) -> None:
    """Parameters spread over two, four and eight processes, each with two devices, give the bytes of one device."""
    settings = {"base": sources["base"], "classifier_from_tokens": ["no", "yes"], "max_shard_size": "40KB"}
    one = jaxconv.convert_params(as_tree(sources["base"]), tmp_path / "one", **settings)
    assert len(one.files) >= 4
    ended = live_together(size, sources["base"], tmp_path / "all", kind)
    assert [process.code for process in ended] == [0] * size, [process.err[-2000:] for process in ended]
    assert all(f"result:{rank}/{len(one.files)}" in process.out for rank, process in enumerate(ended)), ended
    assert same_tree(tmp_path / "one", tmp_path / "all")
    assert sorted(os.listdir(tmp_path)) == ["all", "one"]


def test_live_failure_of_one_process(sources: dict[str, Path], tmp_path: Path) -> None:
    """A process that cannot write goes on taking part in the gathers, so that both come to the error, and nothing is left."""
    ended = live_together(2, sources["base"], tmp_path / "out", "fails")
    assert "ProcessError process 1 on" in ended[0].out and "No space left on device" in ended[0].out, ended
    assert "OutputError writing" in ended[1].out
    assert not os.listdir(tmp_path)
