"""Padding and labels: nothing that transformers could take for the last token of a prompt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import jaxconv
from jaxconv.errors import RefusedError
from tests.support.scores import causal_logits, classifier_logits
from tests.support.tiny import tiny_checkpoint


def _with_pad(source: Path, folder: Path, pad: str | None) -> Path:
    """A copy of a source whose tokenizer pads with `pad`."""
    shutil.copytree(source, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": pad}))
    return folder


def _template(folder: Path, ending: str) -> Path:
    path = folder / "template.jinja"
    path.write_text("Query: {{ query }}\nDocument: {{ document }}" + ending + "\n")
    return path


def test_a_prompt_that_ends_in_the_pad_token_is_refused(qwen3: Path, tmp_path: Path) -> None:
    """transformers would score the token before it; the message names the token, the file and the way out."""
    source = _with_pad(qwen3, tmp_path / "source", "</s>")
    with pytest.raises(RefusedError, match=r"ends in '</s>' \(2\).*pad_token in .*tokenizer_config.json"):
        jaxconv.convert(
            source,
            tmp_path / "out",
            classifier_from_tokens=["no", "yes"],
            template=_template(tmp_path, "</s>"),
            backend="numpy",
        )
    assert not (tmp_path / "out").exists()
    jaxconv.convert(
        source, tmp_path / "out", classifier_from_tokens=["no", "yes"], template=_template(tmp_path, "</s>:"), backend="numpy"
    )


@pytest.mark.parametrize("ending", ["</s>", "<pad>"])
def test_a_pad_token_that_is_added_ends_no_prompt(ending: str, tmp_path: Path) -> None:
    """Without one at the source, batches of prompts that end in a likely candidate still give the causal LM's scores."""
    source = _with_pad(tiny_checkpoint(tmp_path / "made", "llama", tie=True), tmp_path / "source", None)
    output = tmp_path / "out"
    template = _template(tmp_path, ending)
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], template=template, backend="numpy")
    settings, config = (json.loads((output / name).read_text()) for name in ("tokenizer_config.json", "config.json"))
    assert settings["pad_token"] != ending
    prompts = [f"Query: is it\nDocument: {text}{ending}" for text in ("yes", "the that this no yes", "")]
    found, _ = classifier_logits(output, prompts)
    ids = json.loads((output / "jaxconv.json").read_text())["tokens"]
    wanted = causal_logits(source, prompts, [token["id"] for token in ids])
    assert found[:, 0].tolist() == pytest.approx((wanted[:, 1] - wanted[:, 0]).tolist(), abs=1e-4)
    assert config["id2label"] == {"0": "LABEL_0"}
