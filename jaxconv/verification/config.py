"""config.json of the output against the source's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jaxconv.checkpoint import NUMPY_NAMES
from jaxconv.json_files import JsonObject
from jaxconv.model import Model
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output
from jaxconv.verification.quantisation import check_descriptions, expected_config

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
ABSENT = object()


def check_config(model: Model, output: Output, expected: Expected) -> Iterator[str]:
    """What is wrong with config.json, and with descriptions of tensors that readers take together with it, a sentence each.

    Args:
        model: The source, with its config and family.
        output: The output whose config.json is checked.
        expected: What the output must be.
    """
    config, source = output.config, model.config if model.packed is None else expected_config(model.config)
    yield from _check_dropped(config, expected)
    if config.get("architectures") != list(model.family.architectures):
        yield f"config.json has architectures {config.get('architectures')}; expected {list(model.family.architectures)}."
    yield from _check_labels(config, expected)
    score = model.family.head.score
    dtype = NUMPY_NAMES[_main_dtype(output, score)] if model.packed is None else _stated_dtype(source, output)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) != dtype:
            kept = "the backbone is" if model.packed is None else "the source's activations are"
            yield f"config.json has {key} {config.get(key)!r}; {kept} {dtype}."
    flags = config.get("use_sep_token"), config.get("use_pad_token")
    if flags[0] is not flags[1] or not isinstance(flags[0], bool):
        yield "config.json has no use_sep_token and use_pad_token that are both true or both false."
    yield from _check_activation(config, expected)
    yield from _check_language_model(config)
    source = _expected_language_model(source, config, inner=score != "score")
    for key in sorted((source.keys() | config.keys()) - set(CHECKED_APART) - set(DROPPED)):
        origin = "the source has" if model.packed is None or key != "quantization_config" else "expected"
        for name, before, after in _differences(key, source.get(key, ABSENT), config.get(key, ABSENT)):
            yield f"config.json has {_shown(name, after)}; {origin} {_shown(name, before)}."
    yield from check_descriptions(model, output)


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


def _check_language_model(config: JsonObject) -> Iterator[str]:
    """Whether keys of on-line conversion are left in `text_config`, where vLLM looks for them too."""
    nested = config.get("text_config")
    for key in ON_THE_FLY:
        if isinstance(nested, dict) and key in nested:
            yield f"config.json has text_config.{key} {nested[key]!r} and vLLM would convert on the fly once more."


def _expected_language_model(source: JsonObject, config: JsonObject, *, inner: bool) -> JsonObject:
    """A source's config with the `text_config` that the output must have.

    Args:
        source: The source's config.
        config: The output's.
        inner: Whether the row is the language model's, so that vLLM counts the labels there.
    """
    nested = source.get("text_config")
    if not isinstance(nested, dict):
        return source
    kept = {key: value for key, value in nested.items() if key not in ON_THE_FLY}
    labels = {key: config[key] for key in ("id2label", "label2id") if inner and key in config}
    return {**source, "text_config": kept | labels}


def _check_labels(config: JsonObject, expected: Expected) -> Iterator[str]:
    labels = config.get("id2label")
    if not isinstance(labels, dict) or sorted(labels) != sorted(str(i) for i in range(expected.num_labels)):
        yield f"config.json has id2label {labels}; expected {expected.num_labels} labels (num_labels)."
    elif config.get("label2id") != {label: int(number) for number, label in labels.items()}:
        yield f"config.json has label2id {config.get('label2id')}, which is not the reverse of id2label."


def _differences(key: str, before: object, after: object) -> Iterator[tuple[str, object, object]]:
    """The innermost keys whose values differ, by their path, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for inner in sorted(before.keys() | after.keys()):
            yield from _differences(f"{key}.{inner}", before.get(inner, ABSENT), after.get(inner, ABSENT))
    elif before != after or type(before) is not type(after):
        yield key, before, after


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


def _stated_dtype(source: JsonObject, output: Output) -> str:
    """The dtype of a quantised source's activations: what its config says, else that of its embedding."""
    nested = source.get("text_config")
    for part in (source, nested if isinstance(nested, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            name = str(part.get(key)).rpartition(".")[2]
            if name in ("float32", "float16", "bfloat16"):
                return name
    embeddings = [stored.dtype for name, stored in output.tensors.items() if name.endswith("embed_tokens.weight")]
    return NUMPY_NAMES[embeddings[0]] if embeddings else ""


def _main_dtype(output: Output, score: str) -> str:
    """The dtype of most bytes of the backbone."""
    sizes: dict[str, int] = {"F32": 0}
    for name, stored in output.tensors.items():
        if not name.startswith(f"{score}."):
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])
