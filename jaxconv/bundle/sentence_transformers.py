"""The files that make `CrossEncoder(output)` of sentence-transformers 6 use the prompt and the activation.

sentence-transformers renders the pair as messages of the roles "query" and "document" and tokenizes the text
without adding special tokens, vLLM's `--chat-template` adds them. So this template is a named one beside the
tokenizer's chat template and carries what the tokenizer would add; the tokenizer's own files stay as they are.
Keys: sentence_transformers 6.2.0, base/modules/transformer.py and cross_encoder/model.py. The same three files
are what vLLM 0.33 asks for (transformers_utils/config.py). The source's own files are never copied.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from jaxconv.bundle.config import ACTIVATIONS
from jaxconv.bundle.template import render
from jaxconv.errors import RefusedError
from jaxconv.families import text_config
from jaxconv.plan import Plan
from jaxconv.tokens import Vocabulary

NAME = "jaxconv_score"
TEMPLATE = f"additional_chat_templates/{NAME}.jinja"  # where transformers looks for named templates
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
LOGITS = {"method": "forward", "method_output_name": "logits"}
TRANSFORMER: dict[str, Any] = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": LOGITS, "message": {**LOGITS, "format": "flat"}},
    "module_output_name": "scores",
    "processing_kwargs": {"chat_template": {"add_generation_prompt": True, "chat_template": NAME}},
}


PROBES = (("query", "document"), (" query", "\ndocument "), ("", ""))
# vLLM 0.33 renders the named template too, but then adds the special tokens once more. It refuses settings with this key,
# unless it was started with --chat-template, which is right; to sentence-transformers None is the default.
GUARD = {"tools": None}


def sentence_transformers_files(plan: Plan) -> dict[str, Any]:
    """File name to content: JSON documents, and the text of the named template.

    None for a family that transformers has no ForSequenceClassification class of: CrossEncoder could not load it.
    """
    if not plan.family.transformers_seq_cls:
        return {}
    vocabulary = Vocabulary(plan.source.assets)
    settings: dict[str, Any] = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    if plan.num_labels == 1:
        settings["activation_fn"] = ACTIVATIONS[plan.activation]
    transformer = copy.deepcopy(TRANSFORMER)
    if special_tokens(vocabulary) != ("", ""):
        transformer["processing_kwargs"]["chat_template"] |= GUARD
    length = longest_prompt(plan)
    if length is not None:
        transformer["processor_kwargs"] = {"model_max_length": length}
    files: dict[str, Any] = {
        "modules.json": MODULES,
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": settings,
        TEMPLATE: with_special_tokens(plan.prompt.template, vocabulary),
    }
    default = _default_template(plan.source.assets)
    return files if default is None else {**files, "chat_template.jinja": default}


def longest_prompt(plan: Plan) -> int | None:
    """The authors' longest prompt in tokens, never more than the model has positions; None where none is known."""
    positions = text_config(plan.config).get("max_position_embeddings")
    known = [length for length in (plan.prompt.max_length, positions) if isinstance(length, int)]
    return min(known) if plan.prompt.max_length is not None else None


def _default_template(assets: Path) -> str | None:
    """The chat template that stands only in tokenizer_config.json: transformers forgets it once there is a named file."""
    path = assets / "tokenizer_config.json"
    if not path.is_file() or (assets / "chat_template.jinja").is_file():
        return None
    template = json.loads(path.read_bytes()).get("chat_template")
    return template if isinstance(template, str) else None


def special_tokens(vocabulary: Vocabulary) -> tuple[str, str]:
    """What the tokenizer adds before and after a text."""
    added = vocabulary.tokenizer.encode("x", add_special_tokens=True)
    marks = [piece for piece, special in zip(added.tokens, added.special_tokens_mask, strict=True) if special]
    first = added.special_tokens_mask.index(0) if 0 in added.special_tokens_mask else len(marks)
    return "".join(marks[:first]), "".join(marks[first:])


def with_special_tokens(template: str, vocabulary: Vocabulary) -> str:
    """`template` with the special tokens, as text, that the tokenizer adds before and after a prompt.

    A tokenizer that puts a space before the first word (Mistral's) does not do so after a special token: then the
    template does. Raises `RefusedError` when no spelling gives the ids of the prompt with special tokens added.
    """
    before, after = special_tokens(vocabulary)
    plain = (_literal(before) + template if before else template) + _literal(after)
    # The final newline of a template is no content, and ceases to be the final one here.
    captured = '{% set prompt %}{{ "" }}' + template.removesuffix("\n") + '{{ "" }}{% endset %}'
    space = '{{ "" if prompt[:1] == " " else " " }}{{ prompt }}'
    for candidate in (plain, captured + _literal(before) + space + _literal(after)):
        if all(_ids(candidate, *pair, vocabulary, False) == _ids(template, *pair, vocabulary, True) for pair in PROBES):
            return candidate
    raise RefusedError(
        f"{vocabulary.path} adds {before!r} and {after!r} in a way that text in a template cannot repeat; "
        "expected the same token ids. Use a template that starts with a word, or report it."
    )


def _ids(template: str, query: str, document: str, vocabulary: Vocabulary, special: bool) -> list[int]:
    return list(vocabulary.tokenizer.encode(render(template, query, document), add_special_tokens=special).ids)


def _literal(text: str) -> str:
    """Jinja that renders `text` alone, white space around it kept."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def write_sentence_transformers(plan: Plan, folder: Path) -> None:
    """Writes the files of `sentence_transformers_files`."""
    for name, content in sentence_transformers_files(plan).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        path.write_text(text, encoding="utf-8")
