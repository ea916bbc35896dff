"""The prompt that an output must have: where its templates and their origin disagree, `verify` says so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import jaxconv


@pytest.mark.parametrize("kind", ["template", "preset", "plain"])
def test_templates_that_were_spoiled_alike_are_found(kind: str, qwen3: Path, tmp_path: Path) -> None:
    """Both stored templates say the same wrong thing, so servers agree; the record and its origin do not."""
    options: dict[str, Any] = {"classifier_from_tokens": ["no", "yes"]}
    if kind == "template":
        (tmp_path / "prompt.jinja").write_text("Query: {{ query }}\nDocument: {{ document }}\n")
        options["template"] = tmp_path / "prompt.jinja"
    if kind == "preset":
        options = {"preset": "qwen3-reranker", "classifier_from_tokens": ["no", "yes"]}
    output = tmp_path / "out"
    jaxconv.convert(qwen3, output, backend="numpy", **options)
    assert jaxconv.verify(qwen3, output, structure_only=True).passed
    record = json.loads((output / "jaxconv.json").read_text())
    for name in ("score_template.jinja", "additional_chat_templates/jaxconv_score.jinja"):
        path = output / name
        path.write_text("Attention! " + path.read_text())
        record["prompt"]["sha256"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    findings = jaxconv.verify(qwen3, output, structure_only=True).findings
    assert sum("is not the file that the conversion wrote" in finding for finding in findings) == 2, findings
    assert any("gives another prompt than" in finding for finding in findings)
    (output / "jaxconv.json").write_text(json.dumps(record))
    (finding,) = jaxconv.verify(qwen3, output, structure_only=True).findings
    assert "gives another prompt than" in finding and "Attention!" in finding
