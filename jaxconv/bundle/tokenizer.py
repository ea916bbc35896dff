"""The tokenizer's files, byte for byte, and a pad token for a tokenizer that has none."""

from __future__ import annotations

from jaxconv.json_files import JsonDict, dump_json, parse_json
from jaxconv.plan import Plan

SETTINGS = "tokenizer_config.json"


def tokenizer_files(plan: Plan) -> dict[str, bytes]:
    """The tokenizer's files as a plan has them; `tokenizer_config.json` gains a `pad_token` if the tokenizer has none."""
    files = dict(plan.assets)
    if plan.pad_token is not None and plan.pad_token.added:
        raw = files.get(SETTINGS)
        settings: JsonDict = {} if raw is None else parse_json(raw, SETTINGS, "Download it again.")
        files[SETTINGS] = dump_json({**settings, "pad_token": plan.pad_token.text})
    return files


def default_chat_template(plan: Plan) -> str | None:
    """The chat template that only tokenizer_config.json of a plan's source holds.

    transformers ignores it once there is a named template in a file.
    """
    raw = plan.assets.get(SETTINGS)
    if raw is None or "chat_template.jinja" in plan.assets:
        return None
    template = parse_json(raw, SETTINGS, "Download it again.").get("chat_template")
    return template if isinstance(template, str) else None
