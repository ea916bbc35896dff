"""config.json, the tokenizer's files and the template of the output against the source's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from jaxconv.checkpoint import NUMPY_NAMES
from jaxconv.errors import UsageError
from jaxconv.json_files import JsonObject
from jaxconv.model import Model
from jaxconv.prompt import render
from jaxconv.tokenizer import Vocabulary
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output, read_object

# What makes vLLM convert a checkpoint while it loads it; a converted one would be converted twice.
ON_THE_FLY = ("classifier_from_token", "method", "is_original_qwen3_reranker")
# Keys of a source that would change scores, labels or code of the output.
DROPPED = (*ON_THE_FLY, "auto_map", "problem_type", "head_dtype", "sbert_ce_default_activation_function", "num_labels")
# Keys of the output that are checked on their own.
CHECKED_APART = (
    "architectures", "id2label", "label2id", "use_sep_token", "use_pad_token", "dtype", "torch_dtype", "pad_token_id",
    "sentence_transformers",
)  # fmt: skip
# Activation -> what vLLM and sentence-transformers read in `sentence_transformers`; of several labels softmax needs nothing.
SECTIONS: Mapping[str, JsonObject | None] = {
    "sigmoid": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    "identity": {"activation_fn": "torch.nn.modules.linear.Identity"},
    "softmax": None,
}
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "spiece.model",
    "chat_template*",
)  # fmt: skip
SETTINGS = "tokenizer_config.json"
ABSENT = object()


def check_config(model: Model, output: Output, expected: Expected) -> Iterator[str]:
    """What is wrong with config.json, a sentence each."""
    config, source = output.config, model.config
    yield from _check_dropped(config, expected)
    if config.get("architectures") != [model.family.target_architecture]:
        yield f"config.json has architectures {config.get('architectures')}; expected ['{model.family.target_architecture}']."
    yield from _check_labels(config, expected)
    dtype = NUMPY_NAMES[_main_dtype(output)]
    for key in ("dtype", "torch_dtype"):
        if config.get(key) != dtype:
            yield f"config.json has {key} {config.get(key)!r}; the backbone is {dtype}."
    flags = config.get("use_sep_token"), config.get("use_pad_token")
    if flags[0] is not flags[1] or not isinstance(flags[0], bool):
        yield "config.json has no use_sep_token and use_pad_token that are both true or both false."
    yield from _check_activation(config, expected)
    for key in sorted((source.keys() | config.keys()) - set(CHECKED_APART) - set(DROPPED)):
        before, after = source.get(key, ABSENT), config.get(key, ABSENT)
        if before != after or type(before) is not type(after):
            yield f"config.json has {_shown(key, after)}; the source has {_shown(key, before)}."


def _check_dropped(config: JsonObject, expected: Expected) -> Iterator[str]:
    allowed: dict[str, object] = {"num_labels": expected.num_labels}
    if expected.num_labels > 1 and expected.activation == "sigmoid":
        allowed["problem_type"] = "multi_label_classification"  # the only way to a sigmoid per label in vLLM
        if "problem_type" not in config:
            yield "config.json has no problem_type; expected 'multi_label_classification', for a sigmoid per label."
    for key in (key for key in DROPPED if key in config):
        if key in allowed and config[key] == allowed[key]:
            continue
        reason = f"; expected {allowed[key]!r}" if key in allowed else ", which must not be there"
        reason = " and vLLM would convert on the fly once more" if key in ON_THE_FLY else reason
        yield f"config.json has {key} {config[key]!r}{reason}."


def _check_labels(config: JsonObject, expected: Expected) -> Iterator[str]:
    labels = config.get("id2label")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(expected.num_labels)):
        yield f"config.json has id2label {labels}; expected {expected.num_labels} labels (num_labels)."
    elif config.get("label2id") != {label: int(number) for number, label in labels.items()}:
        yield f"config.json has label2id {config.get('label2id')}, which is not the reverse of id2label."


def _shown(key: str, value: object) -> str:
    return f"no {key}" if value is ABSENT else f"{key} {value!r:.200}"


def _check_activation(config: JsonObject, expected: Expected) -> Iterator[str]:
    """Whether consumers will apply the recorded activation; an output without a record is held against nothing."""
    if expected.activation is None:
        return
    if expected.activation == "softmax" and expected.num_labels == 1:
        yield "jaxconv.json records the activation softmax for one label, which would make every score 1."
        return
    section = config.get("sentence_transformers")
    if section != SECTIONS[expected.activation]:
        name = section.get("activation_fn") if isinstance(section, dict) else None
        shown = None if name is None else str(name).rsplit(".", 1)[-1]
        yield f"config.json has the activation {shown}; jaxconv.json records {expected.activation}."


def _main_dtype(output: Output) -> str:
    """The dtype of most bytes of the backbone."""
    sizes: dict[str, int] = {"F32": 0}
    for name, stored in output.tensors.items():
        if not name.startswith("score."):
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def check_tokenizer(model: Model, output: Output) -> Iterator[str]:
    """What is wrong with the tokenizer's files; a pad token is the one thing that may be added."""
    assets, directory = model.source.assets, output.folder
    source, copied = _names(assets), _names(directory)
    for name in sorted(source - copied):
        yield f"{name} of the source is missing from the output."
    for name in sorted(source & copied - {SETTINGS}):
        if (assets / name).read_bytes() != (directory / name).read_bytes():
            yield f"{name} differs from the source's."
    settings = read_object(assets / SETTINGS) or {}
    for name in sorted(copied - source - {SETTINGS}):
        # transformers forgets the template in tokenizer_config.json once there is a named one in a file.
        if name != "chat_template.jinja" or (directory / name).read_text("utf-8") != settings.get("chat_template"):
            yield f"{name} is in the output and not in the source."
    yield from _check_settings(assets / SETTINGS, directory / SETTINGS)
    yield from _check_pad_token(model, output)


