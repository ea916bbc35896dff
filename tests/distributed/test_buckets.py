"""Several processes from a bucket to a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxconv
from tests.support.object_stores import s3
from tests.support.processes import convert_together
from tests.support.tiny import tiny_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_two_processes_share_an_output_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """The bytes of one process; after a failure of one of them nothing is left."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3", shards=3, tie=False)
    with s3(monkeypatch) as bucket:
        bucket.upload(source, "source")
        more = ["--backend", "numpy", "--dtype", "float16", "--max-shard-size", "40KB"]
        jaxconv.convert(
            f"{bucket.address}/source", f"{bucket.address}/one", classifier_from_tokens=["no", "yes"], backend="numpy",
            dtype="float16", max_shard_size="40KB",
        )  # fmt: skip
        if fails:
            bucket.put("source/model-00003-of-00004.safetensors", b"damaged")
        ended = convert_together(2, f"{bucket.address}/source", f"{bucket.address}/all", *more)  # type: ignore[arg-type]
        assert [process.code for process in ended] == [int(fails)] * 2, ended
        assert bucket.read("all") == ({} if fails else bucket.read("one"))
