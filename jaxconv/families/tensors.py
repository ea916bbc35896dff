"""Whether a checkpoint holds the model that its config promises, and where its head is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.family import Family, text_config

HEAD, HEAD_BIAS = "lm_head.weight", "lm_head.bias"
EMBEDDING = "model.embed_tokens.weight"
QUANTISED = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_scale|weight_scale_2|weight_scale_inv|weight_packed|"
    r"weight_zero_point|absmax|SCB|weight\.(absmax|quant_map|quant_state\..*))"
)
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
LISTED = 5
COMPARE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class LmHead:
    """The tensor whose rows are the vocabulary: shape [vocab_size, hidden_size]."""

    weight: TensorRef
    bias: TensorRef | None
    tied: bool


def check_backbone(checkpoint: Checkpoint, family: Family, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the backbone tensors, in file order, once they are those that the config promises.

    Raises `SourceError` listing what is missing, unexpected or of another shape; `RefusedError` for quantised ones.
    """
    _refuse_quantised(checkpoint)
    expected, tensors = family.expected(config), checkpoint.tensors
    allowed = {HEAD, *family.optional(config)} | ({HEAD_BIAS} if family.row.head_bias else set())

    def draft(name: str) -> bool:
        return family.row.draft is not None and name.startswith(family.row.draft)

    findings = [
        f"{len(found)} {word} ({', '.join(found[:LISTED])}{', …' if len(found) > LISTED else ''})"
        for word, found in (
            ("missing", [name for name in expected if name not in tensors]),
            ("unexpected", [name for name in tensors if name not in expected and name not in allowed and not draft(name)]),
            ("of another shape", [
                f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
                for name, shape in expected.items()
                if name in tensors and tensors[name].shape != shape
            ]),
        )
        if found
    ]  # fmt: skip
    if findings:
        raise SourceError(
            f"{checkpoint.path}: config.json ({family.model_type}) and the tensors disagree: {'; '.join(findings)}. "
            f"{_other_model(tensors, text_config(config))}Check that config.json and weights belong together."
        )
    return tuple(name for name in tensors if name in expected)


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    found = [name for name in checkpoint.tensors if QUANTISED.fullmatch(name)]
    found = found or [
        f"{name} of {ref.dtype}"
        for name, ref in checkpoint.tensors.items()
        if ref.dtype not in FLOATS and not name.endswith("inv_freq")
    ]
    if found:
        raise RefusedError(
            f"{checkpoint.path} is quantised: {_some(found)}; expected plain weights in "
            f"{', '.join(sorted(FLOATS))}. Convert the original model, then quantise the result without its score layer."
        )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:LISTED])}{f' and {len(names) - LISTED} more' if len(names) > LISTED else ''}"


def _other_model(tensors: Mapping[str, TensorRef], config: Mapping[str, Any]) -> str:
    """What the tensors say of layers and hidden size, where config.json says otherwise; else nothing."""
    layers = {int(match[1]) for name in tensors if (match := re.match(r"model\.layers\.(\d+)\.", name))}
    said = []
    if layers and max(layers) + 1 != config.get("num_hidden_layers"):
        said.append(f"num_hidden_layers is {config.get('num_hidden_layers')}, the tensors have {max(layers) + 1} layers")
    embedding = tensors.get(EMBEDDING)
    for axis, key in enumerate(("vocab_size", "hidden_size")):
        if embedding is not None and len(embedding.shape) == 2 and embedding.shape[axis] != config.get(key):
            said.append(f"{key} is {config.get(key)}, the embedding has {embedding.shape[axis]}")
    return f"In config.json {'; '.join(said)}. " if said else ""


