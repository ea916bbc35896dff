"""Rerankers of pictures that sentence-transformers saved with a LogitScore, as LightOn-rerank and Qwen3-VL-Reranker are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules.logit_score import LogitScore
from transformers import AutoProcessor

import jaxconv
from jaxconv.text.prompt import render
from tests.support.multimodal import composite_checkpoint, picture

pytestmark = pytest.mark.slow
MARK = "<|vision_start|><|image_pad|><|vision_end|>"
NO, YES = 2152, 9693
# Messages of parts, and of texts too: what stands in additional_chat_templates/reranker.jinja.
TEMPLATE = f"""\
{{%- macro shown(role) -%}}
{{%- for message in messages if message.role == role -%}}
{{%- if message.content is string -%}}{{{{ message.content }}}}{{%- else -%}}
{{%- for part in message.content -%}}{{{{ "{MARK}" if part.type == "image" else part.text }}}}{{%- endfor -%}}
{{%- endif -%}}{{%- endfor -%}}
{{%- endmacro -%}}
<|im_start|>system
Judge.<|im_end|>
<|im_start|>user
<Query>:{{{{ shown("query") }}}} <Document>:{{{{ shown("document") }}}}<|im_end|>
<|im_start|>assistant

"""
TEXTS = [("where do kestrels nest", "On cliffs and in towers."), ("a query", "a document\nof two lines")]


def saved(folder: Path, name: str) -> tuple[Path, CrossEncoder]:
    """A reranker of pictures as sentence-transformers saves it, its template one of several."""
    base = composite_checkpoint(folder / "base", name, real=True)
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "reranker.jinja").write_text(TEMPLATE)
    module = Transformer(
        str(base), transformer_task="any-to-any", model_kwargs={"dtype": torch.float32},
        processing_kwargs={"chat_template": {"chat_template": "reranker"}},
    )  # fmt: skip
    encoder = CrossEncoder(modules=[module, LogitScore(true_token_id=YES, false_token_id=NO)], device="cpu")
    encoder.save_pretrained(str(folder / "source"))
    return folder / "source", encoder


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5"])
def test_the_record_gives_ids_and_prompt(tmp_path: Path, name: str) -> None:
    """No flags: CrossEncoder's scores of text, and its token ids with pictures from strings as vLLM makes them."""
    source, encoder = saved(tmp_path, name)
    output = tmp_path / "output"
    plan = jaxconv.convert(source, output, backend="numpy").plan
    assert [token.id for token in plan.tokens] == [NO, YES]
    assert plan.prompt.known and plan.preset_origin == "1_LogitScore/config.json"
    report = jaxconv.verify(source, output, structure_only=True)
    assert report.passed, report.findings
    truth = encoder.predict(TEXTS, batch_size=1, activation_fn=torch.nn.Identity()).tolist()
    assert jaxconv.load(output, backend="torch").score_pairs(TEXTS, raw=True) == pytest.approx(truth, abs=1e-4)
    (tmp_path / "picture.png").write_bytes(picture(301, 257))
    image = Image.open(tmp_path / "picture.png").convert("RGB")
    sides: list[tuple[Any, Any, str, str, int]] = [
        ("a query", {"image": image, "text": "a caption"}, "a query", f"{MARK}a caption", 1),
        ({"image": image}, {"image": image}, MARK, MARK, 2),
    ]
    template = (output / "score_template.jinja").read_text()
    processor = AutoProcessor.from_pretrained(output)
    for query, document, query_text, document_text, count in sides:
        theirs = encoder.preprocess([(query, document)])["input_ids"][0].tolist()
        text = render(template, query_text, document_text)
        assert processor(text=[text], images=[image] * count)["input_ids"][0] == theirs


def test_a_wrong_path_as_the_8b_repository_had(tmp_path: Path) -> None:
    """sentence-transformers cannot load it; the file that is there is taken, and the origin says so."""
    source, _ = saved(tmp_path, "qwen3_vl")
    modules = json.loads((source / "modules.json").read_text())
    modules[1]["path"] = "LogitScore"
    (source / "modules.json").write_text(json.dumps(modules))
    plan = jaxconv.convert(source, tmp_path / "output", backend="numpy").plan
    assert "modules.json names LogitScore/config.json, which does not exist" in str(plan.preset_origin)
    assert plan.prompt.known
