"""How one linear is stored, and its weight as float32 from what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from jaxconv.checkpoint import Array, TensorRef, mapped
from jaxconv.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Decoder: TypeAlias = "Callable[[Mapping[str, Array], int], NDArray[np.float32]]"
Shape: TypeAlias = tuple[int, ...]

# About as many float32 values as a block of rows may have: 64 MiB.
BLOCK_VALUES = 1 << 24


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor of a linear.

    Attributes:
        suffix: What follows the module's name and a dot.
        dtypes: The safetensors dtypes that the scheme's readers take.
        shapes: The shapes that they take; more than one where a scalar may also be a vector of one.
        axis: The axis along which the output features lie; None for a tensor that belongs to all of them.
        features: How many output features one index along `axis` holds.
        required: Whether the linear cannot be read without it.
    """

    suffix: str
    dtypes: frozenset[str]
    shapes: tuple[Shape, ...]
    axis: int | None = None
    features: int = 1
    required: bool = True


@dataclass(frozen=True, slots=True)
class Storage:
    """The stored form of one linear.

    Attributes:
        module: The module's name, as in "model.layers.0.mlp.up_proj".
        kind: The form in words, for messages, as in "int4 in groups of 128".
        shape: Output and input features of the weight.
        parts: The stored tensors.
        decode: Gives float32 [rows, input features] from the arrays of a block of rows (by suffix) and the number of rows.
    """

    module: str
    kind: str
    shape: tuple[int, int]
    parts: tuple[Part, ...]
    decode: Decoder

    def names(self) -> dict[str, Part]:
        """The parts by the full names of their tensors."""
        return {f"{self.module}.{part.suffix}": part for part in self.parts}

    @property
    def row_step(self) -> int:
        """A block of rows begins at a multiple of this: output features that share a word or a scale."""
        return max((part.features for part in self.parts if part.axis is not None), default=1)

    def problems(self, tensors: Mapping[str, TensorRef]) -> list[str]:
        """What is wrong with `tensors`, the checkpoint's by their full names.

        Returns:
            A sentence for each missing part and for each of another dtype or shape; empty if all is right.
        """
        problems = []
        for name, part in self.names().items():
            if name not in tensors:
                if part.required:
                    problems.append(f"{name} is missing")
            elif problem := mismatch(part, tensors[name]):
                problems.append(f"{name} is {problem}")
        return problems

    def dequantise(self, tensors: Mapping[str, TensorRef], start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """The weight as its readers compute it, in float32.

        Args:
            tensors: The checkpoint's tensors by their full names.
            start: The first row, a multiple of `row_step`.
            stop: The row after the last one; by default all.

        Returns:
            float32 [stop - start, input features]; a transposed view where the scheme stores inputs first.

        Raises:
            SourceError: A stored tensor is missing or misshapen, or its values contradict the shape.
        """
        if problems := self.problems(tensors):
            raise SourceError(f"{self.module} ({self.kind}) cannot be read: {'; '.join(problems)}. Get the whole checkpoint.")
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        if start % self.row_step:
            raise ValueError(f"row {start} of {self.module} is not a multiple of {self.row_step}")
        present = {part: tensors[name] for name, part in self.names().items() if name in tensors}
        arrays = {part.suffix: _rows(mapped(ref), part, start, stop) for part, ref in present.items()}
        return self.decode(arrays, stop - start)

    def blocks(self, tensors: Mapping[str, TensorRef]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The weight in blocks of at most about 64 MiB, from `tensors`, the checkpoint's by their full names.

        Yields:
            The first row's number, and float32 [rows, input features].

        Raises:
            SourceError: As `dequantise`.
        """
        step = max(1, BLOCK_VALUES // max(1, self.shape[1] * self.row_step)) * self.row_step
        for start in range(0, self.shape[0], step):
            yield start, self.dequantise(tensors, start, start + step)


def mismatch(part: Part, ref: TensorRef) -> str:
    """How a tensor differs from what its part allows, as in "F32 [3, 4]; expected BF16 [4, 4]"; empty if it fits.

    Args:
        part: What is allowed.
        ref: The tensor.
    """
    if ref.dtype in part.dtypes and ref.shape in part.shapes:
        return ""
    shapes = " or ".join(str(list(shape)) for shape in part.shapes)
    return f"{ref.dtype} {list(ref.shape)}; expected {'/'.join(sorted(part.dtypes))} {shapes}"


def _rows(array: Array, part: Part, start: int, stop: int) -> Array:
    """The part of a stored tensor that holds the output features from `start` to `stop`."""
    # A scale for all rows may be stored as a vector of one, which has no axis to cut.
    if part.axis is None or array.size == 1:
        return array
    index: list[slice] = [slice(None)] * array.ndim
    index[part.axis] = slice(start // part.features, -(-stop // part.features))
    return array[tuple(index)]
