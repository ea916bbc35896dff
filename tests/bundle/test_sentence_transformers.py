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
