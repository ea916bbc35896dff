"""Whether a checkpoint holds the model that its config promises, and where its head is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxconv.checkpoint import Checkpoint, Extent, TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families.family import Family, HeadNames, text_config
from jaxconv.file_errors import reading
from jaxconv.json_files import JsonObject
from jaxconv.storage import read_blocks

# What the name of a tensor without a place tells.
UNEXPECTED = {
    "v_head.": "v_head is the value head of TRL's training: save the model without it, as `model.pretrained_model`.",
    "score.": "score is a classifier's head: this is one already, and the next-token logits of its words are not its score.",
    "lm_head.bias": "lm_head.bias would shift the logits, and this family's lm_head has none.",
}
TOGETHER = "Check that config.json and weights belong together."

QUANTISED = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_scale|weight_scale_2|weight_scale_inv|weight_packed|"
    r"weight_zero_point|absmax|SCB|weight\.(absmax|quant_map|quant_state\..*))"
)
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
LISTED = 5
SAMPLE = 64  # rows that `inspect` compares; two matrices that were trained apart differ in nearly every row
COMPARE_BYTES = 1 << 24


Rows = Literal["all", "sample", "none"]


@dataclass(frozen=True, slots=True)
class LmHead:
    """The tensor whose rows are the vocabulary: shape [vocab_size, hidden_size]."""

    weight: TensorRef
    bias: TensorRef | None
    tied: bool


def check_backbone(checkpoint: Checkpoint, family: Family, config: JsonObject) -> tuple[str, ...]:
    """The names of the tensors that the output copies, in file order, once they are those that the config promises.

    Args:
        checkpoint: The source's tensors under Hugging Face names.
        family: The family, in the spelling of these names.
        config: The config.json.

    Raises:
        SourceError: Tensors are missing, unexpected or of another shape.
        RefusedError: Tensors are quantised.
    """
    _refuse_quantised(checkpoint, family)
    expected, tensors, head = family.parameters(config), checkpoint.tensors, family.head
    allowed = {head.weight, head.bias}

    def has_a_place(name: str) -> bool:
        known = name in expected or name in allowed
        return known or family.passes_through(name) or family.is_left_out(name, config)

    findings = {
        "missing": [
            *(name for name in expected if name not in tensors),
            *(f"{tower}*" for tower in _required_towers(family) if not any(name.startswith(tower) for name in tensors)),
        ],
        "unexpected": [name for name in tensors if not has_a_place(name)],
        "of another shape": [
            f"{name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
            for name, parameter in expected.items()
            if name in tensors and tensors[name].shape != parameter.shape
        ],
    }
    if any(findings.values()):
        raise disagreement(checkpoint, family, config, findings)
    return tuple(name for name in tensors if name in expected or family.passes_through(name))


def _required_towers(family: Family) -> tuple[str, ...]:
    """What every checkpoint of a composite has beside its language model: without it servers would make pictures up."""
    return () if family.composite is None else family.towers


def disagreement(
    checkpoint: Checkpoint, family: Family, config: JsonObject, findings: Mapping[str, Sequence[str]]
) -> SourceError:
    """The error of a config.json and tensors that do not belong together.

    Args:
        checkpoint: The tensors.
        family: The family.
        config: The config.json.
        findings: What is wrong ("missing", "unexpected") and the tensors, of which the first are named.
    """
    listed = "; ".join(f"{len(names)} {word} ({_some(names)})" for word, names in findings.items() if names)
    known = {meaning for name in findings.get("unexpected", ()) for word, meaning in UNEXPECTED.items() if word in name}
    return SourceError(
        f"{checkpoint.path}: config.json ({family.model_type}) and the tensors disagree: {listed}. "
        f"{_other_model(checkpoint.tensors, family.head, text_config(config))}{' '.join((*sorted(known), TOGETHER))}"
    )


def _refuse_quantised(checkpoint: Checkpoint, family: Family) -> None:
    quantised = [name for name in checkpoint.tensors if QUANTISED.fullmatch(name)]
    quantised = quantised or [
        f"{name} of {ref.dtype}"
        for name, ref in checkpoint.tensors.items()
        if ref.dtype not in FLOATS and not name.endswith("inv_freq") and not family.holds_integers(name)
    ]
    if quantised:
        raise RefusedError(
            f"{checkpoint.path} is quantised: {_some(quantised)}; config.json has no quantization_config that says "
            f"how, without which no reader loads it. Get the config.json of the quantised checkpoint, or plain weights in "
            f"{', '.join(sorted(FLOATS))}."
        )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''}"


def _other_model(tensors: Mapping[str, TensorRef], head: HeadNames, config: JsonObject) -> str:
    """What the tensors say about layers and hidden size, where config.json says otherwise; else nothing."""
    layer = re.compile(r"(?:[a-z_]+\.)*(?:layers|h|blocks)\.(\d{1,6})\.")
    layers = {int(match[1]) for name in tensors if (match := layer.match(name))}
    differences = []
    if layers and max(layers) + 1 != config.get("num_hidden_layers"):
        differences.append(
            f"num_hidden_layers is {config.get('num_hidden_layers')}, the tensors have {max(layers) + 1} layers"
        )
    embedding = tensors.get(head.embedding)
    for axis, key in enumerate(("vocab_size", "hidden_size")):
        if embedding is not None and len(embedding.shape) == 2 and embedding.shape[axis] != config.get(key):
            differences.append(f"{key} is {config.get(key)}, the embedding has {embedding.shape[axis]}")
    return f"In config.json {'; '.join(differences)}. " if differences else ""


def find_lm_head(checkpoint: Checkpoint, family: Family, config: JsonObject, *, compare: Rows = "all") -> LmHead:
    """The matrix whose rows score tokens: the head, or the embedding when the two are tied and there is no head.

    Args:
        checkpoint: The source's tensors under Hugging Face names.
        family: The family, in the spelling of these names.
        config: The config.json.
        compare: Which rows are read and compared where the config ties the two and the checkpoint stores both.

    Raises:
        SourceError: The head is missing or of another shape.
        RefusedError: The config ties head and embedding, and the file holds two that differ.
    """
    tied, flag = tie_word_embeddings(family, config)
    tensors, names = checkpoint.tensors, family.head
    embedding, head = tensors.get(names.embedding), tensors.get(names.weight)
    if embedding is None:
        raise SourceError(f"{checkpoint.path} has no {names.embedding}. Check that config.json and weights belong together.")
    if head is None and not tied:
        raise SourceError(
            f"{checkpoint.path} has no {names.weight}, and tie_word_embeddings in config.json is {flag} (untied). Set "
            '"tie_word_embeddings": true in config.json if the embedding is the head, else get the whole checkpoint.'
        )
    if head is not None and head.shape != embedding.shape:
        raise SourceError(f"{names.weight} is {list(head.shape)}; expected {list(embedding.shape)}, as {names.embedding}.")
    if tied and head is not None and not _equal(head, embedding, compare):
        raise RefusedError(
            f"{names.weight} and {names.embedding} differ, but tie_word_embeddings in config.json is {flag} (tied): loaders "
            f'would disagree. Set "tie_word_embeddings": false in config.json to score with {names.weight}, or remove that '
            "tensor."
        )
    weight = head if head is not None else embedding
    return LmHead(weight, _bias(checkpoint, family, weight.shape[0]), tied)


def tie_word_embeddings(family: Family, config: JsonObject) -> tuple[bool, str]:
    """Whether the head is the embedding, and what the config says of it, for messages.

    Args:
        family: The family, which knows what an absent key means.
        config: The config.json.

    Raises:
        SourceError: The key is neither true nor false.
        RefusedError: The config and its text_config disagree.
    """
    key = "tie_word_embeddings"
    flags = [part[key] for part in (config, text_config(config)) if part.get(key) is not None]
    for flag in flags:
        if not isinstance(flag, bool):
            raise SourceError(f"config.json has {flag!r} as {key}; expected true or false.")
    if family.composite is not None and family.composite.tied_at_top:
        if config.get(key) is None and flags and flags[0] is not family.head.tied:
            raise RefusedError(
                f"config.json has {key} {str(flags[0]).lower()} in text_config and none at the top, where "
                f"{family.architecture} takes an absent one for {str(family.head.tied).lower()}. Set it at the top."
            )
        flags = flags[:1]
    elif family.composite is not None:
        flags = [True] if True in flags else flags[:1]
    if len(set(flags)) > 1:
        raise RefusedError(f"config.json has {key} {flags[0]} at the top and {flags[1]} in text_config. Make them equal.")
    return (flags[0], str(flags[0]).lower()) if flags else (family.head.tied, "absent")


def _bias(checkpoint: Checkpoint, family: Family, vocab_size: int) -> TensorRef | None:
    name = family.head.bias
    if name is None:
        return None
    bias = checkpoint.tensors.get(name)
    if bias is None or bias.shape != (vocab_size,):
        shape = "missing" if bias is None else list(bias.shape)
        raise SourceError(
            f"{checkpoint.path}: {name} of {family.architecture} is {shape}; expected [{vocab_size}]. "
            "Check that config.json and weights belong together."
        )
    return bias


def _equal(x: TensorRef, y: TensorRef, compare: Rows) -> bool:
    """Whether two matrices of one shape hold the same bytes, or the same values in two dtypes; a few megabytes at a time."""
    if compare == "none":
        return True
    if compare == "sample":
        sampled = sorted({number * (x.shape[0] - 1) // (SAMPLE - 1) for number in range(SAMPLE)})
        return bool((x.read_rows(sampled).astype("float64") == y.read_rows(sampled).astype("float64")).all())
    if x.dtype != y.dtype:
        return _equal_values(x, y)
    if x.extent is not None and y.extent is not None:
        return all(one == other for one, other in zip(_blocks(x.extent), _blocks(y.extent), strict=True))
    step = max(1, COMPARE_BYTES * x.shape[0] // max(1, x.nbytes))
    for start in range(0, x.shape[0], step):
        rows = range(start, min(start + step, x.shape[0]))
        if x.read_rows(rows).tobytes() != y.read_rows(rows).tobytes():
            return False
    return True


def _blocks(extent: Extent) -> Iterator[bytes]:
    with reading(extent.path):
        yield from read_blocks(extent.path, extent.offset, extent.length, COMPARE_BYTES)


def _equal_values(x: TensorRef, y: TensorRef) -> bool:
    step = max(1, COMPARE_BYTES * x.shape[0] // max(1, x.nbytes))
    for start in range(0, x.shape[0], step):
        rows = range(start, min(start + step, x.shape[0]))
        if not (x.read_rows(rows).astype("float64") == y.read_rows(rows).astype("float64")).all():
            return False
    return True
