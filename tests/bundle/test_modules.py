"""`--consumers sentence-transformers`: CrossEncoder on outputs for whose family transformers has no classifier."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from transformers import AutoModelForImageTextToText, AutoProcessor

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import UsageError
from jaxconv.families import composite_of
from jaxconv.text.pictures import picture_mark
from jaxconv.text.prompt import render
from jaxconv.text.tokenizer import Vocabulary
from tests.support.multimodal import composite_checkpoint, picture
from tests.support.tiny import tiny_checkpoint

BOTH = ("vllm", "sentence-transformers")
TEMPLATE = "Query: {{ query }} .\nPassage: {{ document }} .\nRelevant:"
# Aligned to the patches, odd-sized, and under the least size.
PICTURES = {
    name: Image.open(io.BytesIO(picture(width, height, seed)))
    for seed, (name, (width, height)) in enumerate({"aligned": (256, 256), "odd": (301, 257), "small": (20, 31)}.items())
}
PAIRS: list[tuple[Any, Any]] = [
    ("where do kestrels nest", "On cliffs, in towers and in old nests."),
    ("a red square", {"image": PICTURES["aligned"]}),
    ("a red square", {"image": PICTURES["odd"], "text": "a caption of it"}),
    ({"image": PICTURES["odd"], "text": "like this one"}, {"image": PICTURES["small"], "text": "and this"}),
    ("", {"image": PICTURES["small"]}),
]


def converted(folder: Path, name: str, **options: Any) -> tuple[Path, Path]:
    """A source, and its output for both consumers unless the options say otherwise."""
    source, output, template = (
        composite_checkpoint(folder / "source", name, real=True, tie=False),
        folder / "out",
        folder / "t",
    )
    template.write_text(TEMPLATE)
    chosen = {"classifier_from_tokens": ["no", "yes"], "template": template} | options
    jaxconv.convert(source, output, **{"consumers": BOTH, "backend": "numpy", "activation": "identity"} | chosen)
    return source, output


def causal_scores(source: Path, output: Path, size: dict[str, int] | None = None) -> list[float]:
    """transformers' causal LM on the prompts as vLLM makes them: marks first, then the text."""
    config = json.loads((source / "config.json").read_text())
    mark = picture_mark(composite_of(config), config, Vocabulary(source))
    answers = [token["id"] for token in json.loads((output / "jaxconv.json").read_text())["tokens"]]
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(source)
    if size is not None:
        processor.image_processor.size = size
    template, scores = (output / "score_template.jinja").read_text(), []
    for pair in PAIRS:
        texts = [side if isinstance(side, str) else f"{mark}{side.get('text', '')}" for side in pair]
        images = [side["image"] for side in pair if not isinstance(side, str)]
        inputs = processor(text=[render(template, *texts)], images=images or None, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
        scores.append(float(logits[answers[1]] - logits[answers[0]]))
    return scores


def check_cross_encoder(output: Path, truth: list[float]) -> None:
    """One by one and in a padded batch."""
    encoder = CrossEncoder(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    assert [float(encoder.predict([pair])[0]) for pair in PAIRS] == pytest.approx(truth, abs=1e-4)
    assert [float(score) for score in encoder.predict(PAIRS, batch_size=len(PAIRS))] == pytest.approx(truth, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_vl", "gemma3", "internvl", "llava", "qwen3_5"])
def test_pictures_score_as_in_the_causal_lm(tmp_path: Path, name: str) -> None:
    """Text and pictures in query and document, within 1e-4."""
    source, output = converted(tmp_path, name)
    check_cross_encoder(output, causal_scores(source, output))
    report = jaxconv.verify(source, output, structure_only=True)
    assert report.passed, report.findings


@pytest.mark.slow
def test_the_limits_of_pictures_and_a_bias_reach_cross_encoder(tmp_path: Path) -> None:
    """Qwen3-VL-Reranker's own prompt and limits, with a bias and a sigmoid folded in."""
    preset = {"preset": "qwen3-vl-reranker", "template": None, "classifier_from_tokens": None, "bias": 0.5}
    source, output = converted(tmp_path, "qwen3_vl", **preset)
    truth = causal_scores(source, output, {"shortest_edge": 4096, "longest_edge": 1843200})
    check_cross_encoder(output, [score + 0.5 for score in truth])
    row = load_file(output / "2_Dense" / "model.safetensors")
    assert row["linear.bias"].tolist() == [0.5] and row["linear.weight"].dtype == torch.float32


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_a_family_of_text_without_a_classifier_is_loaded_too(tmp_path: Path, activation: str) -> None:
    """Cohere has none in transformers; its scale is folded into the row."""
    source, output = tiny_checkpoint(tmp_path / "source", "cohere"), tmp_path / "out"
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], activation=activation, consumers=BOTH)
    pairs = [("what is it?", "yes, this is it"), ("no", "the the")]
    encoder = CrossEncoder(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    expected = jaxconv.load(output).score_pairs(pairs)
    assert [float(score) for score in encoder.predict(pairs, batch_size=2)] == pytest.approx(expected, abs=1e-5)
    assert jaxconv.verify(source, output, structure_only=True).passed


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Qwen3-VL with few embedding rows, and its output for both consumers."""
    folder = tmp_path_factory.mktemp("small")
    source, output = composite_checkpoint(folder / "source", "qwen3_vl"), folder / "out"
    jaxconv.convert(source, output, token_ids=[5, 6], backend="numpy", consumers=BOTH)
    return source, output


def test_who_gets_which_files(small: tuple[Path, Path], tmp_path: Path) -> None:
    """vLLM alone by default; vLLM must not find a Pooling by its usual name unless the output is not for it."""
    source, both = small
    types = {}
    for consumers in (("vllm",), ("sentence-transformers",)):
        output = tmp_path / "-".join(consumers)
        jaxconv.convert(source, output, token_ids=[5, 6], backend="numpy", consumers=consumers)
        path = output / "modules.json"
        types[consumers] = json.loads(path.read_text())[1]["type"] if path.exists() else None
    assert types == {
        ("vllm",): None, ("sentence-transformers",): "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    }  # fmt: skip
    shared = json.loads((both / "modules.json").read_text())[1]["type"]
    assert shared == "sentence_transformers.sentence_transformer.modules.Pooling"
    cards = [(folder / "README.md").read_text() for folder in (tmp_path / "vllm", tmp_path / "sentence-transformers", both)]
    assert "--consumers vllm,sentence-transformers" in cards[0] and "CrossEncoder(" not in cards[0]
    assert "gives raw logits" in cards[1] and "by its package" in cards[2] and "CrossEncoder(" in cards[2]


def test_families_with_a_classifier_need_no_modules(qwen3: Path, tmp_path: Path) -> None:
    """One set of files serves both, so the output is the same."""
    outputs = []
    for consumers in (("vllm",), BOTH):
        output = tmp_path / "-".join(consumers)
        jaxconv.convert(qwen3, output, classifier_from_tokens=["no", "yes"], consumers=consumers)
        outputs.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()})
    assert outputs[0] == outputs[1]


def another_row(output: Path) -> None:
    path = output / "2_Dense" / "model.safetensors"
    tensors = load_file(path)
    tensors["linear.weight"][0, 3] += 1e-6
    save_file(tensors, path)


def another_pooling(output: Path) -> None:
    (output / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 64, "pooling_mode": "mean"}')


def a_name_that_vllm_knows(output: Path) -> None:
    text = (output / "modules.json").read_text()
    (output / "modules.json").write_text(text.replace("modules.Pooling", "modules.pooling.Pooling"))


def no_record(output: Path) -> None:
    record = json.loads((output / "jaxconv.json").read_text())
    (output / "jaxconv.json").write_text(json.dumps({key: value for key, value in record.items() if key != "consumers"}))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (another_row, r"linear\.weight of 2_Dense differs from score\.weight"),
        (another_pooling, r"1_Pooling/config\.json is .*mean"),
        (a_name_that_vllm_knows, r"modules\.json has the modules"),
        (no_record, "does not record sentence-transformers"),
    ],
)
def test_verify_finds_what_was_changed(
    small: tuple[Path, Path], tmp_path: Path, change: Callable[[Path], None], finding: str
) -> None:
    """The row's copy, the settings and the name that hides the pooling are proven."""
    source, output = small[0], tmp_path / "out"
    shutil.copytree(small[1], output)
    assert jaxconv.verify(source, output, structure_only=True).passed
    change(output)
    report = jaxconv.verify(source, output, structure_only=True)
    assert not report.passed and re.search(finding, " ".join(report.findings)), report.findings


def test_an_unknown_consumer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any file is read."""
    with pytest.raises(UsageError, match="--consumers tei is unknown; expected vllm, sentence-transformers"):
        jaxconv.convert(tmp_path, tmp_path / "out", token_ids=[1, 2], consumers=["vllm", "tei"])
    assert main(["convert", str(tmp_path), str(tmp_path / "out"), "--consumers", "tei"]) == 2
    assert "--consumers tei is unknown" in capsys.readouterr().err
