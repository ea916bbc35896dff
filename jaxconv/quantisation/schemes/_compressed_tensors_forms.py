"""The groups of a compressed-tensors configuration, and how each format stores a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxconv.checkpoint import Array
from jaxconv.errors import RefusedError, SourceError
from jaxconv.quantisation.codecs import fields, scaled, spread, widen
from jaxconv.quantisation.json_values import JsonObject, flag, pair, section, strings, text, whole
from jaxconv.quantisation.layouts import F32, FLOATS, FP8, INT8, CodesTimesScales, ceil_div, grid, nvfp4, scalar
from jaxconv.quantisation.storage import Decoder, Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NVFP4 = "nvfp4-pack-quantized"
FORMATS = ("int-quantized", "float-quantized", "naive-quantized", "pack-quantized", NVFP4)
STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")


@dataclass(frozen=True, slots=True)
class Group:
    """One of `config_groups`: which modules, and how their weights are stored."""

    name: str
    targets: tuple[str, ...]
    format: str
    bits: int
    is_float: bool
    symmetric: bool
    strategy: str
    block: tuple[int, int]
    static_inputs: bool
    symmetric_inputs: bool

    @property
    def kind(self) -> str:
        """The form in words."""
        number = f"{'fp' if self.is_float else 'int'}{self.bits}"
        scope = {
            "tensor": "with one scale",
            "channel": "per channel",
            "group": f"in groups of {self.block[1]}",
            "tensor_group": f"in groups of {self.block[1]}",
            "block": f"in blocks of {self.block[0]} x {self.block[1]}",
        }[self.strategy]
        return f"{number} {scope}{'' if self.symmetric else ', asymmetric'} ({self.format})"


def read_group(name: str, groups: JsonObject, config: JsonObject) -> Group | None:
    """One group; None for one that does not quantise weights.

    Args:
        name: The group's name.
        groups: `config_groups` of the configuration.
        config: The whole quantization_config, whose format a group without one has.

    Raises:
        SourceError: The group does not say how its weights are stored.
    """
    group = section(groups, name) or {}
    weights, inputs = section(group, "weights"), section(group, "input_activations") or {}
    if weights is None:
        return None
    targets = strings(group, "targets")
    if not targets:
        raise SourceError(f"quantization_config has a group {name} without targets; expected names or classes of modules.")
    stored = text({"format": group.get("format") or config.get("format")}, "format", FORMATS)
    strategy = text(weights, "strategy", STRATEGIES)
    is_float = text(weights, "type", ("int", "float")) == "float"
    read = Group(
        name=name,
        targets=targets,
        format=stored,
        bits=whole(weights, "num_bits"),
        is_float=is_float,
        symmetric=flag(weights, "symmetric", True),
        strategy=strategy,
        block=_block(weights, strategy),
        static_inputs=bool(inputs) and inputs.get("dynamic", False) is not True,
        symmetric_inputs=flag(inputs, "symmetric", True),
    )
    if (read.is_float, read.bits) not in NUMBERS[stored] or (read.is_float and not read.symmetric):
        raise SourceError(f"quantization_config has {read.kind} in {name}, which this format does not store.")
    return read


def _block(weights: JsonObject, strategy: str) -> tuple[int, int]:
    """Rows and columns that share a scale; 0 stands for all."""
    if strategy == "block":
        block = pair(weights, "block_structure")
        if block is None:
            raise SourceError(
                "quantization_config has the strategy block without a block_structure; expected e.g. [128, 128]."
            )
        return block
    if strategy == "tensor":
        return 0, 0
    return (1, 0) if strategy == "channel" else (1, whole(weights, "group_size"))


def stored_inputs(group: Group) -> tuple[Part, ...]:
    """What a linear of `group` stores of its activations.

    No weight depends on it, but without it a server's numbers are whatever its memory held.
    """
    if not group.static_inputs:
        return ()
    if group.format == NVFP4:
        return (scalar("input_global_scale", F32),)
    zero_point = scalar("input_zero_point", INT8 | FP8 | FLOATS, required=not group.symmetric_inputs)
    return scalar("input_scale"), zero_point


def _codes(group: Group, module: str, shape: tuple[int, int]) -> tuple[tuple[Part, ...], Decoder]:
    """One code a byte. Older versions store zero points of symmetric weights too."""
    dtype = FP8 if group.is_float else INT8
    zero_point = grid("weight_zero_point", shape, group.block, dtype | FLOATS, required=not group.symmetric)
    parts = (Part("weight", dtype, (shape,), axis=0), grid("weight_scale", shape, group.block), zero_point)
    return parts, CodesTimesScales("weight", "weight_scale", group.block, shape[1], "weight_zero_point")


def _packed(group: Group, module: str, shape: tuple[int, int]) -> tuple[tuple[Part, ...], Decoder]:
    """Fields of 4 or 8 bits in words: weights along the input, zero points along the output, both from their half range."""
    count, (rows, columns) = 32 // group.bits, shape
    groups = ceil_div(columns, group.block[1] or columns)
    words = frozenset({"I32"})
    parts: tuple[Part, ...] = (
        Part("weight_packed", words, ((rows, ceil_div(columns, count)),), axis=0),
        grid("weight_scale", shape, group.block),
        Part("weight_shape", frozenset({"I64", "I32"}), ((2,),)),
        Part("weight_g_idx", words, ((columns,),), required=False),
    )
    if not group.symmetric:
        zeros = ceil_div(rows, count), groups
        parts += (Part("weight_zero_point", words, (zeros,), axis=0, features=count),)
    return parts, _unpacker(group, module, shape)


def _unpacker(group: Group, module: str, shape: tuple[int, int]) -> Decoder:
    def decode(arrays: Mapping[str, Array], rows: int) -> NDArray[np.float32]:
        if arrays["weight_shape"].tolist() != list(shape):
            raise SourceError(
                f"{module}.weight_shape says {arrays['weight_shape'].tolist()}; expected {list(shape)}. Check that "
                "config.json and weights belong together."
            )
        if "weight_g_idx" in arrays:
            raise RefusedError(f"{module} orders its weights by activation (weight_g_idx): no current reader takes that.")
        block = group.block[0], group.block[1] or shape[1]
        values = widen(fields(arrays["weight_packed"], group.bits, shape[1]))
        if group.symmetric:
            values -= 1 << (group.bits - 1)
        else:
            zeros = fields(arrays["weight_zero_point"].T, group.bits, rows).T
            values -= spread(widen(zeros), block, values.shape)
        return scaled(values, widen(arrays["weight_scale"]), block)

    return decode


def _nvfp4(group: Group, module: str, shape: tuple[int, int]) -> tuple[tuple[Part, ...], Decoder]:
    rows, columns = shape
    if group.block[1] != 16 or columns % 16:
        raise SourceError(f"{module} is NVFP4 in groups of {group.block[1]} over {columns} inputs; expected groups of 16.")
    parts = (
        Part("weight_packed", frozenset({"U8"}), ((rows, columns // 2),), axis=0),
        Part("weight_scale", FP8, ((rows, columns // 16),), axis=0),
        scalar("weight_global_scale", F32),
    )
    return parts, nvfp4("weight_packed", "weight_scale", "weight_global_scale", columns, divide=True)


STORED = {
    "int-quantized": _codes,
    "float-quantized": _codes,
    "naive-quantized": _codes,
    "pack-quantized": _packed,
    NVFP4: _nvfp4,
}
# The numbers that a format stores: whether they are floats, and their bits. Four bits in int-quantized fill a byte each.
NUMBERS = {
    "int-quantized": {(False, 8), (False, 4)},
    "float-quantized": {(True, 8)},
    "naive-quantized": {(False, 8), (False, 4), (True, 8)},
    "pack-quantized": {(False, 8), (False, 4)},
    NVFP4: {(True, 4)},
}
