"""`push`, by huggingface_hub's real client against a hub on the loopback that takes uploads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import jaxconv
from tests.foreign import cases
from tests.support.hub import COMMIT, TOKEN
from tests.support.upload_hub import UploadHub, accepting

REPO = "team/classifier"


@pytest.fixture
def hub(qwen3: Path, tmp_path: Path) -> Iterator[UploadHub]:
    """A hub that has the source."""
    with accepting(tmp_path / "hub", {"team/reranker": qwen3}) as server:
        yield server


@pytest.fixture
def output(qwen3: Path, tmp_path: Path) -> Path:
    """A conversion of the directory `qwen3`."""
    jaxconv.convert(qwen3, tmp_path / "out", token_ids=[5, 6], backend="numpy")
    return tmp_path / "out"


def run(hub: UploadHub, home: Path, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, with its own cache of the hub."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "jaxconv", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a directory by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_directory_is_proved_and_uploaded_to_a_private_repository(
    hub: UploadHub, qwen3: Path, output: Path, tmp_path: Path
) -> None:
    """Every file arrives byte for byte; hidden files of the directory do not."""
    (output / ".notes").write_text("mine")
    done = run(hub, tmp_path, "push", str(output), REPO, "--source", str(qwen3), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["url"] == f"{hub.url}/{REPO}" and answer["commit"] == COMMIT and answer["tensors"] > 10
    (output / ".notes").unlink()
    assert contents(hub.repos[REPO]) == contents(output)
    assert hub.private[REPO] and hub.messages == [f"Classifier of {qwen3.name}, converted by jaxconv {jaxconv.__version__}"]


def test_the_recorded_source_is_fetched(hub: UploadHub, tmp_path: Path) -> None:
    """A conversion of a hub id needs no --source; branch, message and visibility are what was asked for."""
    out = str(tmp_path / "from-hub")
    converted = run(hub, tmp_path, "convert", "team/reranker", out, "--token-ids", "[5,6]", "--backend", "numpy")
    assert converted.returncode == 0, converted.stderr
    options = ("--public", "--revision", "v2", "--commit-message", "second try")
    done = run(hub, tmp_path, "push", out, REPO, *options)
    assert done.returncode == 0, done.stderr
    assert "tensors are the source's" in done.stdout and COMMIT in done.stdout
    assert not hub.private[REPO] and "v2" in hub.revisions and hub.messages == ["second try"]


def test_weights_of_an_earlier_push_are_removed(hub: UploadHub, qwen3: Path, output: Path, tmp_path: Path) -> None:
    """A shard that the output does not have would be loaded by nobody or, worse, by somebody; other files stay."""
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    hub.repos[REPO], hub.private[REPO] = folder, True
    for name in ("model-00001-of-00009.safetensors", "model.safetensors.index.json", "notes.md", "model.safetensors"):
        (folder / name).write_text("old")
    done = run(hub, tmp_path, "push", str(output), REPO, "--source", str(qwen3))
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(output) | {"notes.md": b"old"}


def test_an_output_that_is_not_its_source_is_not_uploaded(hub: UploadHub, qwen3: Path, output: Path, tmp_path: Path) -> None:
    """One changed value of one tensor is enough."""
    file = output / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, file, {"format": "pt"})
    done = run(hub, tmp_path, "push", str(output), REPO, "--source", str(qwen3))
    assert done.returncode == 1 and "model.norm.weight" in done.stderr and "nothing was uploaded" in done.stderr
    assert REPO not in hub.repos and not any(line.startswith("POST") for line in hub.requests)


def test_a_public_repository_is_not_written_to_by_accident(hub: UploadHub, qwen3: Path, output: Path, tmp_path: Path) -> None:
    """It takes --public."""
    command = ("push", str(output), "team/reranker", "--source", str(qwen3))
    done = run(hub, tmp_path, *command)
    assert done.returncode == 1 and "is public" in done.stderr and "--public" in done.stderr and not hub.messages
    assert run(hub, tmp_path, *command, "--public").returncode == 0


def test_a_card_that_the_hub_refuses(hub: UploadHub, qwen3: Path, output: Path, tmp_path: Path) -> None:
    """The hub's own validator is asked before a repository is created."""
    (output / "README.md").write_text("---\nlicense: made-up\n---\n")
    done = run(hub, tmp_path, "push", str(output), REPO, "--source", str(qwen3))
    assert done.returncode == 1 and "unknown licence" in done.stderr and REPO not in hub.repos


def test_refusals_of_the_hub_say_what_to_do(hub: UploadHub, qwen3: Path, output: Path, tmp_path: Path) -> None:
    """No token, one that may only read, a name that is none, an address where nobody listens."""
    push = ("push", str(output), REPO, "--source", str(qwen3))
    done = run(hub, tmp_path, *push, token="hf_other")
    assert done.returncode == 1 and "hf auth login" in done.stderr
    hub.refuses = "/commit/"
    done = run(hub, tmp_path, *push)
    assert done.returncode == 1 and "may only read" in done.stderr and "--token" in done.stderr
    done = run(hub, tmp_path, "push", str(output), "a/b/c", "--source", str(qwen3))
    assert done.returncode == 2 and "owner/name" in done.stderr
    hub.shutdown()
    hub.server_close()
    done = run(hub, tmp_path, *push)
    assert done.returncode == 1 and "cannot be uploaded" in done.stderr and "Traceback" not in done.stderr


def test_the_recorded_layout_is_used(hub: UploadHub, tmp_path: Path) -> None:
    """A layout that nothing in the checkpoint tells was named at the conversion, and need not be named again."""
    case, out = cases.unpack("maxtext/llama31_unscanned", tmp_path / "case"), tmp_path / "llama31"
    config = json.loads((case.original / "config.json").read_text())
    del config["rope_scaling"]
    (case.original / "config.json").write_text(json.dumps(config))
    jaxconv.convert(case.weights, out, base=case.original, layout="maxtext-llama3.1", token_ids=[5, 6], backend="numpy")
    done = run(hub, tmp_path, "push", str(out), REPO, "--source", str(case.weights), "--base", str(case.original))
    assert done.returncode == 0, done.stderr


def test_a_record_of_nothing_is_an_error(output: Path) -> None:
    """A file of that name that somebody else wrote."""
    for document in ({}, {"source": 5}, {"source": "x", "adapter": "lora"}):
        (output / "jaxconv.json").write_text(json.dumps(document))
        with pytest.raises(jaxconv.OutputError, match="does not record a conversion"):
            jaxconv.push(output, REPO, source=output)


def test_what_is_not_recorded_must_be_named(qwen3: Path, output: Path, tmp_path: Path) -> None:
    """A local source, an adapter; and a directory that nobody converted."""
    with pytest.raises(jaxconv.JaxconvError, match="--source"):
        jaxconv.push(output, REPO)
    record = json.loads((output / "jaxconv.json").read_text())
    (output / "jaxconv.json").write_text(json.dumps(record | {"adapter": {"name": "lora"}}))
    with pytest.raises(jaxconv.JaxconvError, match="--adapter"):
        jaxconv.push(output, REPO, source=qwen3)
    shutil.rmtree(output)
    with pytest.raises(jaxconv.OutputError, match="not an output of jaxconv"):
        jaxconv.push(output, REPO, source=qwen3)
