"""PyTorch .bin sources: the same bits as safetensors, and nothing but tensors is unpickled."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import jaxconv
from jaxconv.errors import SourceError
from jaxconv.readers import open_checkpoint


def as_bin(source: Path, target: Path, shards: int) -> Path:
    """The source with PyTorch files instead of safetensors; one tensor is stored transposed in memory."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].t().contiguous().t()
    (target / "model.safetensors").unlink()
    if shards == 1:
        torch.save(tensors, target / "pytorch_model.bin")
        return target
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = dict(list(tensors.items())[number::shards])
        torch.save(part, target / file)
        weight_map |= dict.fromkeys(part, file)
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return target


@pytest.mark.parametrize("shards", [1, 3])
def test_same_tensors_as_from_safetensors(qwen3: Path, tmp_path: Path, shards: int) -> None:
    """A .bin source gives the tensors of the safetensors source, bit for bit, head included."""
    source = as_bin(qwen3, tmp_path / "source", shards)
    jaxconv.convert(source, tmp_path / "a", classifier_from_tokens=["no", "yes"], backend="torch")
    jaxconv.convert(qwen3, tmp_path / "b", classifier_from_tokens=["no", "yes"], backend="torch")
    found, expected = load_file(tmp_path / "a" / "model.safetensors"), load_file(tmp_path / "b" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.dtype == found[name].dtype and torch.equal(tensor, found[name])


class Evil:
    """Runs a command when unpickled by a careless loader."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_pickle_that_wants_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code in a pickle does not run, and the message names what it asked for."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model.norm.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="system"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("content", "says"), [(b"\x80\x02}.", "no zip archive"), (b"", "no zip archive")])
def test_damaged_files_say_so(tmp_path: Path, content: bytes, says: str) -> None:
    """A file that is no zip archive is an error with the way out."""
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(SourceError, match=says):
        open_checkpoint(tmp_path)


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    """Optimizer numbers among the tensors are an error naming the entry."""
    torch.save({"epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="'epoch'"):
        open_checkpoint(tmp_path)


def test_safetensors_win(qwen3: Path, tmp_path: Path) -> None:
    """Where both lie in a folder, the .bin file is not opened."""
    shutil.copytree(qwen3, tmp_path / "both")
    (tmp_path / "both" / "pytorch_model.bin").write_bytes(b"junk")
    assert open_checkpoint(tmp_path / "both").format == "safetensors"


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .bin source without torch is an error with the pip command."""
    torch.save({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SourceError, match=r"pip install 'jaxconv\[torch\]'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["x" * 300, "a\ud800", "../x"])
def test_file_names_of_an_index_are_checked(tmp_path: Path, file: str) -> None:
    """Names too long for a file, that no file system takes, or that lead elsewhere are an error of the index."""
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(SourceError, match="plain file name"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_its_storage_does_not_hold(tmp_path: Path) -> None:
    """Strides of zero make a few bytes a tensor of any size."""
    torch.save({"model.norm.weight": torch.zeros(1).expand(1 << 30)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="more than its storage holds"):
        open_checkpoint(tmp_path)


def test_a_compressed_pickle_is_not_read(tmp_path: Path) -> None:
    """A few kilobytes that expand to gigabytes are refused by what the archive's directory says."""
    torch.save({"model.norm.weight": torch.zeros(4)}, tmp_path / "good.bin")
    with (
        zipfile.ZipFile(tmp_path / "good.bin") as good,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for entry in good.infolist():
            content = good.read(entry)
            bad.writestr(entry.filename, content + (b"\0" * (1 << 26) if entry.filename.endswith("data.pkl") else b""))
    assert (tmp_path / "pytorch_model.bin").stat().st_size < 1 << 18
    with pytest.raises(SourceError, match="is compressed"):
        open_checkpoint(tmp_path)
