"""Addresses: what is one, what is in none, and what is asked of a store."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import jaxconv
from jaxconv.errors import JaxconvError, SourceError, UsageError
from jaxconv.storage import check_address, is_address, located, remote_path
from jaxconv.storage.remote import reason, storage_errors
from tests.support.object_stores import memory, s3
from tests.support.tiny import tiny_checkpoint

SECRET = "hunter2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in three shards."""
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "m", "qwen3", shards=3, tie=False)


@pytest.mark.parametrize(
    "address",
    [
        f"s3://key:{SECRET}@bucket/run", f"s3://{SECRET}@bucket/run", f"gs://bucket/run?token={SECRET}", f"hf://:{SECRET}@team/m",
        f"az://container/run?sig={SECRET}", f"s3://bucket/run#{SECRET}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["source", "base", "output", "adapter"])
def test_a_secret_in_an_address_is_refused(model: Path, address: str, place: str, tmp_path: Path) -> None:
    """Wherever it stands, and without being repeated."""
    values = {"source": str(model), "output": str(tmp_path / "out"), place: address}
    with pytest.raises(UsageError, match=r"a user, a password or a query") as error:
        jaxconv.convert(values.pop("source"), values.pop("output"), token_ids=[5, 6], backend="numpy", **values)  # type: ignore[arg-type]
    assert SECRET not in str(error.value)


def test_a_secret_in_an_address_of_a_server(model: Path, tmp_path: Path) -> None:
    """TensorStore's HTTP addresses are held to the same."""
    with pytest.raises(UsageError, match=r"a user, a password or a query") as error:
        jaxconv.convert(f"https://user:{SECRET}@host/run", tmp_path / "out", base=model, token_ids=[5, 6])
    assert SECRET not in str(error.value)


def test_what_is_an_address() -> None:
    """Schemes that this package knows, with a bucket; an account of Azure is no secret."""
    assert is_address("s3://bucket") and is_address("az://c/x") and not is_address("c:/x") and not is_address("http://host/x")
    assert check_address("abfss://container@account.dfs.core.windows.net/run/").endswith("/run")
    with pytest.raises(UsageError, match="expected one like s3://bucket/folder"):
        check_address("s3:///run")
    assert located("~") == Path.home()


def test_messages_hold_no_queries_and_name_the_address() -> None:
    """The reason of a library's error loses what may be a signature, and credentials before an @."""
    error = RuntimeError(f"GET https://u:{SECRET}@host/b?X-Amz-Signature={SECRET}&y=1 failed: 500\nmore")
    assert reason(error) == "GET https://host/b failed: 500"
    with pytest.raises(OSError, match="failed") as raised, storage_errors("s3://bucket/run"):
        raise error
    assert raised.value.filename == "s3://bucket/run" and SECRET not in str(raised.value)


def test_a_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """The extra of this package that brings it."""
    from fsspec.registry import _registry

    for scheme, module, extra in (("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(_registry, scheme, raising=False)
        for arguments in ((f"{scheme}://bucket/run", "out"), (model, f"{scheme}://bucket/out")):
            with pytest.raises(UsageError, match=rf"pip install 'jaxconv\[{extra}\]'"):
                jaxconv.convert(*arguments, token_ids=[5, 6], backend="numpy")


def test_inspect_reads_headers_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each weight file its first bytes, and the answer is that for the folder."""
    with memory(monkeypatch) as bucket:
        bucket.upload(model, "m")
        read: list[tuple[str, int]] = []
        cat = type(bucket.store).cat_file

        def counted(store: object, path: str, start: int = 0, end: int | None = None, **more: object) -> bytes:
            content = bytes(cat(store, path, start=start, end=end))
            read.append((path, len(content)))
            return content

        monkeypatch.setattr(type(bucket.store), "cat_file", counted)
        answer = jaxconv.inspect(f"{bucket.address}/m", token_ids=[5, 6])
        weights = [(path, count) for path, count in read if path.endswith(".safetensors")]
        assert len(weights) == len(list(model.glob("*.safetensors"))) and all(count <= 100_000 for _, count in weights)
        assert answer == {**jaxconv.inspect(model, token_ids=[5, 6]), "source": f"{bucket.address}/m"}


def test_messages_name_addresses_and_not_their_copies(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    """Config and tokenizer are read from a temporary directory that no user knows; it goes with the source."""
    with memory(monkeypatch) as bucket:
        bucket.upload(model, "m")
        bucket.put("m/tokenizer.json", b"{}")
        with pytest.raises(SourceError, match=f"^{bucket.address}/m/tokenizer.json cannot be used"):
            jaxconv.inspect(f"{bucket.address}/m", token_ids=[5, 6])
        bucket.store.rm_file("/bucket/m/config.json")
        with pytest.raises(SourceError, match=f"^{bucket.address}/m has no config.json"):
            jaxconv.inspect(f"{bucket.address}/m", token_ids=[5, 6])


def test_no_credential_is_recorded(monkeypatch: pytest.MonkeyPatch, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither in a file of the output, nor in what is printed or raised."""
    with s3(monkeypatch) as bucket:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"id-{SECRET}")
        bucket.upload(model, "m")
        jaxconv.convert(f"{bucket.address}/m", f"{bucket.address}/out", token_ids=[5, 6], backend="numpy")
        written = bucket.read("out")
        assert json.loads(written["jaxconv.json"])["source"] == f"{bucket.address}/m"
        assert not any(SECRET.encode() in content or os.environ["AWS_ENDPOINT_URL"].encode() in content
                       for content in written.values())  # fmt: skip
        bucket.deny()
        with pytest.raises(JaxconvError) as error:
            jaxconv.inspect(f"{bucket.address}/m", token_ids=[5, 6])
        printed = capfd.readouterr()
        assert SECRET not in str(error.value) + printed.out + printed.err


def test_an_object_that_is_no_small_file(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """A tokenizer of 300 MB is not held."""
    with memory(monkeypatch) as bucket:
        bucket.upload(model, "m")
        monkeypatch.setattr("jaxconv.storage.remote.MAX_SMALL", 1000)
        with pytest.raises(SourceError, match=r"tokenizer.json has \d+ bytes; expected at most 1000"):
            jaxconv.inspect(f"{bucket.address}/m", token_ids=[5, 6])


def test_verify_names_the_commands(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    """The proof has other libraries read files, so it says how to bring them here; the command works."""
    with memory(monkeypatch) as bucket:
        bucket.upload(model, "m")
        jaxconv.convert(model, tmp_path / "out", token_ids=[5, 6], backend="numpy")
        with pytest.raises(SourceError, match="Download it and name m instead: python -c") as error:
            jaxconv.verify(f"{bucket.address}/m", tmp_path / "out", structure_only=True)
        with pytest.raises(SourceError, match="Download it and name out instead"):
            jaxconv.verify(model, f"{bucket.address}/out")
        monkeypatch.chdir(tmp_path)
        exec(str(error.value).partition("-c ")[2].strip("'\"").replace("'\"'\"'", "'"))
        assert (tmp_path / "m" / "config.json").read_bytes() == (model / "config.json").read_bytes()
        assert remote_path(f"{bucket.address}/m").parent.name == "bucket"
