"""The numbers of trees that AQT or Qwix quantised, worked out once more from the arrays as they are stored.

Apart from `jaxconv.quantisation.jax_trees`: from the names backwards, in float64, scales repeated over their tiles. A code
of 8 bits times a scale is exact in float64, so one rounding to the scale's dtype gives the library's own bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jaxconv.checkpoint import Array, TensorRef, numpy_dtype
from jaxconv.model import Model

ROWS = 1 << 20  # elements of float64 at a time
FROZEN = "qrhs.frozen"


def plain_arrays(raw: Mapping[str, TensorRef], dtype: str = "BF16") -> dict[str, TensorRef]:
    """The arrays of a tree, with numbers in the place of codes, under the names that a plain tree has.

    Args:
        raw: The arrays as the reader gives them.
        dtype: The dtype of the numbers: BF16 of the backbone's, F32 of the head's.
    """
    stems = {name.removesuffix("qvalue"): ref for name, ref in raw.items() if name.endswith(".qvalue")}
    belongs = {name: next((stem for stem in _stems(name) if stem in stems), None) for name in raw}
    arrays = {name: ref for name, ref in raw.items() if belongs[name] is None}
    for stem, codes in stems.items():
        scale = raw.get(f"{stem}scale") or raw[f"{stem}scale.0"]
        ref = _numbers(codes, scale, raw.get(f"{stem}zero_point"), dtype)
        if FROZEN not in stem:
            arrays[stem.removesuffix(".").removesuffix(".array")] = ref
            continue
        module = stem.split(".AqtDotGeneral_")[0]
        # MaxText runs over stacked layers on axis 0 of what AQT keeps, and on axis 1 of kernels.
        arrays[f"{module}.kernel"] = _stacked_on_second_axis(ref) if ".layers." in module else ref
    return {name: replace(ref, name=name) for name, ref in arrays.items()}


def _stems(name: str) -> Iterator[str]:
    """The beginnings of a name that end with a dot."""
    parts = name.split(".")
    return (".".join(parts[:count]) + "." for count in range(1, len(parts)))


def _numbers(codes: TensorRef, scale: TensorRef, zero: TensorRef | None, dtype: str) -> TensorRef:
    def read() -> Array:
        return _computed(codes.read(), scale.read(), None if zero is None else zero.read(), dtype)

    def take(ids: Sequence[int], axis: int) -> Array:
        def part(ref: TensorRef) -> Array:
            tile = codes.shape[axis] // ref.shape[axis]
            return ref.read().take([index // tile for index in ids], axis)

        return _computed(codes.take(ids, axis), part(scale), None if zero is None else part(zero), dtype)

    return TensorRef(codes.name, dtype, codes.shape, read, take, computed=True)


def _computed(codes: Array, scale: Array, zero: Array | None, dtype: str) -> Array:
    """(code - zero point) * scale, a few slices of the first axis at a time."""
    import numpy as np

    result = np.empty(codes.shape, numpy_dtype(dtype))
    step = max(1, ROWS // max(1, codes[:1].size))
    for start in range(0, len(codes), step):
        rows = slice(start, min(start + step, len(codes)))
        wide = codes[rows].astype(np.float64)
        if zero is not None:
            wide = wide - _repeated(zero, codes.shape, rows)
        product = wide * _repeated(scale, codes.shape, rows)
        result[rows] = product.astype(np.float32) if dtype == "F32" else _narrowed(product, scale)
    return result


def _narrowed(product: Array, scale: Array) -> Array:
    import numpy as np

    return product.astype(np.float32).astype(scale.dtype)  # float64 -> bfloat16 of ml_dtypes goes by float32 too


def _repeated(part: Array, shape: tuple[int, ...], rows: slice) -> Array:
    """Scales as float64, each over its tile, for some slices of the first axis."""
    import numpy as np

    wide = part.astype(np.float64)
    for axis, size in enumerate(shape):
        wide = np.repeat(wide, size // wide.shape[axis], axis) if axis else wide
    tile = shape[0] // wide.shape[0]
    return np.stack([wide[index // tile] for index in range(rows.start, rows.stop)])


def _stacked_on_second_axis(ref: TensorRef) -> TensorRef:
    import numpy as np

    order = {0: 1, 1: 0}
    return TensorRef(
        ref.name, ref.dtype, (ref.shape[1], ref.shape[0], *ref.shape[2:]),
        lambda: np.moveaxis(ref.read(), 0, 1),
        lambda ids, axis: np.moveaxis(ref.take(ids, order.get(axis, axis)), 0, 1),
        computed=True,
    )  # fmt: skip


def how_dequantised(model: Model) -> str:
    """A sentence on what the output's numbers were compared with.

    Args:
        model: The source, a tree with quantised arrays.
    """
    summary = "" if model.dequantised is None else model.dequantised.summary
    return (
        f"the source is quantised ({summary}); its arrays were dequantised once more, from the container and in float64, to "
        "compare the output with."
    )
