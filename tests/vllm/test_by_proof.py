"""Families that no table describes, in a real vLLM: raw logits of the causal LM, through `/score` and `/rerank`."""

from __future__ import annotations

from pathlib import Path

import pytest

import jaxconv
from tests.support.any_family import random_model, write
from tests.support.tiny import tokenizer
from tests.support.vllm_server import HEADS, served
from tests.vllm.test_served import check_served

pytestmark = pytest.mark.vllm
# A plain decoder, partial rotary embedding and four norms, norms after the layers, learned positions, a tied head.
FAMILIES = ("arcee", "glm", "exaone4", "opt", "ernie4_5")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_family_without_a_table(tmp_path: Path, model_type: str) -> None:
    """vLLM finds the classifier by its suffix and gives the causal LM's scores."""
    source = write(tmp_path / "source", random_model(model_type, **HEADS))
    template = tmp_path / "prompt.jinja"
    template.write_text("Query: {{ query }}\nPassage: {{ document }}\nRelevant:\n\n")
    result = jaxconv.convert(
        source, tmp_path / "out", classifier_from_tokens=["no", "yes"], template=template, backend="numpy"
    )
    assert result.plan.model.family.by_proof
    with served(tmp_path / "out", tmp_path / "log") as url:
        check_served(source, tmp_path / "out", tokenizer(False).convert_tokens_to_ids(["no", "yes"]), url)
