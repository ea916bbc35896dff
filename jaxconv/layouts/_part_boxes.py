"""A tensor of a stack, put together from the parts in which the stack is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jaxconv.checkpoint import Array, Boxes, TensorRef


def part_boxes(
    ref: TensorRef,
    symbols: Sequence[str],
    order: Sequence[str],
    index: tuple[int, int],
    sizes: Mapping[str, int],
    change: Callable[[Array], Array],
    uncut: str,
) -> Boxes | None:
    """How a Hugging Face tensor is put together from the parts of a foreign array.

    Args:
        ref: The foreign array.
        symbols: Its axes, as in `Rule.axes`.
        order: The axes of the tensor before any are merged.
        index: Its place on the axes L and P.
        sizes: What the symbols stand for.
        change: Changes the values of a part, whose axes are in the order of `order`.
        uncut: The axis that `change` needs whole, if there is one.

    Returns:
        None if the array is not read in parts, or in parts that `change` cannot take.
    """
    source = ref.boxes
    if source is None or uncut in {symbols[axis] for axis in source.cut}:
        return None
    axes = [symbol.replace("W", "V") for symbol in symbols]
    kept = [axis for axis in axes if axis not in "LP"]
    indices = {"L": index[0], "P": index[1]}

    def place(start: tuple[int, ...], values: Array) -> tuple[tuple[slice, ...], Array] | None:
        first, lengths = dict(zip(axes, start, strict=True)), dict(zip(axes, values.shape, strict=True))
        inside = {axis: number - first[axis] for axis, number in indices.items() if axis in first}
        if not all(0 <= position < lengths[axis] for axis, position in inside.items()):
            return None
        padding = {"V": slice(max(0, sizes["V"] - first["V"]))} if "V" in first else {}
        select: dict[str, int | slice] = {**inside, **padding}
        part = values[tuple(select.get(axis, slice(None)) for axis in axes)]
        part = change(part.transpose([kept.index(axis) for axis in order]))
        return tuple(slice(first[axis], first[axis] + size) for axis, size in zip(order, part.shape, strict=True)), part

    return Boxes(source.read, tuple(sizes[axis] for axis in order), place, frozenset())
