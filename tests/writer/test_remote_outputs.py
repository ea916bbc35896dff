"""Conversions from and to object stores: fsspec's memory, S3 (moto) and Google Cloud Storage, each on this machine."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
from transformers import AutoModelForCausalLM

import jaxconv
from jaxconv.errors import OutputError, SourceError
from jaxconv.storage import RemotePath, remote_path
from jaxconv.writer import marker, remote, remote_publish
from jaxconv.writer.marker import MARKER, Marker
from tests.foreign.cases import TOKENS, unpack
from tests.support.object_stores import PARAMETERS, STORES, Bucket, s3
from tests.support.tiny import tiny_checkpoint

RECORDS = ("jaxconv.json", "README.md")  # which name the source
KILLED = """
import os, sys
import jaxconv
from jaxconv.writer import remote
remote.PART = 5 << 20
def progress(done, total):
    if done > total // 2:
        os.kill(os.getpid(), 9)
jaxconv.convert(sys.argv[1], sys.argv[2], token_ids=[5, 6], backend="numpy", progress=progress)
"""


@pytest.fixture(params=PARAMETERS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket of every store."""
    with STORES[request.param](monkeypatch) as made:
        yield made


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket of S3."""
    with s3(monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A model in one file and in three."""
    root = tmp_path_factory.mktemp("models")
    return {shards: tiny_checkpoint(root / f"m{shards}", "qwen3", shards=shards, tie=False) for shards in (1, 3)}


def convert(source: object, output: object, **options: object) -> jaxconv.ConversionResult:
    """A conversion by the numpy backend."""
    return jaxconv.convert(source, output, **{"token_ids": [5, 6], "backend": "numpy", **options})  # type: ignore[arg-type]


def make_adapter(model: Path, folder: Path) -> None:
    """A LoRA adapter of a model, as PEFT saves it."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a folder by their path in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without_records(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files that do not name the source."""
    return {name: content for name, content in files.items() if name not in RECORDS}


@pytest.mark.parametrize("shards", [1, 3])
def test_the_bytes_are_those_of_a_local_conversion(
    bucket: Bucket, models: dict[int, Path], tmp_path: Path, shards: int
) -> None:
    """From a folder and a bucket to a folder and a bucket: the same files, and nothing beside them."""
    bucket.upload(models[shards], "models/qwen")
    source, output = f"{bucket.address}/models/qwen", f"{bucket.address}/out"
    convert(models[shards], tmp_path / "local")
    convert(source, tmp_path / "downloaded")
    expected = files_of(tmp_path / "local")
    assert without_records(files_of(tmp_path / "downloaded")) == without_records(expected)
    result = convert(source, output)
    assert result.output == output and set(result.files.values()) == ({"copy", "write"} if shards > 1 else {"write"})
    convert(models[shards], f"{bucket.address}/uploaded")
    for prefix in ("out", "uploaded"):
        written = bucket.read(prefix)
        assert written.keys() == expected.keys() and without_records(written) == without_records(expected)
    assert json.loads(bucket.read("out")["jaxconv.json"])["source"] == source
    assert f"from `{source}`".encode() in bucket.read("out")["README.md"]


def test_rewritten_weights_and_hashes(bucket: Bucket, models: dict[int, Path], tmp_path: Path) -> None:
    """A cast goes block by block into an upload, and --hash reads the stored objects."""
    options = {"dtype": "float16", "hash": True, "max_shard_size": "60KB"}
    bucket.upload(models[1], "m1")
    convert(models[1], tmp_path / "out", **options)
    convert(f"{bucket.address}/m1", f"{bucket.address}/out", **options)
    written, expected = bucket.read("out"), files_of(tmp_path / "out")
    assert without_records(written) == without_records(expected)
    hashes = [json.loads(files["jaxconv.json"])["sha256"] for files in (written, expected)]
    assert without_records(hashes[0]) == without_records(hashes[1])


