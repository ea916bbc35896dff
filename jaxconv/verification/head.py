"""The score head, computed once more from the source's rows, in float64."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxconv.checkpoint import Array
from jaxconv.model import Model
from jaxconv.verification.claims import Expected
from jaxconv.verification.output import Output, Stored

ULPS = 1  # of a scaled row: the scale is rounded to float32 once, the product once more


@dataclass(frozen=True, slots=True)
class Head:
    """Whether the stored head is the recomputed one, and the largest difference of an element (None without a head)."""

    exact: bool
    max_abs_error: float | None
    findings: tuple[str, ...]


def combine(rows: Array, method: str) -> Array:
    """Rows [k, ...] as the labels' rows: true minus false in float64, or the rows themselves."""
    import numpy as np

    wide = rows.astype(np.float64)
    return wide[1:2] - wide[0:1] if method == "from_2_way_softmax" else wide


def expected_head(model: Model, expected: Expected) -> tuple[Array, Array, str]:
    """Weight [labels, hidden] and bias [labels], float32, and the sha256 of the rows as stored.

    Weight: the float32 rounding of the combined rows, times the scales of logits and calibration in float64.
    """
    import numpy as np

    ids = list(expected.token_ids)
    rows = model.lm_head.weight.read_rows(ids)
    scale = model.transform.scale * expected.calibration.scale
    weight = combine(rows.astype(np.float32), expected.method).astype(np.float32)
    if scale != 1.0:
        weight = (weight.astype(np.float64) * scale).astype(np.float32)
    biases = model.lm_head.bias.read()[ids] if model.lm_head.bias is not None else np.zeros(len(ids))
    bias = (combine(biases, expected.method) * scale + expected.calibration.bias).astype(np.float32)
    return weight, bias, hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()


def check_head(model: Model, output: Output, expected: Expected) -> Head:
    """Compares the stored head: bit for bit, or to the last place where a scale is multiplied in."""
    import numpy as np

    weight, bias, digest = expected_head(model, expected)
    scaled = model.transform.scale * expected.calibration.scale != 1.0
    findings, errors = [], []
    if expected.rows_sha256 not in (None, digest):
        findings.append("jaxconv.json records another sha256 of the head rows than the source's rows have.")
    for name, wanted in (("score.weight", weight), ("score.bias", bias)):
        if name == "score.bias" and name not in output.tensors and not np.any(bias):
            continue
        text, error = _compare(name, wanted, output.tensors, ULPS if scaled else 0)
        errors.append(error)
        if text is not None:
            findings.append(text)
    known = [error for error in errors if error is not None]
    return Head(not findings, max(known) if len(known) == len(errors) else None, tuple(findings))


def _compare(name: str, wanted: Array, tensors: Mapping[str, Stored], ulps: int) -> tuple[str | None, float | None]:
    import ml_dtypes
    import numpy as np

    stored = tensors.get(name)
    if stored is None:
        return f"tensor {name} is missing from the output.", None
    if (stored.dtype, stored.shape) != ("F32", wanted.shape):
        return f"tensor {name} is {stored.dtype} {list(stored.shape)}; expected F32 {list(wanted.shape)}.", None
    found = stored.array(name)
    error = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))
    far = np.abs(_order(found) - _order(wanted)) > ulps
    if not np.any(far):
        return None, error
    reason = ""
    if np.array_equal(found, -wanted) and np.any(wanted):
        reason = " It has the opposite sign: the tokens are swapped (expected false first, true second)."
    elif np.array_equal(found, wanted.astype(ml_dtypes.bfloat16).astype(np.float32)):
        reason = " It was rounded to bfloat16."
    return (
        f"tensor {name} differs from the rows of the source in {int(far.sum())} of {found.size} elements, "
        f"by {error:.3g} at most.{reason}",
        error if math.isfinite(error) else None,
    )


def _order(x: Array) -> Array:
    """float32 as int64 such that neighbours differ by one; both zeros are neighbours."""
    import numpy as np

    bits = np.ascontiguousarray(x).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF) - 1, bits)
