"""Trees of JAX libraries whose arrays are quantised: recognised by their names, made plain where the layout is clear.

Qwix (Tunix) has `array.qvalue`, `array.scale` and, where codes are asymmetric, `array.zero_point` in the place of an array.
AQT (MaxText) has `AqtDotGeneral_0.qrhs.frozen.qvalue` and `.scale.0` in the place of a kernel, stacked layers on axis 0.
Either weight is (code - zero point) * scale, each scale counting for a tile of equal size along every axis.

Source: qwix 0.1.8 `core/qarray.py` (dequantize); aqtp 0.9.0 `aqt_tensor.py` (QTensor.dequant); maxtext 0.2.5
`utils/layerwise_quantization.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, numpy_dtype
from jaxconv.errors import RefusedError, SourceError

CODES = ("I8", "F8_E4M3", "F8_E5M2")
SCALES = ("F32", "BF16", "F16")
DTYPE, WIDE = "BF16", "F32"  # of the backbone's numbers, and of the rows of the head
BLOCK = 1 << 18  # elements that are computed at a time
QVALUE = re.compile(r"(?P<place>.+)\.qvalue")
# Where AQT keeps what it froze beside the place of a kernel. Its older form is a tree of its own.
AQT_KERNEL = re.compile(r"(?P<module>decoder\..+)\.AqtDotGeneral_\d+\.qrhs\.frozen(\.value)?")
AQT = re.compile(r"(?i:aqt)|q[lr]hs|Aqt(DotGeneral|Einsum)_\d+")
STACKED = re.compile(r"decoder\.layers\..+")
PARTS = {"qvalue": "codes", "scale": "scale", "scale.0": "scale", "zero_point": "zero point"}
REMEDY = (
    "Convert the parameters from before quantisation (the trained checkpoint), then quantise the output with score left out."
)


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantised array.

    Attributes:
        name: The name that the array has in a plain tree.
        codes: The codes, in the array's shape.
        scale: The scales; each of their axes divides the array's.
        zero: The codes of zero, shaped likewise; None where codes are symmetric.
    """

    name: str
    codes: TensorRef
    scale: TensorRef
    zero: TensorRef | None

    def plain(self, dtype: str) -> TensorRef:
        """The array as numbers, computed whenever it is read.

        Args:
            dtype: BF16 for numbers as the library has them, rounded once more; F32 for products as they are.
        """
        shape = self.codes.shape

        def read() -> Array:
            return self._numbers(self.codes.read(), 0, range(shape[0]), dtype)

        def take(ids: Sequence[int], axis: int) -> Array:
            return self._numbers(self.codes.take(ids, axis), axis, ids, dtype)

        ref = TensorRef(self.name, dtype, shape, read, take, computed=True)
        return _second_axis(ref) if STACKED.fullmatch(self.name) and AQT_KERNEL.match(self.codes.name) else ref

    def _numbers(self, codes: Array, axis: int, ids: Sequence[int], dtype: str) -> Array:
        """The numbers of slices of an axis, computed in blocks along it."""
        import numpy as np

        result = np.empty(codes.shape, numpy_dtype(dtype))
        rounded = numpy_dtype(self.scale.dtype if dtype == DTYPE else WIDE)
        scale, zero = self.scale.read(), None if self.zero is None else self.zero.read()
        step = max(1, BLOCK * len(ids) // max(1, codes.size))
        for start in range(0, len(ids), step):
            block = (*(slice(None),) * axis, slice(start, start + step))
            wide = codes[block].astype(np.float32)
            if zero is not None:
                wide -= _against(zero, self.codes.shape, axis, ids[start : start + step])
            wide *= _against(scale, self.codes.shape, axis, ids[start : start + step])
            result[block] = wide.astype(rounded, copy=False)
        return result


def _against(part: Array, shape: tuple[int, ...], axis: int, ids: Sequence[int]) -> Array:
    """Scales as float32 against the slices `ids` of an axis of an array of `shape`."""
    import numpy as np

    for number, (count, size) in enumerate(zip(part.shape, shape, strict=True)):
        if count == 1 or (count == size and number != axis):
            continue
        index = np.asarray(ids) if number == axis else np.arange(size)
        part = part.take(index // (size // count), number)
    return part.astype(np.float32)


def _second_axis(ref: TensorRef) -> TensorRef:
    """Stacked layers moved from the first axis to the second, where the kernels of MaxText have them."""
    import numpy as np

    first, second, *rest = ref.shape
    swapped = {0: 1, 1: 0}
    return replace(
        ref,
        shape=(second, first, *rest),
        read=lambda: np.swapaxes(ref.read(), 0, 1),
        take=lambda ids, axis: np.swapaxes(ref.take(ids, swapped.get(axis, axis)), 0, 1),
    )


@dataclass(frozen=True, slots=True)
class QuantisedTree:
    """A tree with quantised arrays.

    Attributes:
        library: Who quantised it: "Qwix" or "AQT".
        checkpoint: The arrays as they are stored.
        arrays: The quantised ones, by the name of their codes.
    """

    library: str
    checkpoint: Checkpoint
    arrays: Mapping[str, Codes]

    @property
    def summary(self) -> str:
        """The quantisation in words."""
        dtypes = "/".join(sorted({array.codes.dtype for array in self.arrays.values()}))
        return f"{self.library}, {len(self.arrays)} arrays of {dtypes} with scales"

    def plain(self, dtype: str = DTYPE) -> Checkpoint:
        """The tree with numbers in the place of codes; other arrays stay as they are stored.

        Args:
            dtype: The dtype of the numbers, "BF16" or "F32".

        Raises:
            RefusedError: An array is there quantised and plain.
        """
        parts = {ref.name for array in self.arrays.values() for ref in (array.codes, array.scale, array.zero) if ref}
        tensors: dict[str, TensorRef] = {}
        for name, stored in self.checkpoint.tensors.items():
            if name in parts and name not in self.arrays:
                continue
            ref = self.arrays[name].plain(dtype) if name in self.arrays else stored
            if ref.name in tensors:
                raise RefusedError(
                    f"{self.checkpoint.path} has {ref.name} twice, as codes and as numbers; expected one of the two, so it "
                    f"is not certain which the model computes with. {REMEDY}"
                )
            tensors[ref.name] = ref
        return replace(self.checkpoint, tensors=tensors, shards=())


def open_quantised_tree(checkpoint: Checkpoint) -> QuantisedTree | None:
    """The quantised arrays of a tree; None where there are none.

    Args:
        checkpoint: The arrays under the names that they have in the tree.

    Raises:
        RefusedError: An array is quantised in a way whose numbers are not certain.
        SourceError: A scale is missing, or has a shape that does not fit.
    """
    tensors = checkpoint.tensors
    places = {match["place"]: name for name in tensors if (match := QVALUE.fullmatch(name)) is not None}
    marked = [name for name in tensors if any(AQT.fullmatch(part) for part in re.split(r"[./]", name))]
    if not places and not marked:
        return None
    library = "AQT" if marked else "Qwix"
    parts: dict[str, dict[str, TensorRef]] = {place: {} for place in places}
    for name, ref in tensors.items():
        place = next((name[:end] for end in _ends(name) if name[:end] in parts), None)
        kind = None if place is None else PARTS.get(name[len(place) + 1 :])
        if place is not None and kind is not None:
            parts[place][kind] = ref
        elif place is not None or name in marked:
            raise _unclear(checkpoint, library, ref, "it is none of codes, scale and zero point")
    return QuantisedTree(library, checkpoint, {
        places[place]: _codes(checkpoint, library, place, entry) for place, entry in parts.items()
    })  # fmt: skip


def _ends(name: str) -> list[int]:
    """Where the dots of a name are."""
    return [index for index, letter in enumerate(name) if letter == "."]


def _codes(checkpoint: Checkpoint, library: str, place: str, parts: Mapping[str, TensorRef]) -> Codes:
    """The quantised array of a place, checked."""
    codes, scale, zero = parts["codes"], parts.get("scale"), parts.get("zero point")
    kernel = AQT_KERNEL.fullmatch(place)
    if library == "AQT" and kernel is None:
        raise _unclear(checkpoint, library, codes, "expected AqtDotGeneral_0.qrhs.frozen beside the place of a kernel")
    if codes.dtype not in CODES:
        raise _unclear(checkpoint, library, codes, f"expected codes of {', '.join(CODES)}")
    if scale is None:
        raise SourceError(
            f"{checkpoint.path}: {codes.name} has no scale beside it; expected {place}.scale. Save the whole tree again."
        )
    if scale.dtype not in SCALES:
        raise _unclear(checkpoint, library, scale, f"expected scales of {', '.join(SCALES)}")
    if zero is not None and zero.dtype != codes.dtype:
        raise _unclear(checkpoint, library, zero, f"expected the dtype of its codes, {codes.dtype}")
    for part in (scale, *([] if zero is None else [zero])):
        if len(part.shape) != len(codes.shape) or any(
            not count or size % count for count, size in zip(part.shape, codes.shape, strict=True)
        ):
            raise SourceError(
                f"{checkpoint.path}: {part.name} has shape {list(part.shape)}; expected sizes that divide those of "
                f"{codes.name}, {list(codes.shape)}. Save the tree again."
            )
    name = place.removesuffix(".array") if kernel is None else f"{kernel['module']}.kernel"
    return Codes(name, codes, scale, zero)


def _unclear(checkpoint: Checkpoint, library: str, ref: TensorRef, problem: str) -> RefusedError:
    return RefusedError(
        f"{checkpoint.path} is quantised by {library}, and {ref.name} is {ref.dtype} {list(ref.shape)}: {problem}, so its "
        f"numbers are not certain. {REMEDY}"
    )


def refusal_without_dequantize(tree: QuantisedTree) -> RefusedError:
    """The refusal of a quantised tree without `--dequantize`, which it names as the next step.

    Args:
        tree: The tree.
    """
    name = next(iter(tree.arrays))
    return RefusedError(
        f"{tree.checkpoint.path} is quantised by {tree.library}: {name} is {tree.arrays[name].codes.dtype}, codes with a "
        "scale beside them, which no server reads in this layout. Pass --dequantize (dequantize=True) to convert them to "
        "bfloat16 numbers; or convert the parameters from before quantisation (the trained checkpoint)."
    )