@pytest.mark.parametrize("bucket", ["s3", "gs"], indirect=True)
def test_orbax_from_bucket_to_bucket(tmp_path: Path, bucket: Bucket) -> None:
    """TensorStore reads one part of the bucket while the other is written; config and tokenizer lie there too."""
    case = unpack("nnx/llama_manager", tmp_path)
    bucket.upload(case.folder / "checkpoint", "run")
    bucket.upload(case.original, "base")
    options = {"classifier_from_tokens": TOKENS, "token_ids": None}
    convert(case.weights, tmp_path / "local", base=case.original, **options)
    convert(
        f"{bucket.address}/run/{case.about['weights']}".rstrip("/."),
        f"{bucket.address}/out",
        base=f"{bucket.address}/base",
        **options,
    )
    assert without_records(bucket.read("out")) == without_records(files_of(tmp_path / "local"))
    assert json.loads(bucket.read("out")["jaxconv.json"])["base"] == {"name": f"{bucket.address}/base"}


def test_a_former_output_is_replaced_only_by_request(bucket: Bucket, models: dict[int, Path]) -> None:
    """Without --overwrite it is refused and untouched; with it config.json is away while the new one is written."""
    output = f"{bucket.address}/out"
    convert(models[3], output)
    before = bucket.read("out")
    with pytest.raises(OutputError, match="exists and is not empty"):
        convert(models[1], output)
    assert bucket.read("out") == before
    seen: list[set[str]] = []
    convert(models[1], output, overwrite=True, progress=lambda done, total: seen.append(set(bucket.read("out"))))
    assert seen and all("config.json" not in names and MARKER in names for names in seen)
    after = set(bucket.read("out"))
    assert "config.json" in after and not {MARKER, "model-score.safetensors"} & after


def test_other_files_are_left_alone(bucket: Bucket, models: dict[int, Path]) -> None:
    """A folder that jaxconv did not write is refused, with --overwrite too."""
    bucket.put("out/notes.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"not empty|was not made by jaxconv"):
            convert(models[1], f"{bucket.address}/out", overwrite=overwrite)
    assert bucket.read("out") == {"notes.txt": b"mine"}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SourceError])
def test_a_failure_leaves_nothing(bucket: Bucket, models: dict[int, Path], kind: type[BaseException]) -> None:
    """An error in the middle removes what was uploaded."""

    def fail(done: int, total: int) -> None:
        raise kind("in the middle")

    with pytest.raises(kind):
        convert(models[3], f"{bucket.address}/out", progress=fail)
    assert bucket.read("out") == {}


def test_a_source_that_changes(bucket: Bucket, models: dict[int, Path], tmp_path: Path) -> None:
    """Another object under the name of a shard, while the first is copied, ends the conversion."""
    bucket.upload(models[1], "m1")
    changed = (models[1] / "model.safetensors").read_bytes()[:-2] + b"xx"
    with pytest.raises(SourceError, match=r"model\.safetensors changed during the conversion"):
        convert(f"{bucket.address}/m1", tmp_path / "out", progress=lambda *_: bucket.put("m1/model.safetensors", changed))
    assert not (tmp_path / "out").exists()


def large_model(folder: Path) -> Path:
    """A model of some 50 MB, so that a file has several parts."""
    return tiny_checkpoint(folder, "qwen3", tie=False, vocab_size=40_000, hidden_size=256)


