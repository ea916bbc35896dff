"""The tokenizer's files, byte for byte, and a pad token for a tokenizer that has none."""

from __future__ import annotations

from jaxconv.json_files import JsonDict, dump_json, parse_json
from jaxconv.plan import Plan
from jaxconv.text.tokenizer_settings import SETTINGS


def tokenizer_files(plan: Plan) -> dict[str, bytes]:
    """The files of `plan` that are copied; `tokenizer_config.json` gains a `pad_token` if the tokenizer has none.

    Returns:
        Path in the output -> content.
    """
    files = dict(plan.assets)
    if plan.pad_token is not None and plan.pad_token.added:
        raw = files.get(SETTINGS)
        settings: JsonDict = {} if raw is None else parse_json(raw, SETTINGS, "Download it again.")
        files[SETTINGS] = dump_json({**settings, "pad_token": plan.pad_token.text})
    return files
