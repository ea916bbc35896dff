"""The prompt of a source that sentence-transformers saved with a LogitScore: the chat template that CrossEncoder renders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxconv.errors import RefusedError, UsageError
from jaxconv.json_files import JsonObject, read_json, read_optional_object
from jaxconv.sources import Source
from jaxconv.text.chat_templates import DEFAULT, chat_templates
from jaxconv.text.prompt import Prompt, user_prompt

# Settings of `processing_kwargs["chat_template"]` that no template reads.
NOT_VARIABLES = (
    "chat_template",
    "restore_suffix",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "tokenize",
    "tools",
)
STRUCTURED = """\
{%- set ns = namespace(messages=[]) %}
{%- for message in messages %}
{%- set part = {"type": "text", "text": message["content"]} %}
{%- set ns.messages = ns.messages + [{"role": message["role"], "content": [part]}] %}
{%- endfor %}
{%- set messages = ns.messages %}
"""

# What stands for `part` of models that read pictures, whose contents may be lists of parts already.
ONE_PART = "[part]"
PARTS = '([part] if message["content"] is string else message["content"])'


def logit_score(source: Source) -> JsonObject | None:
    """The entry of a LogitScore in modules.json of a source; None without one."""
    modules = read_json(source.assets / "modules.json")
    entries = (entry for entry in (modules if isinstance(modules, list) else []) if isinstance(entry, dict))
    return next((entry for entry in entries if str(entry.get("type")).endswith(".LogitScore")), None)


def recorded_prompt(
    source: Source, files: Mapping[str, bytes], special_tokens: Mapping[str, str], *, parts: bool = False
) -> tuple[Prompt | None, str | None]:
    """The prompt that sentence-transformers renders for a source, and what there is to say about it.

    sentence-transformers renders with settings of its own (`processing_kwargs`, a default prompt as a system message, message
    parts); they are written into the template, so that vLLM, which has none of them, renders the same.

    Args:
        source: The source.
        files: Its files beside the weights, by their path from its directory.
        special_tokens: The special tokens by name that a template may read.
        parts: Whether contents may be lists of parts, as they are of models that read pictures.

    Returns:
        The prompt, or None without a record; a sentence where a template was left aside.

    Raises:
        SourceError: A file of the record is damaged.
    """
    if logit_score(source) is None:
        return None, None
    transformer = read_optional_object(source.assets / "sentence_bert_config.json") or {}
    modalities = transformer.get("modality_config")
    if isinstance(modalities, dict) and "message" not in modalities:
        return None, None  # it joins the texts without a template
    settings = _object(_object(transformer, "processing_kwargs"), "chat_template")
    templates = chat_templates(files)
    name = settings.get("chat_template")
    text = templates.get(DEFAULT if name is None else str(name))
    if text is None or (name is not None and set(templates) == {DEFAULT}):
        return None, None
    structured = _object(_object(transformer, "modality_config"), "message").get("format") == "structured"
    wrapped = STRUCTURED.replace(ONE_PART, PARTS) if parts else STRUCTURED
    lines = _settings(settings) + _system_message(source) + (wrapped if structured else "")
    origin = f"the source's chat template {name or DEFAULT!r}"
    try:
        return replace(user_prompt(lines + text, special_tokens, origin), origin="source"), None
    except (RefusedError, UsageError) as error:
        return None, f"the chat template of the source was left aside: {error}"


def _settings(settings: JsonObject) -> str:
    """Jinja that sets what sentence-transformers hands to the template."""
    variables = {key: value for key, value in settings.items() if key not in NOT_VARIABLES and key.isidentifier()}
    return "".join(f"{{%- set {key} = {_literal(value)} %}}\n" for key, value in variables.items())


def _system_message(source: Source) -> str:
    """Jinja that puts the default prompt of sentence-transformers in front, if there is one."""
    settings = read_optional_object(source.assets / "config_sentence_transformers.json") or {}
    prompt = _object(settings, "prompts").get(str(settings.get("default_prompt_name")))
    if not isinstance(prompt, str) or not prompt:
        return ""
    return f'{{%- set messages = [{{"role": "system", "content": {_literal(prompt)}}}] + messages %}}\n'


def _literal(value: Any) -> str:
    """A JSON value as Jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _object(document: JsonObject, key: str) -> JsonObject:
    value = document.get(key)
    return value if isinstance(value, dict) else {}
