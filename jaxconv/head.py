"""Stage 4: the LM-head rows that matter -> score weight and bias, through a backend.

softmax([z_false, z_true])[true] = sigmoid(z_true - z_false) = sigmoid(h . (W_true - W_false)), so the
two-way method needs one row, the difference; `no_post_processing` takes the rows themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxconv.backends import Backend
from jaxconv.checkpoint import Array, TensorRef
from jaxconv.errors import SourceError, UsageError
from jaxconv.families import LmHead, LogitTransform
from jaxconv.text.tokenizer import Token

Method = Literal["from_2_way_softmax", "no_post_processing"]
METHODS: tuple[Method, ...] = ("from_2_way_softmax", "no_post_processing")

# XLA flushes subnormal float32 to zero on some devices. Rows small enough are lifted by this power of two
# first and lowered afterwards: multiplying by it is exact, and 2**-149 becomes a normal number.
LIFT = 24
LIFT_BELOW = 2.0**100
SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # normal numbers of float32


@dataclass(frozen=True, slots=True)
class Affine:
    """score = scale * logit + bias."""

    scale: float = 1.0
    bias: float = 0.0

    def then(self, other: Affine) -> Affine:
        """This map followed by `other`."""
        return Affine(self.scale * other.scale, self.bias * other.scale + other.bias)


@dataclass(frozen=True, slots=True)
class ScoreHead:
    """The score head: `weight` float32 [num_labels, hidden_size], `bias` float32 [num_labels] or None if zero."""

    weight: Array
    bias: Array | None
    rows_sha256: str  # of the source rows as stored, in token order

    def tensors(self, layer: str) -> tuple[TensorRef, ...]:
        """`<layer>.weight` and, unless it is zero, `<layer>.bias`, as the output stores them: F32."""
        bias = () if self.bias is None else (_in_memory(f"{layer}.bias", self.bias),)
        return (_in_memory(f"{layer}.weight", self.weight), *bias)


def _in_memory(name: str, array: Array) -> TensorRef:
    return TensorRef(name, "F32", array.shape, lambda: array, lambda ids, axis: array.take(list(ids), axis))


def affine(scale: float, bias: float) -> Affine:
    """The map of a caller's `scale` and `bias`.

    Raises:
        UsageError: The scale is zero, or float32, in which the head is stored, does not hold one of them.
    """
    for name, value in (("--scale", scale), ("--bias", bias)):
        if not (SMALLEST <= abs(value) <= LARGEST or (value == 0 and name == "--bias")):
            raise UsageError(
                f"{name} {value!r:.40} is not usable; expected a finite float32 number (and not a scale of zero)."
            )
    return Affine(scale, bias)


def read_head_rows(lm_head: LmHead, tokens: Sequence[Token]) -> tuple[Array, Array | None]:
    """The stored rows of the tokens, in their order.

    Args:
        lm_head: The head of the causal LM.
        tokens: The tokens.

    Returns:
        Rows [len(tokens), hidden_size] in the stored dtype, and biases [len(tokens)] or None.

    Raises:
        SourceError: A row holds NaN or infinity.
    """
    import numpy as np

    ids = [token.id for token in tokens]
    rows = lm_head.weight.read_rows(ids)
    bias = lm_head.bias.read()[ids] if lm_head.bias is not None else None
    for token, row in zip(tokens, rows, strict=True):
        bad = int(np.count_nonzero(~np.isfinite(row.astype(np.float32))))
        if bad:
            raise SourceError(
                f"row {token.id} ({token.text!r}) of {lm_head.weight.name} holds {bad} NaN or infinite values; "
                "expected finite weights. The checkpoint is damaged or diverged in training."
            )
    return rows, bias


def compute_head(
    rows: Array, bias: Array | None, method: Method, transform: LogitTransform, calibration: Affine, backend: Backend
) -> ScoreHead:
    """The score head of the stored rows.

    Rows are upcast to float32 and combined in float32 on the backend's device; the scales of the model's logits and of
    the calibration are multiplied in once. The bias is rounded once from float64.

    Args:
        rows: Rows [k, hidden_size] in the stored dtype; false first for from_2_way_softmax.
        bias: Their biases [k], or None.
        method: How the rows become the labels' rows.
        transform: What follows the product in the causal LM.
        calibration: The affine map of the score.
        backend: What does the arithmetic.

    Raises:
        UsageError: The scaled rows or biases are too large for float32.
    """
    import numpy as np

    digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
    rows_f32 = rows.astype(np.float32)
    lift = LIFT if float(np.abs(rows_f32).max(initial=0.0)) < LIFT_BELOW else 0
    lifted = [backend.put(np.ldexp(row, lift)[None]) for row in rows_f32]
    combined = [backend.subtract(lifted[1], lifted[0])] if method == "from_2_way_softmax" else lifted
    scale = transform.scale * calibration.scale
    if scale != 1.0:
        combined = [backend.multiply(row, scale) for row in combined]
    weight = np.concatenate([np.ldexp(backend.get(row), -lift) for row in combined]).astype(np.float32)
    biases = np.zeros(len(rows), np.float64) if bias is None else bias.astype(np.float64)
    if method == "from_2_way_softmax":
        biases = biases[1:] - biases[:1]
    biases = (biases * scale + calibration.bias).astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(biases).all()):
        raise UsageError(
            f"the score head times {scale:g} plus {calibration.bias:g} is too large for float32, in which it is stored. "
            "Use a smaller --scale or --bias."
        )
    return ScoreHead(weight, biases if np.any(biases) else None, digest)
