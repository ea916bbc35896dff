"""Orbax checkpoints in buckets: S3 and Google Cloud Storage, each an emulator on the loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxconv
from jaxconv.errors import JaxconvError, SourceError
from jaxconv.readers import _tensorstore, open_checkpoint
from tests.foreign.cases import TOKENS, unpack
from tests.support.object_stores import Bucket, forget_stores, gcs, s3

STORES = {"s3": s3, "gs": gcs}


@pytest.fixture(params=list(STORES))
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket."""
    with STORES[request.param](monkeypatch) as made:
        yield made


@pytest.mark.parametrize("name", ["nnx/llama_manager", "maxtext/qwen3_scanned_tied", "nnx/gemma_linen_directories"])
def test_same_bytes_as_from_the_folder(tmp_path: Path, bucket: Bucket, name: str) -> None:
    """A bucket's checkpoint, steps of a manager listed, gives the output of the local one; --step chooses there too."""
    case = unpack(name, tmp_path)
    bucket.upload(case.folder / "checkpoint", "run/checkpoint")
    address = f"{bucket.address}/run/checkpoint/{case.about['weights']}".rstrip("/.")
    steps = (None, 2) if name.endswith("manager") else (None,)
    for number, step in enumerate(steps):
        outputs = []
        for kind, source in (("local", case.weights), ("remote", address)):
            out = tmp_path / f"{kind}{number}"
            jaxconv.convert(source, out, base=case.original, step=step, classifier_from_tokens=TOKENS, backend="numpy")
            outputs.append((out / "model.safetensors").read_bytes())
        assert outputs[0] == outputs[1]


def test_a_step_without_commit_success_is_unfinished(tmp_path: Path, bucket: Bucket) -> None:
    """In a bucket the file is written last; without any such file all steps were copied there, and the newest is read."""
    case = unpack("nnx/llama_manager", tmp_path)
    root = case.folder / "checkpoint" / case.about["weights"]
    steps = [2, 10]
    for mark in root.rglob("commit_success.txt"):
        mark.unlink()
    bucket.upload(root, "steps")
    address = f"{bucket.address}/steps"
    assert open_checkpoint(address).path.startswith(f"{address}/{steps[-1]}")
    (tmp_path / "mark").mkdir()
    (tmp_path / "mark" / "commit_success.txt").write_text("")
    bucket.upload(tmp_path / "mark", f"steps/{steps[0]}")
    checkpoint = open_checkpoint(address)
    assert checkpoint.path.startswith(f"{address}/{steps[0]}")
    assert f"step {', '.join(map(str, steps[1:]))} of" in checkpoint.notes[0]
    with pytest.raises(SourceError, match=rf"step {steps[-1]} of .* is unfinished"):
        open_checkpoint(address, steps[-1])


def test_what_is_not_there_is_said(bucket: Bucket) -> None:
    """An empty prefix and a bucket that does not exist: an error that names the address, at once."""
    for address in (f"{bucket.address}/nothing", bucket.address.replace("bucket", "absent") + "/run"):
        started = time.monotonic()
        with pytest.raises(SourceError, match=address):
            open_checkpoint(address)
        assert time.monotonic() - started < 20


def test_other_formats_want_a_download(bucket: Bucket, tmp_path: Path) -> None:
    """A bucket with flax msgpack is not read from there; the error says to download it."""
    (tmp_path / "flax_model.msgpack").write_bytes(b"x" * 16)
    bucket.upload(tmp_path, "model")
    with pytest.raises(SourceError, match=r"[Dd]ownload"):
        open_checkpoint(f"{bucket.address}/model")


def test_access_denied_is_said(bucket: Bucket) -> None:
    """Keys that the server does not take are an error with the server's reason, at once."""
    bucket.deny()
    started = time.monotonic()
    with pytest.raises(SourceError, match=f"{bucket.address}/run.*(PERMISSION_DENIED|Forbidden|403)"):
        open_checkpoint(f"{bucket.address}/run")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("scheme", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "gs")), "http"])
def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Nobody at the address: a JaxconvError within the retries, not TensorStore's quarter of an hour."""
    monkeypatch.setattr(_tensorstore, "RETRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    forget_stores()
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    started = time.monotonic()
    with pytest.raises(JaxconvError, match=scheme):
        open_checkpoint({"http": "http://127.0.0.1:9/run"}.get(scheme, f"{scheme}://bucket/run"))
    assert time.monotonic() - started < 60
    forget_stores()
