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
from jaxconv.errors import UsageError
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


def test_sizes_are_read_as_on_the_hub() -> None:
    """5GB is decimal; nonsense is refused."""
    assert parse_size("5GB") == 5 * 10**9 and parse_size("500 mb") == 5 * 10**8
    with pytest.raises(UsageError, match="0GB"):
        parse_size("0GB")
