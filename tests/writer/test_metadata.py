"""`__metadata__` of the weight files: `format: pt` always, everything else as in the source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import jaxconv
from jaxconv.safetensors_header import read_header
from jaxconv.verification.output import read_output
from tests.support.conversions import convert


def with_metadata(source: Path, target: Path, metadata: dict[str, str] | None) -> Path:
    """A copy of the source with another `__metadata__` in each shard, and the same data."""
    shutil.copytree(source, target)
    for path in target.glob("*.safetensors"):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__")
        header |= {} if metadata is None else {"__metadata__": metadata}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return target


def data(path: Path) -> bytes:
    """The bytes of a file's tensors."""
    return path.read_bytes()[read_header(path).data_start :]


@pytest.mark.parametrize("metadata", [None, {}, {"format": "mlx"}, {"format": "np", "quantisation": "{}"}])
@pytest.mark.parametrize("copy_mode", ["copy", "link"])
@pytest.mark.parametrize("single", [True, False])
def test_other_formats_become_pt(
    untied: Path, qwen3: Path, tmp_path: Path, metadata: dict[str, str] | None, copy_mode: str, single: bool
) -> None:
    """Shards of MLX, of no format, of any other: the header is rewritten, the data is the source's, `verify` accepts it."""
    source = with_metadata(qwen3 if single else untied, tmp_path / "source", metadata)
    result = jaxconv.convert(source, tmp_path / "out", token_ids=[5, 6], backend="numpy", copy_mode=copy_mode)
    assert set(result.files.values()) == {"write"}
    for name in result.files:
        kept = {} if metadata is None or "score" in name else metadata
        assert read_header(tmp_path / "out" / name).metadata == {**kept, "format": "pt"}
        if "score" not in name and not single and (source / name).stat().st_size == (tmp_path / "out" / name).stat().st_size:
            assert data(source / name) == data(tmp_path / "out" / name)
    assert read_output(tmp_path / "out").findings == []
    structure = jaxconv.verify(source, tmp_path / "out", structure_only=True)
    assert structure.passed, structure.findings


@pytest.mark.parametrize("options", [{}, {"copy_mode": "link"}, {"dtype": "float32"}])
def test_rewritten_shards_keep_their_metadata(untied: Path, tmp_path: Path, options: dict[str, str]) -> None:
    """The shard that loses the head keeps what its metadata says of the other tensors."""
    metadata = {"format": "pt", "model.norm.weight": '{"kind": "plain"}'}
    source = with_metadata(untied, tmp_path / "source", metadata)
    convert(source, tmp_path / "out", **options)
    files = [path for path in (tmp_path / "out").glob("*.safetensors") if path.name != "model-score.safetensors"]
    assert len(files) >= 1 and all(read_header(path).metadata == metadata for path in files)


def test_shards_of_pt_stay_byte_for_byte(untied: Path, tmp_path: Path) -> None:
    """A complete shard with `format: pt` is linked, other metadata or not."""
    source = with_metadata(untied, tmp_path / "source", {"format": "pt", "note": "x"})
    result = jaxconv.convert(source, tmp_path / "out", token_ids=[5, 6], backend="numpy", copy_mode="link")
    linked = [name for name, how in result.files.items() if how == "link"]
    assert len(linked) >= 2
    assert all((tmp_path / "out" / name).samefile(source / name) for name in linked)
