"""Sources that change while they are converted, or that cannot be read any more."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jaxconv.checkpoint import map_extent
from jaxconv.errors import JaxconvError, SourceError
from jaxconv.readers import open_checkpoint
from jaxconv.writer import WriteOptions, plan_files, stream
from jaxconv.writer.local import LocalDirectory
from tests.foreign import cases
from tests.support.conversions import convert, digests, names
from tests.support.tiny import tiny_checkpoint
from tests.support.trees import as_tree


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100))


def replace(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100:] = bytes(100)
    status = path.stat()
    (path.parent / "new").write_bytes(content)
    (path.parent / "new").rename(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))


CHANGES = {
    truncate: r"it had \d+ bytes and now has \d+",
    extend: r"it had \d+ bytes and now has \d+",
    replace: "it was replaced by another file",
    write_into: "it was written to",
    os.utime: "it was written to",
}
SHARDS = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shard", SHARDS)
@pytest.mark.parametrize("options", [{}, {"copy_mode": "link"}, {"dtype": "float32"}])
def test_a_shard_that_changes(
    untied: Path, tmp_path: Path, change: Callable[[Path], object], shard: str, options: dict[str, Any]
) -> None:
    """A shard that was copied already, is being copied, or is still to come: an error that names it, and no output."""
    source = shutil.copytree(untied, tmp_path / "source")
    with pytest.raises(SourceError, match=rf"{shard} changed during the conversion: {CHANGES[change]}"):
        convert(source, tmp_path / "out", lambda: change(source / shard), **options)
    assert names(tmp_path) == ["source"]


def test_a_single_file_that_changes(qwen3: Path, tmp_path: Path) -> None:
    """The same for the file that is rewritten with the score in it."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    with pytest.raises(SourceError, match=r"model\.safetensors changed during the conversion"):
        convert(source, tmp_path / "out", lambda: write_into(source / "model.safetensors"))
    assert names(tmp_path) == ["source"]


def test_a_change_between_header_and_copy(untied: Path, tmp_path: Path) -> None:
    """The identity is that of the header's reading, long before the first byte is copied."""
    source = shutil.copytree(untied, tmp_path / "source")
    checkpoint = open_checkpoint(source)
    files = plan_files(checkpoint, [], None, WriteOptions())
    write_into(source / SHARDS[0])
    with pytest.raises(SourceError, match=f"{SHARDS[0]} changed"):
        stream.write_file(files[0], LocalDirectory(tmp_path), "copy", lambda nbytes: None)
    assert names(tmp_path) == ["source"]  # noticed before anything was copied


@pytest.mark.parametrize("name", ["nnx/llama_manager", "maxtext/qwen3_unscanned_bf16", "easydel/llama"])
def test_directories_of_chunks_that_change(name: str, tmp_path: Path) -> None:
    """Every file of an Orbax item and of EasyDeL's arrays is watched."""
    case = cases.unpack(name, tmp_path / "case")
    chunks = sorted((path for path in case.weights.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with pytest.raises(SourceError, match=rf"{re.escape(chunks[-1].name)} changed during the conversion: it was written to"):
        convert(
            case.weights, tmp_path / "out", lambda: os.utime(chunks[-1]),
            base=case.original, max_shard_size="60KB",
        )  # fmt: skip
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["msgpack", "torch"])
def test_other_containers_that_change(tmp_path: Path, form: str) -> None:
    """Files of flax msgpack and of PyTorch are watched, too."""
    import flax.serialization

    source = tiny_checkpoint(tmp_path / "source", "llama", tie=False)
    [stored] = source.glob("*.safetensors")
    weights = source / {"msgpack": "flax_model.msgpack", "torch": "pytorch_model.bin"}[form]
    if form == "msgpack":
        weights.write_bytes(flax.serialization.to_bytes(as_tree(source)))
    else:
        torch.save(load_file(stored), weights)
    stored.unlink()
    with pytest.raises(SourceError, match=f"{weights.name} changed during the conversion"):
        convert(source, tmp_path / "out", lambda: os.utime(weights), max_shard_size="60KB")
    assert names(tmp_path) == ["source"]


def test_a_shard_that_vanishes(untied: Path, tmp_path: Path) -> None:
    """The message names the shard and the side, and does not speak of space."""
    source = shutil.copytree(untied, tmp_path / "source")
    with pytest.raises(
        SourceError, match=rf"reading \S*{SHARDS[1]} of the source failed: No such file.*put it back"
    ) as error:
        convert(source, tmp_path / "out", (source / SHARDS[1]).unlink)
    assert "space" not in str(error.value) and names(tmp_path) == ["source"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_shard_that_cannot_be_opened(untied: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing rights and a broken disk are told of the source's file."""
    open_ = os.open

    def refuse(path: Any, *args: Any, **more: Any) -> int:
        if Path(path).name == SHARDS[1]:
            raise OSError(number, os.strerror(number), str(path))
        return open_(path, *args, **more)

    with pytest.raises(SourceError, match=rf"reading \S*{SHARDS[1]} of the source failed: {os.strerror(number)}"):
        convert(untied, tmp_path / "out", lambda: monkeypatch.setattr(os, "open", refuse))
    assert names(tmp_path) == []


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("side", ["source", "output"])
def test_a_disk_that_fails_while_bytes_are_copied(
    untied: Path, tmp_path: Path, side: str, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not say which side failed; an ordinary copy of the same bytes does."""
    number = errno.EIO if side == "source" else errno.ENOSPC

    def fail(*args: Any) -> int:
        raise OSError(number, os.strerror(number))

    def refuse(*args: Any) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", fail if kernel else refuse)
    monkeypatch.setattr(os, "pread" if side == "source" else "pwrite", fail)
    with pytest.raises(JaxconvError) as error:
        convert(untied, tmp_path / "out")
    message = str(error.value)
    if side == "source":
        assert "safetensors of the source failed: Input/output error" in message and "space" not in message
    else:
        assert "writing model-" in message and "failed: No space left on device" in message and "Free some space" in message
    assert "Nothing was published" in message and names(tmp_path) == []


def test_copies_without_the_kernel_are_the_same(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copy_file_range fails for a reason of its own, the bytes go through a buffer."""
    convert(untied, tmp_path / "kernel")

    def refuse(*args: Any) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    convert(untied, tmp_path / "buffer")
    assert digests(tmp_path / "kernel") == digests(tmp_path / "buffer")


def test_a_file_that_was_cut_is_not_mapped(untied: Path, tmp_path: Path) -> None:
    """A mapping beyond the end of a file would end the process with SIGBUS; it is an error instead."""
    source = shutil.copytree(untied, tmp_path / "source")
    refs = [
        ref
        for ref in open_checkpoint(source).tensors.values()
        if ref.extent is not None and ref.extent.path.name == SHARDS[0]
    ]
    extent = refs[-1].extent
    assert extent is not None
    assert map_extent(extent, refs[-1].dtype, refs[-1].shape).tobytes() == refs[-1].read().tobytes()
    truncate(source / SHARDS[0])
    with pytest.raises(SourceError, match=rf"{SHARDS[0]} has \d+ bytes; expected at least \d+"):
        map_extent(extent, refs[-1].dtype, refs[-1].shape)
