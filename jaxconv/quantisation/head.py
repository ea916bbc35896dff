"""What the head of a quantised checkpoint is. The tensors decide, whatever the configuration says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError, SourceError
from jaxconv.quantisation.check import PLAIN
from jaxconv.quantisation.codecs import widen
from jaxconv.quantisation.layouts import FLOATS, ceil_div

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EIGHT_BITS = frozenset({"F8_E4M3", "I8"})
SCALES = ("weight_scale", "weight_scale_inv")
ZERO_POINT = "weight_zero_point"
# Tensors that an 8-bit head may have beside its scale, and that no row depends on.
INPUTS = frozenset({"input_scale", "input_zero_point", "activation_scale"})
BLOCK = 128


@dataclass(frozen=True, slots=True)
class StoredHead:
    """The matrix whose rows score tokens, plain or in 8 bits.

    Attributes:
        weight: The rows, as stored [vocab_size, hidden_size].
        scale: What the rows are multiplied by; None for a plain head.
        zero_point: What is subtracted before that; None for symmetric codes.
        tensors: Every tensor of the module: what a converted checkpoint leaves out of an untied head.
        record: A sentence for the provenance; empty for a plain head.
    """

    weight: TensorRef
    scale: TensorRef | None
    zero_point: TensorRef | None
    tensors: tuple[str, ...]
    record: str

    def rows(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The rows of token ids as float32 [len(ids), hidden_size]: exact, or (code - zero point) · scale in float32."""
        import numpy as np

        values = widen(self.weight.read_rows(ids))
        if self.zero_point is not None:
            values = values - _for_rows(self.zero_point, ids, self.weight.shape)
        if self.scale is not None:
            values = values * _for_rows(self.scale, ids, self.weight.shape)
        return np.asarray(values, np.float32)


def find_stored_head(tensors: Mapping[str, TensorRef], module: str = "lm_head") -> StoredHead | None:
    """The head of a checkpoint.

    Args:
        tensors: The checkpoint's tensors.
        module: "lm_head", or the embedding's name where head and embedding are tied.

    Returns:
        The head; None where the module has no tensors.

    Raises:
        RefusedError: The head is packed in words, so that no row can be read on its own.
        SourceError: The scale is missing or of another shape.
    """
    parts = {name.removeprefix(f"{module}."): ref for name, ref in tensors.items() if name.startswith(f"{module}.")}
    weight = parts.get("weight")
    if not parts or (weight is None and parts.keys() <= {"bias"}):
        return None
    beside = sorted(parts.keys() - {"weight", "bias"})
    if weight is not None and weight.dtype in PLAIN and not beside:
        return StoredHead(weight, None, None, tuple(f"{module}.{leaf}" for leaf in parts), "")
    scales = [leaf for leaf in SCALES if leaf in parts]
    if weight is None or weight.dtype not in EIGHT_BITS | PLAIN or set(beside) - {*SCALES, ZERO_POINT, *INPUTS}:
        stored = ", ".join(f"{module}.{leaf}" for leaf in beside) or f"{module}.weight of {weight.dtype if weight else ''}"
        raise RefusedError(
            f"The head is packed: the checkpoint has {stored}; expected a plain {module}.weight, or 8 bits with a scale. "
            'Quantise the original again with "lm_head" left out, as nearly all published rerankers are.'
        )
    if weight.dtype in PLAIN:
        raise SourceError(
            f"{module}.weight is {weight.dtype}, and {', '.join(f'{module}.{leaf}' for leaf in beside)} lies beside it: the "
            "rows are either plain or scaled. Get the whole checkpoint."
        )
    if len(scales) != 1:
        raise SourceError(
            f"{module}.weight is {weight.dtype} and has {' and '.join(scales) or 'no scale'} beside it; expected one of "
            f"{', '.join(f'{module}.{leaf}' for leaf in SCALES)}. Get the whole checkpoint."
        )
    scale, zero_point = parts[scales[0]], parts.get(ZERO_POINT)
    for ref in (scale, *([zero_point] if zero_point is not None else [])):
        _check_grid(ref, weight)
    record = f"{module}.weight is {weight.dtype}: rows are dequantised with {scale.name} in float32"
    return StoredHead(weight, scale, zero_point, tuple(f"{module}.{leaf}" for leaf in parts), record)


def _check_grid(ref: TensorRef, weight: TensorRef) -> None:
    """Raises `SourceError` unless a scale is one number, one per row, or one per block of 128 x 128."""
    rows, columns = weight.shape
    blocks = ceil_div(rows, BLOCK), ceil_div(columns, BLOCK)
    if ref.dtype in FLOATS | EIGHT_BITS and ref.shape in ((), (1,), (1, 1), (rows,), (rows, 1), blocks):
        return
    raise SourceError(
        f"{ref.name} is {ref.dtype} {list(ref.shape)} beside {weight.name} {list(weight.shape)}; expected one number, one "
        f"per row, or {list(blocks)} for blocks of {BLOCK} x {BLOCK}. Get the whole checkpoint."
    )


def _for_rows(ref: TensorRef, ids: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What of a scale belongs to the rows `ids`, so that it broadcasts against them."""
    import numpy as np

    if ref.shape in ((), (1,), (1, 1)):
        return widen(ref.read()).reshape(1, 1)
    if ref.shape[0] == shape[0]:
        return widen(ref.read_rows(ids)).reshape(len(ids), 1)
    blocks = widen(ref.read_rows([i // BLOCK for i in ids]))
    return np.repeat(blocks, BLOCK, axis=1)[:, : shape[1]]
