"""`verify` with pictures: both sides by transformers, the caller's pairs, what is left out, and what is a finding."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import UsageError
from jaxconv.pictures import Side
from jaxconv.verification.pictures import built_in_pairs
from tests.support.answering import answering
from tests.support.multimodal import composite_checkpoint, picture

PICTURES = len(built_in_pairs())
Converted = tuple[Path, Path]


def converted(folder: Path, name: str, **options: Any) -> Converted:
    """A tiny source and its output."""
    source = composite_checkpoint(folder / "source", name, tie=name in ("qwen3_vl", "gemma3"))
    jaxconv.convert(source, folder / "output", token_ids=[5, 6], backend="numpy", **options)
    return source, folder / "output"


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """A tied Qwen3-VL, its output, and a picture in the source's parent."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "odd.png").write_bytes(picture(301, 257))
    return converted(folder, "qwen3_vl")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "gemma3", "llava", "internvl"])
def test_pictures_are_scored(name: str, tmp_path: Path) -> None:
    """Built-in pairs of text by two implementations, pictures by transformers on both sides, Qwen3-VL by JAX too."""
    report = jaxconv.verify(*converted(tmp_path, name))
    assert report.passed and report.scores is not None, report.findings
    pictures = report.scores.pictures
    by = ("torch and jax", "independent") if name == "qwen3_vl" else ("torch", "consistency")
    assert pictures is not None and (pictures.pairs, pictures.backend, pictures.kind) == (PICTURES, *by)
    assert (
        report.scores.kind == ("consistency" if name == "qwen3_5" else "independent") and report.scores.max_abs_error <= 1e-4
    )
    assert len({row[0] for row in report.scores.source[-PICTURES:]}) == PICTURES


