"""Orbax checkpoints: found by content, read on any topology, never trusted, also over http."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxconv.errors import JaxconvError, RefusedError, SourceError
from jaxconv.readers import open_checkpoint

TREE = {"model": {"a": jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 4), "b": jnp.ones((2,), jnp.float32)}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One StandardCheckpointer folder."""
    path = tmp_path_factory.mktemp("orbax") / "saved"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, TREE)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder an array."""
    path = tmp_path_factory.mktemp("orbax") / "folders"
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(path, TREE)
    return path


def _assert_tree(weights: Path | str, step: int | None = None) -> None:
    found = open_checkpoint(weights, step)
    assert found.format == "orbax"
    assert {name: (ref.dtype, ref.shape) for name, ref in found.tensors.items()} == {
        "model.a": ("BF16", (3, 4)),
        "model.b": ("F32", (2,)),
    }
    a = np.asarray(TREE["model"]["a"])
    assert np.array_equal(found.tensors["model.a"].read(), a)
    assert np.array_equal(found.tensors["model.a"].take([2, 0], 0), a[[2, 0]])
    assert np.array_equal(found.tensors["model.a"].take([3, 1], 1), a[:, [3, 1]])


@pytest.mark.parametrize("kind", ["saved", "folders"])
@pytest.mark.parametrize("metadata", [True, False])
def test_with_and_without_metadata(tmp_path: Path, request: pytest.FixtureRequest, kind: str, metadata: bool) -> None:
    """OCDBT and plain zarr, listed by _METADATA or, in old checkpoints, by what is there."""
    path = shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy")
    if not metadata:
        (path / "_METADATA").unlink()
    _assert_tree(path)


def test_newest_step_is_numeric_and_unfinished_ones_are_left(tmp_path: Path, saved: Path) -> None:
    """10 comes after 9 and after 2; a temporary folder of an interrupted save is none; a run's folder leads there too."""
    for step in ("2", "9"):
        (tmp_path / "checkpoints" / step / "items").mkdir(parents=True)
    shutil.copytree(saved, tmp_path / "checkpoints" / "10" / "items")
    shutil.copytree(saved, tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp-1" / "items")
    _assert_tree(tmp_path / "checkpoints")
    _assert_tree(tmp_path)
    _assert_tree(tmp_path / "checkpoints", 10)
    with pytest.raises(SourceError, match=r"step 11 .* is unfinished.*it has 2, 9, 10"):
        open_checkpoint(tmp_path, 11)


def test_an_unfinished_newest_step_is_said(tmp_path: Path, saved: Path) -> None:
    """The newest whole step is read with a note; the unfinished one cannot be chosen."""
    shutil.copytree(saved, tmp_path / "10")
    shutil.copytree(saved, tmp_path / "20.orbax-checkpoint-tmp-1")
    notes = open_checkpoint(tmp_path).notes
    assert len(notes) == 1 and "step 20 of" in notes[0] and "step 10, the newest whole one, is read" in notes[0]
    assert open_checkpoint(tmp_path, 10).notes == ()
    with pytest.raises(SourceError, match=r"step 20 of .* is unfinished.*it has 10"):
        open_checkpoint(tmp_path, 20)


def test_several_items_want_a_choice(tmp_path: Path, saved: Path) -> None:
    """Two items of unknown names are an error that lists them; optimizer state is no candidate."""
    for item in ("actor", "critic", "optimizer_state"):
        shutil.copytree(saved, tmp_path / "5" / item)
    with pytest.raises(SourceError, match=r"several items: actor, critic\."):
        open_checkpoint(tmp_path)


def test_over_http(saved: Path) -> None:
    """A checkpoint on a web server opens through TensorStore's http driver, with --step where folders cannot be listed."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    root = saved.parent / "root" / "7"
    shutil.copytree(saved, root / "items", dirs_exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(saved.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        _assert_tree(f"{address}/saved")
        _assert_tree(f"{address}/root", 7)
        with pytest.raises(SourceError, match="--step"):
            open_checkpoint(f"{address}/root")
    finally:
        server.shutdown()


def _metadata(path: Path, change) -> None:
    file = path / "_METADATA"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(change(document) or document))


def _rename(key: str):
    def change(document: dict) -> None:
        entry = next(iter(document["tree_metadata"].values()))
        entry["key_metadata"][-1]["key"] = key

    return change


HOSTILE = {
    "no JSON": "{",
    "deep": "[" * 200_000,
    "list": "[]",
    "no tree": "{}",
    "tree is a list": '{"tree_metadata": [1]}',
    "entry is a number": '{"tree_metadata": {"a": 1}}',
    "no keys": '{"tree_metadata": {"a": {"key_metadata": []}}}',
    "empty": '{"tree_metadata": {}}',
    "no array": '{"tree_metadata": {"a": {"key_metadata": [{"key": "zzz"}]}}}',
}


@pytest.mark.parametrize("text", list(HOSTILE.values()), ids=list(HOSTILE))
def test_hostile_metadata(tmp_path: Path, saved: Path, text: str) -> None:
    """Whatever _METADATA holds, the answer is a SourceError that names the checkpoint."""
    path = shutil.copytree(saved, tmp_path / "copy")
    (path / "_METADATA").write_text(text)
    with pytest.raises(SourceError, match="copy"):
        open_checkpoint(path)


@pytest.mark.parametrize("key", ["../../secret", "/etc/passwd", "a/../../b", "..", "a\\b", "a" * 300])
def test_paths_stay_inside(tmp_path: Path, folders: Path, key: str) -> None:
    """A name that leaves the folder of an array-per-folder checkpoint is refused."""
    path = shutil.copytree(folders, tmp_path / "copy")
    _metadata(path, _rename(key))
    with pytest.raises(SourceError, match=r"not a path inside the checkpoint|does not open"):
        open_checkpoint(path)


def test_optimizer_state_alone_is_refused(tmp_path: Path, saved: Path) -> None:
    """Names below opt_state are no parameters, whatever their shapes."""
    path = tmp_path / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, {"opt_state": TREE, "step": 3})
    with pytest.raises(RefusedError, match="no model parameters, at most optimizer state"):
        open_checkpoint(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_errors_or_values(tmp_path: Path, saved: Path, data: st.DataObject) -> None:
    """Bytes changed or cut in any file give a JaxconvError or tensors of the right shape, never another exception."""
    path = shutil.copytree(saved, tmp_path / "copy", dirs_exist_ok=True)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    file = data.draw(st.sampled_from(files))
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) // 2]))])
    try:
        for ref in open_checkpoint(path).tensors.values():
            assert ref.read().shape == ref.shape
    except JaxconvError:
        pass
    finally:
        shutil.rmtree(path)


def test_a_lost_chunk_is_found(tmp_path: Path, folders: Path) -> None:
    """Where Orbax says that it stored chunks of zeros too, one that is missing is no zeros but an error; else it is zeros."""
    path = shutil.copytree(folders, tmp_path / "copy")
    (path / "model.a" / "0.0").unlink()
    with pytest.raises(SourceError, match=r"model\.a cannot be read"):
        open_checkpoint(path).tensors["model.a"].read()
    _metadata(path, lambda document: document.pop("store_array_data_equal_to_fill_value") and None)
    assert not open_checkpoint(path).tensors["model.a"].read().any()


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1])
def test_a_chunk_that_is_larger_than_its_array(tmp_path: Path, folders: Path, size: int) -> None:
    """TensorStore would try to allot it and abort the process."""
    path = shutil.copytree(folders, tmp_path / "copy")
    zarray = path / "model.b" / ".zarray"
    zarray.write_text(json.dumps({**json.loads(zarray.read_text()), "chunks": [size]}))
    with pytest.raises(SourceError, match=r"model\.b"):
        open_checkpoint(path)