@pytest.mark.parametrize("bucket", ["s3", "gs"], indirect=True)
def test_a_failure_in_a_large_upload(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload is given up: the library would complete what there is of it when it collects the file."""
    monkeypatch.setattr(remote, "PART", 5 << 20)
    source = large_model(tmp_path / "m")

    def fail(done: int, total: int) -> None:
        if done > total // 2:
            raise SourceError("in the middle")

    with contextlib.suppress(SourceError):  # pytest.raises would keep the frames, and the file in them
        convert(source, f"{bucket.address}/out", progress=fail)
    gc.collect()
    assert bucket.read("out") == {}
    assert bucket.address.startswith("gs") or not bucket.store.list_multipart_uploads("bucket")


def test_config_json_is_written_last(models: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """After every other file, so that nothing loads before."""
    with STORES["memory"](monkeypatch) as bucket:
        present: list[set[str]] = []
        put = remote.put

        def recorded(path: RemotePath, content: bytes, *, new: bool = False) -> None:
            if path.name == "config.json":
                present.append(set(bucket.read("out")))
            put(path, content, new=new)

        monkeypatch.setattr(remote, "put", recorded)
        monkeypatch.setattr(remote_publish, "put", recorded)
        convert(models[3], f"{bucket.address}/out")
        assert present == [{*bucket.read("out"), MARKER} - {"config.json"}]


def test_a_single_file_is_kept_whole_with_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store copies it as a shard beside the score."""
    model = tiny_checkpoint(tmp_path / "m", "qwen3", tie=True)
    with STORES["memory"](monkeypatch) as bucket:
        bucket.upload(model, "m1")
        result = convert(f"{bucket.address}/m1", f"{bucket.address}/out", copy_mode="link")
        assert result.files["model-backbone.safetensors"] == "copy"
        assert bucket.read("out")["model-backbone.safetensors"] == (model / "model.safetensors").read_bytes()


def test_a_conversion_that_was_taken_for_dead(models: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood still, and another one swept it: it publishes nothing, and leaves what is the other's."""
    with STORES["memory"](monkeypatch) as bucket:
        other = Marker("other", "another-host", 1, ("model.safetensors",)).to_bytes()
        with pytest.raises(OutputError, match=r"another conversion took .* while this one stood still"):
            convert(models[1], f"{bucket.address}/out", progress=lambda *_: bucket.put(f"out/{MARKER}", other))
        left = bucket.read("out")
        assert left[MARKER] == other and "config.json" not in left and "model.safetensors" in left


def test_an_adapter_in_a_bucket(models: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by ranges like a base, merged with the same bytes."""
    adapter = tmp_path / "adapter"
    make_adapter(models[1], adapter)
    convert(models[1], tmp_path / "local", adapter=adapter)
    with STORES["memory"](monkeypatch) as bucket:
        bucket.upload(models[1], "m1")
        bucket.upload(adapter, "adapter")
        convert(f"{bucket.address}/m1", f"{bucket.address}/out", adapter=f"{bucket.address}/adapter")
        assert without_records(bucket.read("out")) == without_records(files_of(tmp_path / "local"))


@pytest.mark.parametrize("how", ["convert", "clean"])
def test_a_killed_conversion(s3_bucket: Bucket, tmp_path: Path, how: str) -> None:
    """SIGKILL leaves no model and an upload without end; the next run, or `clean`, removes both."""
    source, output = large_model(tmp_path / "m"), f"{s3_bucket.address}/out"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), output], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = s3_bucket.read("out")
    assert MARKER in left and "config.json" not in left
    assert s3_bucket.store.list_multipart_uploads("bucket")
    with pytest.raises(SourceError, match=r"no config\.json"):
        jaxconv.inspect(output)
    if how == "convert":
        convert(source, output)
        assert MARKER not in s3_bucket.read("out") and "config.json" in s3_bucket.read("out")
    else:
        cleaned = subprocess.run(
            [sys.executable, "-m", "jaxconv", "clean", output], check=True, capture_output=True, text=True
        )
        assert f"removed  {output}" in cleaned.stdout and s3_bucket.read("out") == {}
    assert not s3_bucket.store.list_multipart_uploads("bucket")


def test_another_conversion_is_waited_for_and_refused(models: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker of another host that counts on is alive; one that stands still is swept, with the files that it names."""
    with STORES["memory"](monkeypatch) as bucket:
        monkeypatch.setattr(marker, "WATCH_SECONDS", 2)
        other = Marker("run", "another-host", 1, ("model.safetensors", "../escape"))
        bucket.put(f"out/{MARKER}", other.to_bytes())
        bucket.put("out/model.safetensors", b"half")
        bucket.put("escape", b"not ours")
        read, beats = marker.read_marker, iter(range(100))

        def alive(folder: object) -> Marker:
            return Marker("run", "another-host", 1, (), next(beats))

        monkeypatch.setattr(marker, "read_marker", alive)
        with pytest.raises(OutputError, match=r"another conversion into .* is running \(process 1 on another-host"):
            convert(models[1], f"{bucket.address}/out")
        monkeypatch.setattr(marker, "read_marker", read)
        convert(models[1], f"{bucket.address}/out")
        assert MARKER not in bucket.read("out") and bucket.read("")["escape"] == b"not ours"


def test_a_marker_beside_a_complete_output(models: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that was killed after config.json, or before it removed a former one, left an output that is whole."""
    with STORES["memory"](monkeypatch) as bucket:
        convert(models[1], f"{bucket.address}/out")
        before = bucket.read("out")
        bucket.put(f"out/{MARKER}", Marker("run", os.uname().nodename, os.getpid(), tuple(before)).to_bytes())
        with pytest.raises(OutputError, match="exists and is not empty"):
            convert(models[1], f"{bucket.address}/out")
        assert marker.sweep(remote_path(f"{bucket.address}/out")) == 0
        assert bucket.read("out") == before


@pytest.mark.parametrize("bucket", PARAMETERS[1:], indirect=True)
def test_what_a_store_refuses_is_said(bucket: Bucket, models: dict[int, Path], tmp_path: Path) -> None:
    """A missing bucket and keys that the server does not take: the address and the reason, and nothing written."""
    absent = bucket.address.replace("bucket", "absent")
    with pytest.raises(SourceError, match=f"{absent}/m1 does not exist"):
        convert(f"{absent}/m1", tmp_path / "out")
    with pytest.raises(OutputError, match=f"{absent}/out"):
        convert(models[1], f"{absent}/out")
    bucket.deny()
    with pytest.raises(SourceError, match=f"{bucket.address}/m1 cannot be read.*credentials"):
        convert(f"{bucket.address}/m1", tmp_path / "out")
    with pytest.raises(OutputError, match=f"{bucket.address}/out cannot be listed.*credentials"):
        convert(models[1], f"{bucket.address}/out")
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be(models: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub, a folder within the source, and a proof of what no library can read."""
    with pytest.raises(OutputError, match="jaxconv push out team/out"):
        convert(models[1], "hf://team/out")
    with STORES["memory"](monkeypatch) as bucket:
        bucket.upload(models[1], "m1")
        for output in ("m1", "m1/out"):
            with pytest.raises(OutputError, match="lie within each other"):
                convert(f"{bucket.address}/m1", f"{bucket.address}/{output}")
        with pytest.raises(OutputError, match="Convert to the directory out, then copy it"):
            convert(models[1], f"{bucket.address}/out", verify=True)
        assert bucket.read("out") == {}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_an_output_is_scored_where_it_lies(
    models: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """`load` reads the weights by ranges and gives the scores of the local copy."""
    with STORES["memory"](monkeypatch) as bucket:
        convert(models[3], f"{bucket.address}/out")
        convert(models[3], tmp_path / "out")
        scores = [
            jaxconv.load(place, backend=backend).score("yes", ["no", "the this"])
            for place in (f"{bucket.address}/out", tmp_path / "out")
        ]
        assert scores[0] == scores[1]


@pytest.mark.parametrize("bucket", ["s3", "gs"], indirect=True)
def test_an_orbax_checkpoint_that_changes(bucket: Bucket, tmp_path: Path) -> None:
    """A chunk that is written anew, as by a training that goes on, ends the conversion."""
    case = unpack("nnx/llama_manager", tmp_path)
    folder = case.folder / "checkpoint"
    bucket.upload(folder, "run")
    chunk = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    name = f"run/{chunk.relative_to(folder).as_posix()}"
    step = next(part for part in chunk.relative_to(folder).parts if part.isdecimal())

    def rewrite(done: int, total: int) -> None:
        bucket.put(name, chunk.read_bytes() + b"x")

    with pytest.raises(SourceError, match="changed during the conversion"):
        convert(
            f"{bucket.address}/run/{case.about['weights']}".rstrip("/."), tmp_path / "out", base=case.original,
            step=int(step), classifier_from_tokens=TOKENS, token_ids=None, progress=rewrite,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
