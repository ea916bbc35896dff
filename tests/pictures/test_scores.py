"""Scores of pairs with pictures in PyTorch, against transformers' causal LM of pictures and text."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import jaxconv
from jaxconv import scoring
from jaxconv.cli import main
from jaxconv.errors import BackendUnavailable, SourceError, UsageError
from jaxconv.pictures import Picture, Side, SideEncoder
from jaxconv.text.prompt import render
from tests.support.multimodal import composite_checkpoint, picture

MARKS = {"gemma3": "<start_of_image>", "llava": "<image>", "internvl": "<IMG_CONTEXT>", "mistral3": "[IMG]"}
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
SIZES = {"aligned.png": (256, 256), "odd.png": (301, 257), "small.png": (30, 41)}
# Query and document, each the names of its pictures and its text.
PAIRS = [
    (((), "where do kestrels nest"), ((), "On cliffs.")),
    (((), "a red square"), (("aligned.png",), "")),
    (((), "a red square"), (("odd.png",), "a caption\nof it")),
    ((("small.png",), "like this"), ((), "a document")),
    ((("odd.png",), "like this"), (("small.png", "aligned.png"), "and these")),
]
TEMPLATE = "Query: {{ query }} .\nPassage: {{ document }} .\nRelevant:"
IDS = [5, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with pictures and a template."""
    path = tmp_path_factory.mktemp("pictures")
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        (path / name).write_bytes(picture(width, height, seed))
    (path / "prompt.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def qwen3_vl(folder: Path) -> tuple[Path, Path]:
    """A tied Qwen3-VL and its classifier."""
    return converted(folder, "qwen3_vl")


def converted(folder: Path, name: str) -> tuple[Path, Path]:
    """A tiny source and its output."""
    source, output = folder / name, folder / f"{name}-out"
    composite_checkpoint(source, name, tie=name in ("qwen3_vl", "gemma3"))
    jaxconv.convert(source, output, token_ids=IDS, template=folder / "prompt.jinja", backend="numpy")
    return source, output


def side(names: tuple[str, ...], text: str, folder: Path) -> Any:
    """A side as the API takes it."""
    return {"image": [str(folder / name) for name in names], "text": text} if names else text


@torch.inference_mode()
def causal(source: Path, output: Path, mark: str, folder: Path, size: dict[str, int] | None = None) -> list[float]:
    """The difference of the causal LM's logits for each pair, by transformers alone."""
    processor: Any = AutoProcessor.from_pretrained(source)
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    template = (output / "score_template.jinja").read_text()
    scores = []
    for query, document in PAIRS:
        text = render(template, *(mark * len(names) + text for names, text in (query, document)))
        pictures = [Image.open(folder / name).convert("RGB") for name in (*query[0], *document[0])]
        inputs = processor(text=[text], images=pictures or None, return_tensors="pt", **({"size": size} if size else {}))
        logits = model(**inputs).logits[0, -1, IDS]
        scores.append(float(logits[1] - logits[0]))
    return scores


@pytest.mark.parametrize(
    "name",
    ["qwen2_5_vl", pytest.param("qwen2_vl", marks=pytest.mark.slow), "qwen3_5", "gemma3", "llava", "internvl", "mistral3"],
)
def test_scores_are_the_causal_lms(name: str, folder: Path) -> None:
    """In one call, so that texts and pictures are batched, and one by one."""
    source, output = converted(folder, name)
    check_scores(source, output, folder, MARKS.get(name, QWEN_MARK))


def test_scores_of_qwen3_vl(qwen3_vl: tuple[Path, Path], folder: Path) -> None:
    """Likewise, with deepstack and interleaved positions."""
    check_scores(*qwen3_vl, folder, QWEN_MARK)


def check_scores(source: Path, output: Path, folder: Path, mark: str) -> None:
    """Every pair, batched and alone, against the causal LM."""
    expected = causal(source, output, mark, folder)
    assert max(expected) - min(expected) > 0.01
    scorer = jaxconv.load(output, backend="torch")
    pairs = [(side(*query, folder), side(*document, folder)) for query, document in PAIRS]
    assert scorer.score_pairs(pairs, raw=True) == pytest.approx(expected, abs=1e-4)
    assert [scorer.score_pairs([pair], raw=True)[0] for pair in pairs] == pytest.approx(expected, abs=1e-4)


def test_the_recorded_limits_of_pixels_are_used(qwen3_vl: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    """As the served command tells them to vLLM; they change the scores of small pictures."""
    source, output = qwen3_vl
    limited = tmp_path / "limited"
    limited.mkdir()
    for path in output.iterdir():
        (limited / path.name).symlink_to(path)
    (limited / "jaxconv.json").unlink()
    record = json.loads((output / "jaxconv.json").read_text())
    (limited / "jaxconv.json").write_text(json.dumps({**record, "pixels": [4096, 1843200]}))
    expected = causal(source, output, QWEN_MARK, folder, {"shortest_edge": 4096, "longest_edge": 1843200})
    pairs = [(side(*query, folder), side(*document, folder)) for query, document in PAIRS]
    scores = jaxconv.load(limited, backend="torch").score_pairs(pairs, raw=True)
    assert scores == pytest.approx(expected, abs=1e-4)
    assert scores != pytest.approx(jaxconv.load(output, backend="torch").score_pairs(pairs, raw=True), abs=1e-3)


def test_ranked_documents_are_those_that_were_given(qwen3_vl: tuple[Path, Path], folder: Path) -> None:
    """Objects come back as they went in."""
    documents = ["a text", {"image": str(folder / "odd.png")}]
    ranked = jaxconv.load(qwen3_vl[1], backend="torch").rank("a query", documents)
    assert sorted(entry.index for entry in ranked) == [0, 1]
    assert all(entry.document is documents[entry.index] for entry in ranked)


def test_pictures_are_never_cut(qwen3_vl: tuple[Path, Path], folder: Path) -> None:
    """The end of the document's text goes, down to the picture alone; then the pair is refused."""
    scorer = jaxconv.load(qwen3_vl[1], backend="torch")
    image = int(scorer.config["image_token_id"])
    document = {"image": str(folder / "odd.png"), "text": "some words of a caption " * 40}
    query = {"image": str(folder / "small.png"), "text": "x"}
    whole = scorer.encode(query, document)
    pictures, end = whole.count(image), whole[-6:]
    texts = scorer.encoder.texts
    bare = len(scorer.encode(query, {**document, "text": ""}))
    for length in (len(whole) - 1, len(whole) - 50, bare + 1, bare):
        texts.max_length = length
        ids = scorer.encode(query, document)
        assert len(ids) <= length and ids.count(image) == pictures and ids[-6:] == end
        assert len(ids) > length - 8
    texts.max_length = bare - 1
    with pytest.raises(UsageError, match=f"The query and the pictures alone take {bare} tokens; at most {bare - 1} fit"):
        scorer.encode(query, document)


def test_a_picture_is_refused_where_it_cannot_be_scored(qwen3: Path, qwen3_vl: tuple[Path, Path], folder: Path) -> None:
    """By a model of text, and by a backend that scores none; `pictures` chooses one that does."""
    pair = ("a", {"image": str(folder / "odd.png")})
    jaxconv.convert(qwen3, folder / "text", token_ids=IDS, backend="numpy")
    with pytest.raises(UsageError, match="reads text alone"):
        jaxconv.load(folder / "text", backend="torch").score_pairs([pair])
    with pytest.raises(UsageError, match="reads text alone"):
        jaxconv.load(folder / "text", pictures=True)
    assert jaxconv.load(qwen3_vl[1], pictures=True).score_pairs([pair])
    with pytest.raises(UsageError, match=r"document 0: picture none\.png cannot be read"):
        jaxconv.load(qwen3_vl[1], backend="torch").score_pairs([("a", {"image": "none.png"})])


def test_jax_scores_pairs_of_text(qwen3_vl: tuple[Path, Path]) -> None:
    """By the language model's tensors; the same numbers as the model with its tower."""
    pairs = [("where do kestrels nest", "On cliffs."), ("a", "b")]
    scores = [jaxconv.load(qwen3_vl[1], backend=name).score_pairs(pairs, raw=True) for name in ("jax", "torch")]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_the_command_takes_pictures(qwen3_vl: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths start from the file of pairs; the rows come back with their scores, and "auto" finds a backend."""
    rows = [
        {"query": "a", "document": {"image": "odd.png", "text": "b"}, "id": 7},
        {"query": {"content": [{"type": "image_url", "image_url": {"url": "small.png"}}]}, "document": "c"},
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(qwen3_vl[1]), "--pairs", str(folder / "pairs.jsonl"), "--raw"]) == 0
    scored = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = jaxconv.load(qwen3_vl[1], backend="torch").score_pairs(
        [("a", side(("odd.png",), "b", folder)), (side(("small.png",), "", folder), "c")], raw=True
    )
    assert [row.pop("score") for row in scored] == pytest.approx(expected, abs=1e-5)
    assert scored == rows
    document = json.dumps({"image": str(folder / "odd.png"), "text": "b"})
    command = ["score", str(qwen3_vl[1]), "--query", "a", "--document", document, "--raw", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["score"] == pytest.approx(expected[0], abs=1e-5)


def test_a_missing_picture_stops_the_command_before_any_work(
    qwen3_vl: tuple[Path, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the pair; an address of another machine needs its flag."""
    first = json.dumps({"query": "a", "document": "b"})
    for image, message in {"none.png": "cannot be read", "http://localhost/a.png": "--allow-remote-images"}.items():
        row = json.dumps({"query": "a", "document": {"image": image}})
        (folder / "wrong.jsonl").write_text(f"{first}\n{row}\n")
        assert main(["score", str(qwen3_vl[1]), "--pairs", str(folder / "wrong.jsonl")]) == 2
        shown = capsys.readouterr()
        assert not shown.out and "wrong.jsonl, pair 2, document: picture" in shown.err and message in shown.err


def test_many_pictures_are_scored_a_few_at_a_time(
    qwen3_vl: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the pairs."""
    scorer = jaxconv.load(qwen3_vl[1], backend="torch")
    pairs = [(side(*query, folder), side(*document, folder)) for query, document in PAIRS]
    expected = scorer.score_pairs(pairs)
    monkeypatch.setattr(scoring, "PICTURED", 2)
    assert scorer.score_pairs(pairs) == pytest.approx(expected, abs=1e-6)


def test_missing_packages_are_said(qwen3_vl: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision missing, or a build for another torch; text is scored without it."""
    scorer = jaxconv.load(qwen3_vl[1], backend="torch")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(BackendUnavailable, match=r"torchvision, not installed here.*jaxconv\[pictures\]"):
        scorer.encoder.encode("a", side_with(folder))
    with pytest.raises(UsageError, match="torchvision"):
        scorer.score("a", [{"image": str(folder / "odd.png")}])
    assert scorer.score("a", ["b"])


def side_with(folder: Path) -> Any:
    """A side whose picture has been read."""
    return Side("", (Picture("odd.png", (folder / "odd.png").read_bytes()),))


def test_a_damaged_processor_is_said(qwen3_vl: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    """With the files that were expected."""
    encoder = jaxconv.load(qwen3_vl[1], backend="torch").encoder
    damaged = SideEncoder(encoder.texts, tmp_path, {"model_type": "qwen3_vl"}, None)
    with pytest.raises(SourceError, match=r"cannot load the processor.*preprocessor_config\.json"):
        damaged.encode("a", side_with(folder))
    with pytest.raises(SourceError, match=r"pixels = 'many'"):
        SideEncoder(encoder.texts, tmp_path, {"model_type": "qwen3_vl"}, {"pixels": "many"})


def test_what_the_processor_refuses_is_said(qwen3_vl: tuple[Path, Path]) -> None:
    """A picture 201 times as wide as it is high."""
    file = BytesIO()
    Image.new("RGB", (2010, 10)).save(file, "PNG")
    with pytest.raises(UsageError, match=r"refuses the pictures wide\.png .*aspect ratio"):
        jaxconv.load(qwen3_vl[1], backend="torch").encode_sides("a", Side("", (Picture("wide.png", file.getvalue()),)))