def test_the_report_says_what_was_scored(qwen3_vl: Converted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary, the JSON, the rows and the notes."""
    command = ["verify", *map(str, qwen3_vl), "--backend", "torch", "--report", str(tmp_path)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"pictures    in {PICTURES} of these pairs, by torch (a consistency check" in shown
    assert "torch computed the scores of pictures on both sides" in shown
    document = json.loads((tmp_path / "report.json").read_text())
    pictures = document["scores"]["pictures"]
    assert pictures["pairs"] == PICTURES and pictures["max_abs_error"] <= 1e-4
    assert "[odd.png] Figure 2: squares in rows." in {row["document"] for row in document["pairs"]}
    assert "[odd.png]" in (tmp_path / "report.html").read_text()


def test_pairs_of_the_caller(qwen3_vl: Converted, tmp_path: Path) -> None:
    """From a file, paths from its directory, and as dictionaries; a torch that runs both sides."""
    source, output = qwen3_vl
    row = {"query": "a", "document": {"image": "odd.png", "text": "b"}}
    pairs = source.parent / "pairs.jsonl"
    pairs.write_text(json.dumps(row) + "\n" + json.dumps({"query": "c", "document": "d"}) + "\n")
    report = jaxconv.verify(source, output, pairs=pairs, backend="torch")
    assert report.passed and report.scores is not None and report.scores.pictures is not None
    assert (report.scores.pairs, report.scores.pictures.pairs) == (2, 1)
    again = jaxconv.verify(source, output, pairs=[({"image": str(source.parent / "odd.png")}, "x")])
    assert again.scores is not None and again.scores.pictures is not None and again.scores.kind == "independent"
    only_text = jaxconv.verify(source, output, pairs=[("a", "b")], backend="torch")
    assert only_text.scores is not None and only_text.scores.pictures is None
    assert any("no pictures were scored" in note for note in only_text.notes)
    with pytest.raises(UsageError, match="--allow-remote-images"):
        jaxconv.verify(source, output, pairs=[("a", {"image": "http://localhost/a.png"})])


def test_what_cannot_be_scored_is_said(qwen3_vl: Converted, qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in pictures are left out with a note; the caller's are an error."""
    pair: Any = ("a", {"image": str(qwen3_vl[0].parent / "odd.png")})
    text = qwen3_vl[0].parent / "text"
    jaxconv.convert(qwen3, text, token_ids=[5, 6], backend="numpy")
    with pytest.raises(UsageError, match="reads text alone"):
        jaxconv.verify(qwen3, text, pairs=[pair])
    monkeypatch.setitem(sys.modules, "torchvision", None)
    report = jaxconv.verify(*qwen3_vl, backend="torch")
    assert report.passed and any("pictures need torchvision" in note for note in report.notes)
    with pytest.raises(UsageError, match="pictures need torchvision"):
        jaxconv.verify(*qwen3_vl, pairs=[pair])


@pytest.mark.slow
def test_jax_alone_leaves_pictures_of_other_families_out(tmp_path: Path) -> None:
    """The note says whom to ask; the caller's pictures are an error."""
    source, output = converted(tmp_path, "qwen2_vl")
    report = jaxconv.verify(source, output, backend="jax")
    assert report.passed and report.scores is not None and report.scores.pictures is None
    assert any("JAX scores the pictures of qwen3_vl and only pairs of text" in note for note in report.notes)
    (tmp_path / "odd.png").write_bytes(picture(301, 257))
    with pytest.raises(UsageError, match=r"JAX scores the pictures of qwen3_vl.*--backend torch"):
        jaxconv.verify(source, output, pairs=[("a", {"image": str(tmp_path / "odd.png")})], backend="jax")


def copied(output: Path, folder: Path) -> Path:
    """A copy of an output that may be changed."""
    shutil.copytree(output, folder)
    return folder


def test_another_tower_gives_other_scores(qwen3_vl: Converted, tmp_path: Path) -> None:
    """The output's side is computed from the output's own tower, and only pictures show it."""
    output = copied(qwen3_vl[1], tmp_path / "output")
    tensors = load_file(output / "model.safetensors")
    name = "model.visual.merger.linear_fc2.weight"
    tensors[name] = (tensors[name].astype(np.float32) * 1.5).astype(tensors[name].dtype)
    save_file(tensors, output / "model.safetensors", {"format": "pt"})
    report = jaxconv.verify(qwen3_vl[0], output)
    assert report.structure.mismatched == (name,)
    assert report.scores is not None and report.scores.pictures is not None
    assert report.scores.pictures.max_abs_error > 1e-3
    assert any("raw scores differ" in finding and ".png]" in finding for finding in report.findings)
    of_text = np.array(report.scores.output) - np.array(report.scores.source)
    assert np.abs(of_text[:-PICTURES]).max() <= 1e-4


@pytest.mark.slow
def test_recorded_limits_of_pixels(tmp_path: Path) -> None:
    """The preset's: others, or none, are a finding."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl", real=True)
    output = tmp_path / "output"
    jaxconv.convert(source, output, preset="qwen3-vl-reranker", backend="numpy")
    record = json.loads((output / "jaxconv.json").read_text())
    assert record["pixels"] == [4096, 1843200]
    for pixels in (None, [1, 2], [4096, 1843200]):
        (output / "jaxconv.json").write_text(json.dumps({**record, "pixels": pixels}))
        report = jaxconv.verify(source, output, structure_only=True)
        wrong = [finding for finding in report.findings if "the least and most that the authors" in finding]
        assert len(wrong) == (pixels != [4096, 1843200])


def test_a_server_gets_pictures_in_the_request(qwen3_vl: Converted) -> None:
    """Content lists with data: URLs."""
    source, output = qwen3_vl
    report = jaxconv.verify(source, output, backend="torch")
    scores = report.scores
    assert scores is not None

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        data = [{"index": index, "score": row[0]} for index, row in enumerate(scores.output)]
        return {"data": data, "usage": {"prompt_tokens": sum(scores.lengths)}}

    models = {"data": [{"id": "x", "root": str(output), "parent": None}]}
    with answering(models, answer) as (url, asked):
        served = jaxconv.verify(source, output, backend="torch", against_vllm=url)
    assert served.passed and served.vllm is not None and served.vllm.pairs == scores.pairs
    query, document = asked[0]["queries"][-1], asked[0]["documents"][-1]
    assert query == "two of them"
    assert [part["type"] for part in document["content"]] == ["image_url", "image_url", "text"]
    side = scores.scored[-1][1]
    assert isinstance(side, Side) and side.request() == document
