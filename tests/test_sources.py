"""Sources from a hub, by huggingface_hub's real client against a hub on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import jaxconv
from jaxconv.errors import SourceError, UsageError
from jaxconv.sources.hub import choose_files
from jaxconv.writer.options import parse_size
from tests.support.hub import COMMIT, TOKEN, Hub, serving
from tests.support.tiny import tiny_checkpoint


@pytest.fixture
def hub(qwen3: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub with a model that also has files nobody needs, and a gated copy of it."""
    folder = tmp_path / "repo"
    shutil.copytree(qwen3, folder)
    (folder / "pytorch_model.bin").write_bytes(b"x" * 1000)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    with serving({"team/reranker": folder, "team/gated": folder}, gated=("team/gated",)) as server:
        yield server


def convert(hub_url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `jaxconv convert ... out`."""
    options = ["--token-ids", "[5,6]", "--backend", "numpy", "--overwrite", "--quiet"]
    return run("convert", hub_url, home, arguments[0], str(home / "out"), *arguments[1:], *options)


def run(command: str, hub_url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, with its own cache of the hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = [sys.executable, "-m", "jaxconv", command, *arguments]
    return subprocess.run(process, env=environment, capture_output=True, text=True, check=False)


def test_only_what_is_needed_is_fetched_and_the_commit_recorded(hub: Hub, tmp_path: Path) -> None:
    """safetensors, config and tokenizer come; .bin and ONNX do not; a second run offline needs no hub."""
    found = convert(hub.url, tmp_path, "team/reranker", "--revision", "v1")
    assert found.returncode == 0, found.stderr
    record = json.loads((tmp_path / "out" / "jaxconv.json").read_text())
    assert record["source"] == "team/reranker" and record["revision"] == COMMIT
    assert "base_model: team/reranker" in (tmp_path / "out" / "README.md").read_text()
    asked = " ".join(hub.requests)
    assert "model.safetensors" in asked and "config.json" in asked
    assert ".bin" not in asked and "onnx" not in asked
    before = len(hub.requests)
    again = convert(hub.url, tmp_path, "team/reranker", "--revision", "v1", "--offline")
    assert again.returncode == 0, again.stderr
    assert len(hub.requests) == before


@pytest.mark.parametrize("shards", [1, 3])
def test_inspect_asks_the_hub_for_headers_alone(tmp_path: Path, shards: int) -> None:
    """Of the weights only ranges of at most 100 kB are fetched, and the answer is that for the folder itself."""
    folder = tiny_checkpoint(tmp_path / "repo", "qwen3", shards=shards)
    with serving({"team/reranker": folder}) as server:
        found = run("inspect", server.url, tmp_path, "team/reranker", "--token-ids", "[5,6]", "--json")
        assert found.returncode == 0, found.stderr
        asked = [line for line in server.requests if line.startswith("GET") and line.endswith(".safetensors")]
        assert len(server.ranges) == len(asked) == len(list(folder.glob("*.safetensors"))) >= shards
        assert all(length <= 100_001 for _, _, length in server.ranges)
    expected = jaxconv.inspect(folder, token_ids=[5, 6])
    assert json.loads(found.stdout) == {**expected, "source": "team/reranker"}


def test_inspect_says_what_headers_cannot_show(tmp_path: Path) -> None:
    """A stored head beside a tied embedding is compared by convert alone, and inspect of a hub id says so."""
    folder = tiny_checkpoint(tmp_path / "repo", "qwen3", tie=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with serving({"team/reranker": folder}) as server:
        found = run("inspect", server.url, tmp_path, "team/reranker", "--token-ids", "[5,6]", "--json")
    assert any("convert compares them" in warning for warning in json.loads(found.stdout)["warnings"])
    assert "differ" in jaxconv.inspect(folder, token_ids=[5, 6])["refusals"][0]


def test_inspect_fetches_what_is_no_safetensors(tmp_path: Path) -> None:
    """A repository of .bin files is fetched and inspected; --offline then needs no hub."""
    folder = tiny_checkpoint(tmp_path / "repo", "qwen3")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with serving({"team/reranker": folder}) as server:
        found = run("inspect", server.url, tmp_path, "team/reranker", "--token-ids", "[5,6]", "--json")
        before = len(server.requests)
        again = run("inspect", server.url, tmp_path, "team/reranker", "--token-ids", "[5,6]", "--json", "--offline")
        assert len(server.requests) == before
    assert json.loads(found.stdout)["format"] == "torch_bin" and again.stdout == found.stdout


def test_gated_needs_the_token(hub: Hub, tmp_path: Path) -> None:
    """Without a token the message says how to get in; with it the conversion works."""
    refused = convert(hub.url, tmp_path, "team/gated")
    assert refused.returncode == 1 and "hf auth login" in refused.stderr and "gated" in refused.stderr
    assert not (tmp_path / "out").exists()
    allowed = convert(hub.url, tmp_path, "team/gated", "--token", TOKEN)
    assert allowed.returncode == 0, allowed.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("team/nothing",), "neither a directory here nor a model on the hub"),
        (("team/reranker", "--revision", "v9"), "no revision 'v9'"),
        (("team/reranker", "--offline"), "without --offline"),
    ],
)
def test_what_the_hub_lacks_is_said(hub: Hub, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """A missing model, revision or cache entry is a message with the next step, and no traceback."""
    found = convert(hub.url, tmp_path, *arguments)
    assert found.returncode == 1 and says in found.stderr and "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_no_network_is_said(tmp_path: Path) -> None:
    """A hub that does not answer is a message, not a traceback."""
    found = convert("http://127.0.0.1:9", tmp_path, "team/reranker")
    assert found.returncode == 1 and "cannot be reached" in found.stderr and "Traceback" not in found.stderr


def test_one_format_of_weights_is_fetched() -> None:
    """safetensors before Flax before .bin; never two. Shards are those that the index names, whatever they are called."""
    assets = ["config.json", "tokenizer.json"]
    flax, torch = ["flax_model.msgpack"], ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]
    single = ["model.safetensors", "consolidated.safetensors"]
    sharded = ["model.safetensors.index.json", "weights-a.safetensors", "weights-b.safetensors"]

    def files(*names: str, weights: bool = True) -> list[str]:
        shards = {"model.safetensors.index.json": sharded[1:2], "pytorch_model.bin.index.json": torch[:1]}
        return choose_files([*assets, *names], weights=weights, read_weight_map=lambda index: shards[index])

    assert files(*torch, *flax, *single) == [*assets, "model.safetensors"]
    assert files(*torch, *flax) == assets + flax
    assert sorted(files(*torch)) == sorted(assets + torch)
    assert files(*torch, weights=False) == assets
    assert files(*torch, *sharded) == [*assets, "model.safetensors.index.json", "weights-a.safetensors"]


@pytest.mark.parametrize(
    "answer",
    [b"<html>Sign in</html>", b"{}", b"[]", b"null", b'{"id":"a/b","sha":5,"siblings":[1]}', b'{"id":"a/b","siblings":[{}]}'],
)
@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_something_that_is_not_a_hub(tmp_path: Path, answer: bytes, command: str) -> None:
    """A page of a proxy, or JSON of another kind, is an error that names the address."""
    with serving({}, constant=answer) as server:
        output = [str(tmp_path / "out")] if command == "convert" else []
        result = run(command, server.url, tmp_path, "team/reranker", *output, "--token-ids", "[5,6]")
    assert result.returncode == 1
    assert server.url in result.stderr and "Check" in result.stderr and "Traceback" not in result.stderr


def test_shards_are_fetched_by_the_index(tmp_path: Path) -> None:
    """Shards of any name come, other safetensors do not; offline the same files are found again."""
    folder = tiny_checkpoint(tmp_path / "repo", "qwen3", shards=3)
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    for number, path in enumerate(sorted(folder.glob("*.safetensors"))):
        text = text.replace(path.name, f"part_{number}.safetensors")
        path.rename(folder / f"part_{number}.safetensors")
    index.write_text(text)
    (folder / "model-00001-of-00009.safetensors").write_bytes(b"stale")
    with serving({"team/reranker": folder}) as server:
        result = convert(server.url, tmp_path, "team/reranker")
        assert result.returncode == 0, result.stderr
        requests = " ".join(server.requests)
        assert "part_0.safetensors" in requests and "00009" not in requests
    assert convert(server.url, tmp_path, "team/reranker", "--offline").returncode == 0


def test_an_index_on_the_hub_that_is_not_one(tmp_path: Path) -> None:
    """A weight map of another type is an error of the index."""
    folder = tiny_checkpoint(tmp_path / "repo", "qwen3", shards=3)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    with serving({"team/reranker": folder}) as server:
        result = convert(server.url, tmp_path, "team/reranker")
    assert result.returncode == 1 and "weight_map" in result.stderr and "Traceback" not in result.stderr


def test_an_adapter_on_the_hub(qwen3: Path, tmp_path: Path) -> None:
    """The message has the download of the adapter and the conversion of its base."""
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "team/base"}))
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    with serving({"team/adapter": folder}) as server:
        result = convert(server.url, tmp_path, "team/adapter")
    expected = "hf download team/adapter --local-dir adapter && jaxconv convert team/base OUTPUT --adapter adapter"
    assert result.returncode == 1 and expected in result.stderr


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_source_or_base_is_refused(qwen3: Path, tmp_path: Path, name: str) -> None:
    """An unset variable of the shell does not mean the current directory."""
    with pytest.raises(UsageError, match="SOURCE is empty"):
        jaxconv.convert(name, tmp_path / "out", token_ids=[5, 6])
    with pytest.raises(UsageError, match="--base is empty"):
        jaxconv.convert(qwen3, tmp_path / "out", base=name, token_ids=[5, 6])


def test_links_out_of_the_source_are_refused(qwen3: Path, tmp_path: Path) -> None:
    """A licence that is a link to another file would publish that file; links within the source are followed."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    (tmp_path / "secret").write_text("secret")
    (source / "text").write_text("Apache-2.0")
    (source / "LICENSE").symlink_to("text")
    jaxconv.convert(source, tmp_path / "inside", token_ids=[5, 6], backend="numpy")
    assert (tmp_path / "inside/LICENSE").read_text() == "Apache-2.0"
    for target in (tmp_path / "secret", "../secret"):
        (source / "LICENSE").unlink()
        (source / "LICENSE").symlink_to(target)
        with pytest.raises(SourceError, match=r"LICENSE is a symbolic link that leads out of the source"):
            jaxconv.convert(source, tmp_path / "outside", token_ids=[5, 6], backend="numpy")
    assert not (tmp_path / "outside").exists()


def test_links_into_the_hubs_cache_are_followed(qwen3: Path, tmp_path: Path) -> None:
    """A snapshot links to the blobs beside it, and to nothing else."""
    entry = tmp_path / "models--team--reranker"
    snapshot = entry / "snapshots" / COMMIT
    shutil.copytree(qwen3, entry / "blobs")
    snapshot.mkdir(parents=True)
    for file in (entry / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    jaxconv.convert(snapshot, tmp_path / "out", token_ids=[5, 6], backend="numpy")
    (entry / "other").write_text("x")
    (snapshot / "LICENSE").symlink_to("../../other")
    with pytest.raises(SourceError, match="leads out of the source"):
        jaxconv.convert(snapshot, tmp_path / "out2", token_ids=[5, 6], backend="numpy")


def test_sizes_are_read_as_on_the_hub() -> None:
    """5GB is decimal; nonsense is refused."""
    assert parse_size("5GB") == 5 * 10**9 and parse_size("500 mb") == 5 * 10**8
    with pytest.raises(UsageError, match="0GB"):
        parse_size("0GB")


def test_a_step_of_a_checkpoint_without_steps_is_an_error(qwen3: Path, tmp_path: Path) -> None:
    """It would be ignored otherwise; the message names the format."""
    with pytest.raises(UsageError, match=r"--step 500: .* holds one checkpoint \(safetensors\)"):
        jaxconv.convert(qwen3, tmp_path / "out", step=500, token_ids=[5, 6], backend="numpy")


def test_a_local_base_is_recorded_by_its_name(qwen3: Path, tmp_path: Path) -> None:
    """Its path is nobody's business; what it was called is."""
    jaxconv.convert(qwen3, tmp_path / "out", base=qwen3, token_ids=[5, 6], backend="numpy")
    assert json.loads((tmp_path / "out" / "jaxconv.json").read_text())["base"] == {"name": qwen3.name}
    with pytest.raises(UsageError, match="--base DIR"):
        jaxconv.push(tmp_path / "out", "team/model", source=qwen3)


def test_a_model_of_the_hub_is_read_by_ranges(tmp_path: Path) -> None:
    """`hf://` leaves nothing in the hub's cache, pins the commit, and gives the bytes of the folder."""
    folder = tiny_checkpoint(tmp_path / "repo", "qwen3", shards=3, tie=False)
    with serving({"team/reranker": folder}) as server:
        found = convert(server.url, tmp_path, "hf://team/reranker@v1")
        assert found.returncode == 0, found.stderr
        assert all(COMMIT in line for line in server.requests if line.endswith(".safetensors"))
        assert {name for _, name, _ in server.ranges} >= {path.name for path in folder.glob("*.safetensors")}
    record = json.loads((tmp_path / "out" / "jaxconv.json").read_text())
    assert record["source"] == "team/reranker" and record["revision"] == COMMIT
    jaxconv.convert(folder, tmp_path / "local", token_ids=[5, 6], backend="numpy")
    for path in (tmp_path / "local").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_hub_options_belong_to_hub_ids(tmp_path: Path) -> None:
    """A revision of an address is part of it, and is not passed over in silence beside it."""
    for options in ({"revision": "v1"}, {"token": TOKEN}):
        with pytest.raises(UsageError, match=r"Write hf://owner/name@revision"):
            jaxconv.convert("hf://team/reranker", tmp_path / "out", token_ids=[5, 6], **options)  # type: ignore[arg-type]
