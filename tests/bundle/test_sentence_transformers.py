"""CrossEncoder(output) of the real sentence-transformers: the same prompt, tokens, activation and scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import jaxconv
from jaxconv.bundle.sentence_transformers import NAME
from jaxconv.presets import Preset
from tests.support.tiny import tiny_checkpoint

PAIRS = [("what is it?", "yes, this is it"), ("no", ""), ("two\nlines", "the the " * 8)]
TEMPLATE = "Query: {{ query }}\nDocument: {{ document }}\nRelevant:\n\n"


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "mistral", "gemma"])
def test_scores_equal_transformers_and_jaxconv(family: str, activation: str, tmp_path: Path) -> None:
    """predict, transformers on the templated ids and jaxconv.load agree within 1e-5, with and without BOS."""
    source = tiny_checkpoint(tmp_path / "source", family)
    before = {path.name: path.read_bytes() for path in source.glob("tokenizer*")}
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE + "\n")
    output = tmp_path / "output"
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], template=template, activation=activation)
    assert before == {path.name: path.read_bytes() for path in output.glob("tokenizer*")}

    encoder = CrossEncoder(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    predicted = [float(score) for score in encoder.predict(PAIRS, batch_size=2)]

    scorer = jaxconv.load(output)
    model = AutoModelForSequenceClassification.from_pretrained(output, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(output)
    wanted = []
    for query, document in PAIRS:
        ids = scorer.encode(query, document)
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        assert tokenizer.apply_chat_template(messages, chat_template=NAME, return_dict=True)["input_ids"] == ids
        with torch.no_grad():
            logit = model(torch.tensor([ids])).logits[0, 0]
        wanted.append(float(logit.sigmoid() if activation == "sigmoid" else logit))
    assert predicted == pytest.approx(wanted, abs=1e-5)
    assert predicted == pytest.approx(scorer.score_pairs(PAIRS), abs=1e-5)


def test_the_sources_own_files_are_not_copied(qwen3: Path, tmp_path: Path) -> None:
    """A source that is a LogitScore CrossEncoder does not make the output one."""
    source = tmp_path / "source"
    source.mkdir()
    for path in qwen3.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "modules.json").write_text('[{"type": "sentence_transformers.cross_encoder.modules.LogitScore"}]')
    (source / "1_LogitScore").mkdir()
    (source / "1_LogitScore/config.json").write_text('{"true_token_id": 1}')
    output = tmp_path / "output"
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"])
    assert not (output / "1_LogitScore").exists()
    assert [module["type"].rsplit(".", 1)[-1] for module in json.loads((output / "modules.json").read_text())] == [
        "Transformer"
    ]


def test_the_tokenizers_chat_template_stays_the_default(qwen3: Path, tmp_path: Path) -> None:
    """One that stands only in tokenizer_config.json is not lost beside the named template."""
    source = tmp_path / "source"
    source.mkdir()
    for path in qwen3.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": "chat: {{ messages[0].content }}"})
    )
    output = tmp_path / "output"
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"])
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "yes"}], tokenize=False) == "chat: yes"


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_vllm_0_33_takes_the_template_or_refuses_it(family: str, tmp_path: Path) -> None:
    """What its reader asks for is there; a tokenizer that adds BOS carries the key that it refuses, as BOS would be doubled.

    The conditions are those of get_sentence_transformers_chat_template_kwargs of vLLM 0.33.0, restated here: that version
    has no build for a CPU. Its own functions were run on such outputs by hand, with and without the key.
    """
    source, output = tiny_checkpoint(tmp_path / "source", family), tmp_path / "output"
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], backend="numpy")
    modules, transformer, settings = (
        json.loads((output / f"{name}.json").read_text())
        for name in ("modules", "sentence_bert_config", "config_sentence_transformers")
    )
    assert settings["model_type"] == "CrossEncoder" and len(modules) == 1 and modules[0]["path"] == ""
    assert modules[0]["type"] == "sentence_transformers.base.modules.transformer.Transformer"
    assert transformer["transformer_task"] == "sequence-classification" and "message" in transformer["modality_config"]
    template = transformer["processing_kwargs"]["chat_template"]
    assert template["chat_template"] == NAME and NAME in AutoTokenizer.from_pretrained(output).chat_template
    assert {"tokenize", "tools"} & template.keys() == ({"tools"} if family == "llama" else set())
    assert "max_seq_length" not in transformer  # vLLM would take it for the model's whole length


def test_the_authors_longest_prompt_is_kept(qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CrossEncoder and `jaxconv score` cut a long document at the preset's length and keep the end of the prompt."""
    preset = Preset(
        "short",
        (),
        "made up",
        ("made up",),
        tokens=("no", "yes"),
        template="Q: {{ query }}\nD: {{ document }} yes:",
        max_length=40,
    )
    for module in ("jaxconv.presets.detect", "jaxconv.plan"):
        monkeypatch.setattr(f"{module}.get", lambda name: preset)
    output = tmp_path / "output"
    jaxconv.convert(qwen3, output, preset="short", backend="numpy")
    assert json.loads((output / "jaxconv.json").read_text())["max_length"] == 40
    encoder = CrossEncoder(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    scorer = jaxconv.load(output)
    assert encoder.max_seq_length == scorer.max_length == 40
    ids = scorer.encode("what", "the that this " * 30)
    pair = [{"role": "query", "content": "what"}, {"role": "document", "content": "the that this " * 30}]
    cut = encoder.preprocess([pair])["input_ids"][0].tolist()
    end = scorer.encode("what", "x")[-2:]
    assert len(cut) == 40 and 38 <= len(ids) <= 40
    assert ids[-2:] == end == cut[-2:]
    card = (output / "README.md").read_text()
    assert "--max-model-len 40" in card and "truncate_prompt_tokens" in card
