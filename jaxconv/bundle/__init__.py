"""Stage 6: everything of the output that is not weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxconv.bundle.card import card
from jaxconv.bundle.config import output_config
from jaxconv.bundle.provenance import FILE
from jaxconv.bundle.sentence_transformers import write_sentence_transformers
from jaxconv.bundle.tokenizer import PadToken, copy_tokenizer
from jaxconv.plan import Plan

TEMPLATE = "score_template.jinja"


def write_bundle(plan: Plan, folder: Path, record: dict[str, Any], pad: PadToken | None) -> None:
    """Writes tokenizer, template, card, provenance and, last, the config that makes a checkpoint of it."""
    copy_tokenizer(plan.source.assets, folder, pad)
    (folder / TEMPLATE).write_text(plan.prompt.template, encoding="utf-8")
    write_sentence_transformers(plan, folder)
    (folder / "README.md").write_text(card(plan), encoding="utf-8")
    _write_json(folder / FILE, record)
    _write_json(folder / "config.json", output_config(plan, pad.id if pad else None))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