def _names(directory: Path) -> set[str]:
    files = (entry.name for entry in directory.iterdir() if entry.is_file())
    return {name for name in files if any(fnmatch(name, pattern) for pattern in TOKENIZER)}


def _check_settings(source: Path, output: Path) -> Iterator[str]:
    """tokenizer_config.json: the same bytes, or the same keys and a pad token where the source has none."""
    if not output.is_file() or (source.is_file() and source.read_bytes() == output.read_bytes()):
        return
    before, after = read_object(source) or {}, read_object(output) or {}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key, ABSENT) == after.get(key, ABSENT):
            continue
        if key == "pad_token" and _id_of(before.get(key), source.parent) is None:
            continue
        yield f"{SETTINGS} has {_shown(key, after.get(key, ABSENT))}; the source has {_shown(key, before.get(key, ABSENT))}."


def _id_of(token: object, assets: Path) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return Vocabulary(assets).id(text) if isinstance(text, str) else None


def _check_pad_token(model: Model, output: Output) -> Iterator[str]:
    settings = read_object(output.folder / SETTINGS) or {}
    pad = _id_of(settings.get("pad_token"), model.source.assets)
    pad = model.config.get("pad_token_id") if pad is None else pad
    actual = output.config.get("pad_token_id")
    if actual != pad:
        yield f"config.json has pad_token_id {actual}; the tokenizer's pad token has the id {pad}."


def check_template(output: Output) -> Iterator[str]:
    """Whether there is a template that renders, with the query and the document."""
    path = output.folder / "score_template.jinja"
    if not path.is_file():
        yield "there is no score_template.jinja, which vllm serve takes as --chat-template."
        return
    query, document = "jaxconv-query", "jaxconv-document"
    try:
        prompt = render(path.read_text("utf-8"), query, document)
    except UsageError as error:
        yield f"score_template.jinja: {error}"
        return
    except UnicodeDecodeError as error:
        yield f"score_template.jinja cannot be rendered: it is not UTF-8 ({error})."
        return
    missing = [word for word, text in (("query", query), ("document", document)) if text not in prompt]
    if missing:
        yield f"score_template.jinja renders without the {' and the '.join(missing)}."
