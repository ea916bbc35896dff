"""The score head, computed once more from the source's own arrays, in float64."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxconv.checkpoint import Array
from jaxconv.families import text_config
from jaxconv.json_files import JsonObject
from jaxconv.model import Model
from jaxconv.verification.adapter import AdapterFiles
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output, Stored
from jaxconv.verification.quantisation import scaled_rows
from jaxconv.verification.rounding import float32_order, unit_in_last_place
from jaxconv.verification.source_files import SourceFiles

ULPS = 1  # of a scaled row: the scale is rounded to float32 once, the product once more
# Model type -> (config key that multiplies logits, or divides them, what transformers takes an absent key for).
LOGIT_FACTORS: Mapping[str, tuple[str, int, float]] = {
    "cohere": ("logit_scale", 1, 0.0625),
    "cohere2": ("logit_scale", 1, 0.0625),
    "granite": ("logits_scaling", -1, 1.0),
}


@dataclass(frozen=True, slots=True)
class Head:
    """The score head.

    Attributes:
        exact: Whether the stored head is the recomputed one: bit for bit, or to the last place where a scale is folded in.
        max_abs_error: The largest difference of an element; None without a head to compare.
        findings: What is wrong, a sentence each.
    """

    exact: bool
    max_abs_error: float | None
    findings: tuple[str, ...]


def combine(rows: Array, method: str) -> Array:
    """The rows of the labels, from the rows of the tokens.

    Args:
        rows: Rows of the LM head, or entries of its bias: [tokens, ...], false first.
        method: "from_2_way_softmax" for true minus false; any other keeps the rows.

    Returns:
        float64 [labels, ...].
    """
    import numpy as np

    wide = rows.astype(np.float64)
    return wide[1:2] - wide[0:1] if method == "from_2_way_softmax" else wide


def logit_factor(config: JsonObject) -> float:
    """What the causal LM multiplies `hidden @ head.T` with, read from config.json apart from the families' table."""
    text = text_config(config)
    key, power, default = LOGIT_FACTORS.get(str(text.get("model_type")), ("", 1, 1.0))
    return float(text.get(key, default)) ** power


def check_head(model: Model, source: SourceFiles, adapter: AdapterFiles, output: Output, expected: Expected) -> Head:
    """Compares the stored head with the one computed from the source's rows.

    Args:
        model: The source as the conversion reads it.
        source: The source's own arrays, which the rows are read from a second time.
        adapter: The adapter's files; nothing in them without an adapter.
        output: The output.
        expected: What the output must be.
    """
    import numpy as np

    ids = list(expected.token_ids)
    rows = model.lm_head.weight.read_rows(ids)
    names = model.family.head
    findings = _check_rows(
        rows, names.weight if source.named(names.weight) else names.embedding, source.unrounded(), adapter, ids
    )
    factor = logit_factor(model.config)
    if factor != model.transform.scale:
        findings.append(f"the conversion multiplied logits by {model.transform.scale:g}; config.json asks for {factor:g}.")
    if expected.rows_sha256 not in (None, hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()):
        findings.append("jaxconv.json records another sha256 of the head rows than the source's rows have.")
    weight, bias = _combined(rows, _bias(names.bias, source, ids), factor, expected)
    scaled = factor * expected.scale != 1.0
    errors = []
    for name, array in ((f"{names.score}.weight", weight), (f"{names.score}.bias", bias)):
        if array is bias and name not in output.tensors and not np.any(bias):
            continue
        text, error = _compare(name, array, output.tensors, ULPS if scaled else 0)
        errors.append(error)
        if text is not None:
            findings.append(text)
    known = [error for error in errors if error is not None]
    return Head(not findings, max(known) if len(known) == len(errors) else None, tuple(findings))


def _check_rows(rows: Array, name: str, source: SourceFiles, adapter: AdapterFiles, ids: Sequence[int]) -> list[str]:
    """Whether the rows that the conversion reads are those of the source's own array of the tensor `name`."""
    import numpy as np

    from jaxconv.checkpoint import safetensors_dtype

    scaled = scaled_rows(source, name, ids)
    if scaled is not None:
        if scaled.shape == rows.shape and np.array_equal(scaled, rows):
            return []
        return [f"the conversion read other rows of the tokens {list(ids)} than {name} times its scale gives."]
    hidden = rows.shape[1]
    for ref in source.named(name):
        # [vocabulary, hidden size], which may be transposed and padded where it lies
        vocabulary = ref.shape[0] if len(ref.shape) == 2 and ref.shape[1] == hidden else ref.shape[-1]
        located = source.locate(name, (vocabulary, hidden))
        if located is None:
            continue
        place = located.place
        taken = located.rows(ids).astype(np.float64)
        source_rows = (taken - place.plus) / place.times
        dtype = safetensors_dtype(rows.dtype)
        source_rows, slack = adapter.change(name, source_rows, list(ids), dtype)
        exact = place.exact and name not in (*adapter.factors, *adapter.replaced)
        limit = 0.0 if exact else unit_in_last_place(source_rows, dtype) + slack
        if source_rows.shape == rows.shape and np.all(np.abs(rows.astype(np.float64) - source_rows) <= limit):
            return []
        return [f"the conversion read other rows of the tokens {list(ids)} than {located.ref.name} of the source holds."]
    return [f"the source has no array that can be the head {name}."]


def _bias(name: str | None, source: SourceFiles, ids: Sequence[int]) -> Array | None:
    refs = [] if name is None else source.named(name)
    return refs[0].read()[list(ids)] if refs else None


def _combined(rows: Array, biases: Array | None, factor: float, expected: Expected) -> tuple[Array, Array]:
    """Weight [labels, hidden] and bias [labels], float32: the labels' rows rounded to float32, then scaled in float64."""
    import numpy as np

    scale = factor * expected.scale
    weight = combine(rows.astype(np.float32), expected.method).astype(np.float32)
    if scale != 1.0:
        weight = (weight.astype(np.float64) * scale).astype(np.float32)
    offsets = np.zeros(len(expected.token_ids)) if biases is None else biases
    bias = (combine(offsets, expected.method) * scale + expected.bias).astype(np.float32)
    return weight, bias


def _compare(name: str, expected: Array, tensors: Mapping[str, Stored], ulps: int) -> tuple[str | None, float | None]:
    import ml_dtypes
    import numpy as np

    stored = tensors.get(name)
    if stored is None:
        return f"tensor {name} is missing from the output.", None
    if (stored.dtype, stored.shape) != ("F32", expected.shape):
        return f"tensor {name} is {stored.dtype} {list(stored.shape)}; expected F32 {list(expected.shape)}.", None
    actual = stored.array(name)
    error = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    far = np.abs(float32_order(actual) - float32_order(expected)) > ulps
    if not np.any(far):
        return None, error
    reason = ""
    if np.array_equal(actual, -expected) and np.any(expected):
        reason = " It has the opposite sign: the tokens are swapped (expected false first, true second)."
    elif np.array_equal(actual, expected.astype(ml_dtypes.bfloat16).astype(np.float32)):
        reason = " It was rounded to bfloat16."
    return (
        f"tensor {name} differs from the rows of the source in {int(far.sum())} of {actual.size} elements, "
        f"by {error:.3g} at most.{reason}",
        error if math.isfinite(error) else None,
    )