def find_lm_head(checkpoint: Checkpoint, family: Family, config: Mapping[str, Any], *, compare: bool = True) -> LmHead:
    """The matrix whose rows score tokens: `lm_head.weight`, or the embedding when tied and there is no other.

    `compare` reads both where the config ties them and the checkpoint stores both.
    Raises `SourceError` for a head that is not there or of another shape, `RefusedError` when the config
    ties head and embedding and the file holds two that differ.
    """
    tied, flag = tie_word_embeddings(family, config)
    tensors, text = checkpoint.tensors, text_config(config)
    embedding, head = tensors.get(EMBEDDING), tensors.get(HEAD)
    if embedding is None:
        raise SourceError(f"{checkpoint.path} has no {EMBEDDING}. Check that config.json and weights belong together.")
    if head is None and not tied:
        raise SourceError(
            f"{checkpoint.path} has no {HEAD}, and tie_word_embeddings in config.json is {flag} (untied). Set "
            '"tie_word_embeddings": true in config.json if the embedding is the head, else get the whole checkpoint.'
        )
    if head is not None and head.shape != embedding.shape:
        raise SourceError(f"{HEAD} is {list(head.shape)}; expected {list(embedding.shape)}, as {EMBEDDING}.")
    if tied and head is not None and compare and not _equal(head, embedding):
        raise RefusedError(
            f"{HEAD} and {EMBEDDING} differ, but tie_word_embeddings in config.json is {flag} (tied): loaders would "
            f'disagree. Set "tie_word_embeddings": false in config.json to score with {HEAD}, or remove that tensor.'
        )
    return LmHead(head if head is not None else embedding, _bias(checkpoint, family, text), tied)


def tie_word_embeddings(family: Family, config: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the head is the embedding, and what the config says of it, for messages."""
    key = "tie_word_embeddings"
    flags = [part[key] for part in (config, text_config(config)) if part.get(key) is not None]
    for flag in flags:
        if not isinstance(flag, bool):
            raise SourceError(f"config.json has {flag!r} as {key}; expected true or false.")
    if len(set(flags)) > 1:
        raise RefusedError(f"config.json has {key} {flags[0]} at the top and {flags[1]} in text_config. Make them equal.")
    return (flags[0], str(flags[0]).lower()) if flags else (family.tie_default, "absent")


def _bias(checkpoint: Checkpoint, family: Family, config: Mapping[str, Any]) -> TensorRef | None:
    if not family.row.head_bias:
        return None
    bias = checkpoint.tensors.get(HEAD_BIAS)
    if bias is None or bias.shape != (config.get("vocab_size"),):
        found = "nothing" if bias is None else list(bias.shape)
        raise SourceError(
            f"{checkpoint.path}: {HEAD_BIAS} of {family.architecture} is {found}; expected "
            f"[{config.get('vocab_size')}]. Check that config.json and weights belong together."
        )
    return bias


def _equal(x: TensorRef, y: TensorRef) -> bool:
    """Whether two matrices of one shape hold the same bytes, or the same values in two dtypes; a few megabytes at a time."""
    if x.dtype != y.dtype:
        return _equal_values(x, y)
    if x.extent is not None and y.extent is not None:
        with x.extent.path.open("rb") as one, y.extent.path.open("rb") as other:
            one.seek(x.extent.offset)
            other.seek(y.extent.offset)
            for start in range(0, x.nbytes, COMPARE_BYTES):
                size = min(COMPARE_BYTES, x.nbytes - start)
                if one.read(size) != other.read(size):
                    return False
        return True
    step = max(1, COMPARE_BYTES * x.shape[0] // max(1, x.nbytes))
    for start in range(0, x.shape[0], step):
        rows = range(start, min(start + step, x.shape[0]))
        if x.read_rows(rows).tobytes() != y.read_rows(rows).tobytes():
            return False
    return True


def _equal_values(x: TensorRef, y: TensorRef) -> bool:
    step = max(1, COMPARE_BYTES * x.shape[0] // max(1, x.nbytes))
    for start in range(0, x.shape[0], step):
        rows = range(start, min(start + step, x.shape[0]))
        if not (x.read_rows(rows).astype("float64") == y.read_rows(rows).astype("float64")).all():
            return False
    return True
