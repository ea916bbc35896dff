"""Where a library keeps a Hugging Face tensor, and the arithmetic of comparing the two."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxconv.checkpoint import Array
from jaxconv.json_files import JsonObject

Sizes = Mapping[str, int]
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a library keeps one Hugging Face tensor: library = (Hugging Face, axes moved) * times + plus.

    Attributes:
        name: The library's array.
        hf: The axes of the Hugging Face tensor; axes in parentheses are merged: "(N H) D". None: any, moved nowhere.
        axes: The axes of the library's array. W is the vocabulary with padding; l stacked layers, p stacked parts.
        at: The index on each of the axes l and p.
        times: The factor that the library's values have.
        plus: What the library adds.
        pairs: Whether the two halves of H lie interleaved in the library (rotary dimensions side by side).
    """

    name: str
    hf: str | None = None
    axes: str = ""
    at: Mapping[str, int] = field(default_factory=dict)
    times: float = 1.0
    plus: float = 0.0
    pairs: bool = False

    @property
    def exact(self) -> bool:
        """Whether values are moved only, never computed."""
        return self.times == 1.0 and self.plus == 0.0

    def fits(self, shape: tuple[int, ...], hf_shape: tuple[int, ...], sizes: Sizes) -> bool:
        """Whether an array of the library has the shape that this place gives a Hugging Face tensor."""
        if self.hf is None:
            return shape == hf_shape
        axes, known = self.axes.split(), self._sizes(hf_shape, sizes)
        if math.prod(known.get(atom, 0) for atom in self._atoms()) != math.prod(hf_shape) or len(axes) != len(shape):
            return False
        return all(
            size > self.at[axis] if axis in "lp" else size >= known["V"] if axis == "W" else size == known.get(axis)
            for axis, size in zip(axes, shape, strict=True)
        )

    def part(self, array: Array, hf_shape: tuple[int, ...], sizes: Sizes) -> Array:
        """What the library's array holds of the Hugging Face tensor: one layer, one part, without padding."""
        if self.hf is None:
            return array
        vocabulary = self._sizes(hf_shape, sizes).get("V")
        cut = {"W": slice(vocabulary), **self.at}
        return array[tuple(cut.get(axis, slice(None)) for axis in self.axes.split())]

    def moved_back(self, part: Array, hf_shape: tuple[int, ...], sizes: Sizes) -> Array:
        """A part of the library's array with the axes, and the order of rotary dimensions, of the Hugging Face tensor."""
        if self.hf is None:
            return part
        atoms, kept = self._atoms(), self._kept()
        array = separated(part, kept.index("H")) if self.pairs else part
        return array.transpose([kept.index(atom) for atom in atoms]).reshape(hf_shape)

    def _atoms(self) -> list[str]:
        return (self.hf or "").replace("(", " ").replace(")", " ").split()

    def _kept(self) -> list[str]:
        return [axis.replace("W", "V") for axis in self.axes.split() if axis not in "lp"]

    def _sizes(self, hf_shape: tuple[int, ...], sizes: Sizes) -> dict[str, int]:
        """The size of every axis: of those that stand alone from the tensor, of merged ones from the config."""
        groups = re.findall(r"\(.*?\)|\S+", self.hf or "")
        alone = {axis: size for axis, size in zip(groups, hf_shape, strict=False) if not axis.startswith("(")}
        return {**sizes, **alone}


def separated(array: Array, axis: int) -> Array:
    """Pairs side by side on an axis -> their first members in the first half, their second members in the second."""
    import numpy as np

    before = [slice(None)] * axis
    return np.concatenate([array[(*before, slice(start, None, 2))] for start in (0, 1)], axis)


def axis_sizes(config: JsonObject) -> dict[str, int]:
    """The sizes of merged axes, read from config.json: N attention heads, G key-value heads, H head_dim."""
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int):  # a family with other keys; only Hugging Face's own layout has them, which merges nothing
        return {}
    return {
        "N": heads,
        "G": config.get("num_key_value_heads") or heads,
        "H": config.get("head_dim") or config["hidden_size"] // heads,
    }


def float32_root(size: int) -> float:
    """The square root as a float32, which is what libraries multiply with."""
    import numpy as np

    return float(np.float32(math.sqrt(size)))


def bfloat16_root(size: int) -> float:
    """The square root as a bfloat16."""
    import ml_dtypes
    import numpy as np

    return float(np.float32(math.sqrt(size)).astype(ml_dtypes.bfloat16))
