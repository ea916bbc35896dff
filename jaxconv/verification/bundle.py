"""Config, tokenizer and template of the output against the source's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import NUMPY_NAMES
from jaxconv.model import Model
from jaxconv.tokenizer import Vocabulary
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output, read_object

# What makes vLLM convert a checkpoint while it loads it; a converted one would be converted twice.
ON_THE_FLY = ("classifier_from_token", "method", "is_original_qwen3_reranker")
# Keys of a source that would change scores, labels or code of the output.
DROPPED = (*ON_THE_FLY, "auto_map", "problem_type", "head_dtype", "sbert_ce_default_activation_function", "num_labels")
# Keys of the output that are checked on their own.
OWN = (
    "architectures", "id2label", "label2id", "use_sep_token", "use_pad_token", "dtype", "torch_dtype", "pad_token_id",
    "sentence_transformers",
)  # fmt: skip
ACTIVATIONS = {"sigmoid": "Sigmoid", "identity": "Identity"}
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "spiece.model",
    "chat_template*",
)  # fmt: skip
SETTINGS = "tokenizer_config.json"
ABSENT = object()


def check_config(model: Model, output: Output, expected: Expected) -> Iterator[str]:
    """What is wrong with config.json, a sentence each."""
    made, source = output.config, model.config
    for key in (key for key in DROPPED if key in made):
        if key == "num_labels" and made[key] == expected.num_labels:
            continue
        reason = {"num_labels": f"; expected {expected.num_labels}"}.get(key, ", which must not be there")
        reason = " and vLLM would convert on the fly once more" if key in ON_THE_FLY else reason
        yield f"config.json has {key} {made[key]!r}{reason}."
    if made.get("architectures") != [model.family.target_architecture]:
        yield f"config.json has architectures {made.get('architectures')}; expected ['{model.family.target_architecture}']."
    labels = made.get("id2label")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(expected.num_labels)):
        yield f"config.json has id2label {labels}; expected {expected.num_labels} labels (num_labels)."
    elif made.get("label2id") != {label: int(number) for number, label in labels.items()}:
        yield f"config.json has label2id {made.get('label2id')}, which is not id2label turned round."
    dtype = NUMPY_NAMES[_main_dtype(output)]
    for key in ("dtype", "torch_dtype"):
        if made.get(key) != dtype:
            yield f"config.json has {key} {made.get(key)!r}; the backbone is {dtype}."
    if made.get("use_sep_token") is not made.get("use_pad_token") or not isinstance(made.get("use_sep_token"), bool):
        yield "config.json has no use_sep_token and use_pad_token that are both true or both false."
    yield from _check_activation(made, expected)
    for key in sorted((source.keys() | made.keys()) - set(OWN) - set(DROPPED)):
        wanted, found = source.get(key, ABSENT), made.get(key, ABSENT)
        if wanted != found or type(wanted) is not type(found):
            yield f"config.json has {_shown(key, found)}; the source has {_shown(key, wanted)}."


def _shown(key: str, value: object) -> str:
    return f"no {key}" if value is ABSENT else f"{key} {value!r:.200}"


def _check_activation(made: Mapping[str, Any], expected: Expected) -> Iterator[str]:
    recorded = made.get("sentence_transformers") or {}
    found = str(recorded.get("activation_fn")).rsplit(".", 1)[-1] if isinstance(recorded, dict) else None
    wanted = ACTIVATIONS.get(expected.activation or "")
    if expected.num_labels == 1 and wanted is not None and found != wanted:
        yield f"config.json has the activation {found}; jaxconv.json records {expected.activation}."


def _main_dtype(output: Output) -> str:
    """The dtype of most bytes of the backbone."""
    sizes: dict[str, int] = {"F32": 0}
    for name, stored in output.tensors.items():
        if not name.startswith("score."):
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def check_tokenizer(model: Model, output: Output) -> Iterator[str]:
    """What is wrong with the tokenizer's files; a pad token is the one thing that may be added."""
    assets, folder = model.source.assets, output.folder
    source, made = _names(assets), _names(folder)
    for name in sorted(source - made):
        yield f"{name} of the source is missing from the output."
    for name in sorted(source & made - {SETTINGS}):
        if (assets / name).read_bytes() != (folder / name).read_bytes():
            yield f"{name} is not the source's, byte for byte."
    settings = read_object(assets / SETTINGS) or {}
    for name in sorted(made - source - {SETTINGS}):
        # transformers forgets the template in tokenizer_config.json once there is a named one in a file.
        if name != "chat_template.jinja" or (folder / name).read_text("utf-8") != settings.get("chat_template"):
            yield f"{name} is in the output and not in the source."
    yield from _check_settings(assets / SETTINGS, folder / SETTINGS)
    yield from _check_pad_token(model, output)


def _names(folder: Path) -> set[str]:
    files = (entry.name for entry in folder.iterdir() if entry.is_file())
    return {name for name in files if any(fnmatch(name, pattern) for pattern in TOKENIZER)}


def _check_settings(source: Path, made: Path) -> Iterator[str]:
    """tokenizer_config.json: the same bytes, or the same keys and a pad token where the source has none."""
    if not made.is_file() or (source.is_file() and source.read_bytes() == made.read_bytes()):
        return
    before, after = read_object(source) or {}, read_object(made) or {}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key, ABSENT) == after.get(key, ABSENT):
            continue
        if key == "pad_token" and _resolves(before.get(key), source.parent) is None:
            continue
        yield f"{SETTINGS} has {_shown(key, after.get(key, ABSENT))}; the source has {_shown(key, before.get(key, ABSENT))}."


def _resolves(token: Any, assets: Path) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return Vocabulary(assets).id(text) if isinstance(text, str) else None


def _check_pad_token(model: Model, output: Output) -> Iterator[str]:
    settings = read_object(output.folder / SETTINGS) or {}
    wanted = _resolves(settings.get("pad_token"), model.source.assets)
    wanted = model.config.get("pad_token_id") if wanted is None else wanted
    found = output.config.get("pad_token_id")
    if found != wanted:
        yield f"config.json has pad_token_id {found}; the tokenizer's pad token has the id {wanted}."


def check_template(output: Output) -> Iterator[str]:
    """Whether there is a template that puts the query before the suffix and the document in."""
    path = output.folder / "score_template.jinja"
    if not path.is_file():
        yield "there is no score_template.jinja, which vllm serve takes as --chat-template."
        return
    from jinja2 import TemplateError

    query, document = "jaxconv-query", "jaxconv-document"
    try:
        prompt = render(path.read_text("utf-8"), query, document)
    except (TemplateError, UnicodeDecodeError) as error:
        yield f"score_template.jinja cannot be rendered: {error}."
        return
    missing = [word for word, text in (("query", query), ("document", document)) if text not in prompt]
    if missing:
        yield f"score_template.jinja renders without the {' and the '.join(missing)}."


@lru_cache(8)
def _compiled(template: str) -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    return environment.from_string(template)


def render(template: str, query: str, document: str) -> str:
    """The prompt of one pair, as vLLM renders a chat template with the roles query and document."""
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    return str(_compiled(template).render(messages=messages, add_generation_prompt=False))
