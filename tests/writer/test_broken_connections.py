"""Connections to a store that break in the middle of a file: twice, and for good."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import jaxconv
from jaxconv.errors import JaxconvError
from tests.support.broken_connections import Breaking, breaking
from tests.support.object_stores import STORES, Bucket, forget_stores
from tests.support.tiny import tiny_checkpoint

ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
LIMIT = 1 << 20  # bytes: more than all small files of a conversion, less than a part
FOR_GOOD = 1 << 30


@contextmanager
def behind(scheme: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, Breaking]]:
    """A bucket that is reached through a server that breaks connections."""
    with STORES[scheme](monkeypatch) as bucket:
        address = urlsplit(os.environ[ENDPOINTS[scheme]])
        assert address.hostname and address.port
        with breaking((address.hostname, address.port), LIMIT) as server:
            host, port = server.server_address[:2]
            monkeypatch.setenv(ENDPOINTS[scheme], f"http://{host!s}:{port}")
            forget_stores()
            yield bucket, server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some 50 MB, so that a file has several parts."""
    folder = tmp_path_factory.mktemp("large") / "model"
    return tiny_checkpoint(folder, "qwen3", tie=False, vocab_size=40_000, hidden_size=256)


def convert(source: object, output: object) -> None:
    """A conversion by the numpy backend."""
    jaxconv.convert(source, output, token_ids=[5, 6], backend="numpy")  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["s3", pytest.param("gs", marks=pytest.mark.slow)])
def test_twice(scheme: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and writing go on after two broken connections each, and the bytes are right."""
    convert(model, tmp_path / "local")
    expected = (tmp_path / "local" / "model.safetensors").read_bytes()
    with behind(scheme, monkeypatch) as (bucket, server):
        bucket.upload(model, "model")
        server.breaks = 2
        convert(f"{bucket.address}/model", tmp_path / "read")
        assert server.broken == 2
        assert (tmp_path / "read" / "model.safetensors").read_bytes() == expected
        server.breaks = 2
        convert(model, f"{bucket.address}/written")
        assert server.broken == 4
        assert bucket.read("written")["model.safetensors"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("scheme", list(ENDPOINTS))
def test_for_good(scheme: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that breaks every large transfer: an error with the address, and nothing left on either side."""
    with behind(scheme, monkeypatch) as (bucket, server):
        bucket.upload(model, "model")
        server.breaks = FOR_GOOD
        with pytest.raises(JaxconvError, match=f"reading {bucket.address}/model/model.safetensors of the source failed"):
            convert(f"{bucket.address}/model", tmp_path / "read")
        with pytest.raises(JaxconvError, match=r"writing model\.safetensors of the output failed.*Nothing was published"):
            convert(model, f"{bucket.address}/written")
        server.breaks = 0
        assert bucket.read("written") == {} and not list(tmp_path.iterdir())
