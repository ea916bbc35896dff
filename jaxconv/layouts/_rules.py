"""Tables from foreign tensors to Hugging Face's: a rule gives name, axes and value changes, and applies in both directions.

Axes are symbols, one for each dimension of the foreign tensor: V vocab_size, W the vocabulary with padding, D hidden_size,
F intermediate_size, N attention heads, G key-value heads, H head_dim, L stacked layers, P stacked parts (one for each
Hugging Face name of the rule). "D N H" -> "N.H D" permutes and merges: HF[n * H + h, d] = foreign[d, n, h].
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, mapped
from jaxconv.errors import LayoutError
from jaxconv.json_files import JsonObject
from jaxconv.layouts._part_boxes import part_boxes

Sizes = Mapping[str, int]
LISTED = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a layout's table.

    `foreign` and `hf` are dotted names; `{i}` stands for a number. The Hugging Face layer is
    `layer[0] * (index on axis L) + layer[1] * i + layer[2]`. `values` names changes of VALUES, in the order
    in which they lead to Hugging Face's values.
    """

    foreign: str
    axes: str
    hf: tuple[str, ...]
    hf_axes: str
    values: tuple[str, ...] = ()
    layer: tuple[int, int, int] = (1, 1, 0)

    def pattern(self) -> re.Pattern[str]:
        """Matches the foreign names; its only group is the number."""
        return re.compile(re.escape(self.foreign).replace(r"\{i\}", r"(\d{1,6})"))


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A change of values and its inverse, on arrays with one axis a symbol."""

    to_hf: Callable[[Array, Sequence[str], Sizes], Array]
    from_hf: Callable[[Array, Sequence[str], Sizes], Array]
    elementwise: bool = True


def _scaled(power: float, symbol: str, root: str = "float32") -> Callable[[Array, Sequence[str], Sizes], Array]:
    """x * size ** power, computed in float32 and rounded once to the dtype of x; the square root has dtype `root`."""

    def change(x: Array, axes: Sequence[str], sizes: Sizes) -> Array:
        import ml_dtypes
        import numpy as np

        wide = np.result_type(x.dtype, np.float32)
        factor = wide.type(np.dtype(getattr(ml_dtypes, root, root)).type(math.sqrt(sizes[symbol])))
        scaled = x.astype(wide) * factor if power > 0 else x.astype(wide) / factor
        return np.asarray(scaled.astype(x.dtype))

    return change


def _shifted(by: float) -> Callable[[Array, Sequence[str], Sizes], Array]:
    def change(x: Array, axes: Sequence[str], sizes: Sizes) -> Array:
        import numpy as np

        return np.asarray((x.astype(np.result_type(x.dtype, np.float32)) + np.float32(by)).astype(x.dtype))

    return change


def _rotary(to_halves: bool) -> Callable[[Array, Sequence[str], Sizes], Array]:
    """Rotary pairs side by side <-> first members in the first half, second members in the second."""

    def change(x: Array, axes: Sequence[str], sizes: Sizes) -> Array:
        import numpy as np

        shape = (-1, 2) if to_halves else (2, -1)
        return x.take(np.arange(sizes["H"]).reshape(shape).T.reshape(-1), axes.index("H"))

    return change


VALUES: Mapping[str, ValueChange] = {
    "times sqrt(H)": ValueChange(_scaled(0.5, "H"), _scaled(-0.5, "H")),
    "over sqrt(D)": ValueChange(_scaled(-0.5, "D"), _scaled(0.5, "D")),
    "over bfloat16 sqrt(D)": ValueChange(_scaled(-0.5, "D", "bfloat16"), _scaled(0.5, "D", "bfloat16")),
    "minus one": ValueChange(_shifted(-1.0), _shifted(1.0)),
    "rope in halves": ValueChange(_rotary(True), _rotary(False), elementwise=False),
}


def axis_sizes(config: JsonObject) -> dict[str, int]:
    """The sizes that symbols stand for, from a config whose numbers the family's table has checked."""
    heads = config["num_attention_heads"]
    return {
        "V": config["vocab_size"],
        "D": config["hidden_size"],
        "F": config["intermediate_size"],
        "N": heads,
        "G": config.get("num_key_value_heads") or heads,
        "H": config.get("head_dim") or config["hidden_size"] // heads,
    }


def apply_rules(checkpoint: Checkpoint, rules: Sequence[Rule], sizes: Sizes, layout: str) -> Checkpoint:
    """The tensors under Hugging Face names, in the order of the source.

    Args:
        checkpoint: The tensors under foreign names.
        rules: The layout's table.
        sizes: What each symbol of the rules stands for.
        layout: The layout's name, for messages.

    Raises:
        LayoutError: A name matches no rule, a shape fits no rule, or two tensors would get the same name.
    """
    tensors: dict[str, TensorRef] = {}
    repeated = []
    matches, problems = _match(checkpoint, rules, sizes)
    for name, (rule, number) in matches.items():
        for hf_name, index in _parts(rule, checkpoint.tensors[name], number):
            if hf_name in tensors:
                repeated.append(f"{hf_name} (again from {name})")
            tensors[hf_name] = _tensor(hf_name, rule, checkpoint.tensors[name], index, sizes)
    listed = [
        f"{len(names)} {word} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
        for word, names in (*problems.items(), ("twice", repeated))
        if names
    ]
    if listed:
        raise LayoutError(
            f"{checkpoint.path}: tensors that layout {layout} does not explain: {'; '.join(listed)}. Expected the names of "
            f"{layout} with config.json's sizes; check --base, or choose another --layout."
        )
    return replace(checkpoint, tensors=tensors, shards=())


def undo_rules(output: Checkpoint, raw: Checkpoint, rules: Sequence[Rule], sizes: Sizes) -> dict[str, TensorRef]:
    """The inverse of `apply_rules`: the tensors of `output` under the names and in the shapes of `raw`.

    Args:
        output: Tensors under Hugging Face names.
        raw: The checkpoint with foreign names, whose names and shapes select the rules.
        rules: The layout's table.
        sizes: What each symbol of the rules stands for.

    Returns:
        Tensors by their name in `raw`; without those of which `output` has no part. A padded vocabulary is given without
        its padding.

    Raises:
        LayoutError: `output` has some of the parts of a foreign tensor and lacks others.
    """
    restored = {}
    for name, (rule, number) in _match(raw, rules, sizes)[0].items():
        names = {index: hf_name for hf_name, index in _parts(rule, raw.tensors[name], number)}
        missing = [hf_name for hf_name in names.values() if hf_name not in output.tensors]
        if len(missing) == len(names):
            continue
        if missing:
            raise LayoutError(
                f"{output.path} lacks {len(missing)} of the {len(names)} tensors that {name} holds: "
                f"{', '.join(missing[:LISTED])}. Expected all of them; convert again."
            )
        parts = {index: output.tensors[hf_name] for index, hf_name in names.items()}
        restored[name] = _restored(name, rule, parts, raw.tensors[name].shape, sizes)
    return restored


def _restored(
    name: str, rule: Rule, parts: Mapping[tuple[int, int], TensorRef], shape: tuple[int, ...], sizes: Sizes
) -> TensorRef:
    def read() -> Array:
        return to_foreign(rule, {index: ref.read() for index, ref in parts.items()}, sizes)

    symbols = rule.axes.split()
    shape = tuple(sizes["V"] if symbol == "W" else size for symbol, size in zip(symbols, shape, strict=True))
    dtype = next(iter(parts.values())).dtype
    return TensorRef(name, dtype, shape, read, lambda ids, axis: read().take(list(ids), axis))


def _match(
    checkpoint: Checkpoint, rules: Sequence[Rule], sizes: Sizes
) -> tuple[dict[str, tuple[Rule, int]], dict[str, list[str]]]:
    """The rule of each tensor with the number in its name, and descriptions of the tensors without one."""
    compiled = [(rule, rule.pattern()) for rule in rules]
    matches: dict[str, tuple[Rule, int]] = {}
    unknown, misshaped = [], []
    for name, ref in checkpoint.tensors.items():
        by_name = [(rule, match) for rule, pattern in compiled if (match := pattern.fullmatch(name))]
        fitting = [(rule, match) for rule, match in by_name if _fits(rule, ref.shape, sizes)]
        if not by_name:
            unknown.append(name)
        elif len(fitting) != 1:
            expected = " or ".join(f"[{_shown(rule, sizes)}]" for rule, _ in by_name)
            misshaped.append(f"{name} is {list(ref.shape)}, expected {'only one of ' if fitting else ''}{expected}")
        else:
            rule, match = fitting[0]
            matches[name] = rule, int(match[1]) if match.groups() else 0
    return matches, {"unknown": unknown, "of another shape": misshaped}


def _fits(rule: Rule, shape: tuple[int, ...], sizes: Sizes) -> bool:
    symbols = rule.axes.split()
    return len(symbols) == len(shape) and all(
        size >= sizes["V"] if symbol == "W" else size > 0 if symbol == "L" else size == _size(rule, symbol, sizes)
        for symbol, size in zip(symbols, shape, strict=True)
    )


def _size(rule: Rule, symbol: str, sizes: Sizes) -> int:
    return len(rule.hf) if symbol == "P" else sizes[symbol]


def _shown(rule: Rule, sizes: Sizes) -> str:
    open_ended = {"W": f">={sizes['V']}", "L": "layers"}
    return ", ".join(open_ended.get(symbol) or str(_size(rule, symbol, sizes)) for symbol in rule.axes.split())


def _parts(rule: Rule, ref: TensorRef, number: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """The names of the Hugging Face tensors that one foreign tensor holds, with their index on L and P."""
    symbols = rule.axes.split()
    layers = ref.shape[symbols.index("L")] if "L" in symbols else 1
    for index in range(layers):
        layer = rule.layer[0] * index + rule.layer[1] * number + rule.layer[2]
        for part, hf in enumerate(rule.hf):
            yield hf.replace("{i}", str(layer)), (index, part)


def _tensor(name: str, rule: Rule, ref: TensorRef, index: tuple[int, int], sizes: Sizes) -> TensorRef:
    symbols = rule.axes.split()
    alone = ref.computed and "L" in symbols  # then one layer is taken, because all would be computed for it
    at = {"L": 0 if alone else index[0], "P": index[1]}
    kept, groups = [symbol for symbol in symbols if symbol not in "LP"], [group.split(".") for group in rule.hf_axes.split()]
    order = [symbol for group in groups for symbol in group]
    shape = tuple(math.prod(sizes[symbol] for symbol in group) for group in groups)
    cut: dict[str, int | slice] = {**at, "W": slice(sizes["V"])}
    select = tuple(cut.get(symbol, slice(None)) for symbol in symbols)
    permutation = [[s.replace("W", "V") for s in kept].index(symbol) for symbol in order]

    def change(array: Array) -> Array:
        for value in rule.values:
            array = VALUES[value].to_hf(array, order, sizes)
        return array

    whole_heads = any(not VALUES[value].elementwise for value in rule.values)
    parts = part_boxes(ref, symbols, order, index, sizes, change, "H" if whole_heads else "")

    def read() -> Array:
        array = ref.take([index[0]], symbols.index("L")) if alone else mapped(ref)
        return change(array[select].transpose(permutation)).reshape(shape)

    def take(ids: Sequence[int], axis: int) -> Array:
        if len(kept) < len(symbols) or len(order) > len(groups) or whole_heads:
            return read().take(list(ids), axis)
        return change(ref.take(ids, permutation[axis]).transpose(permutation))[tuple(
            slice(None) if number == axis else slice(sizes[symbol]) for number, symbol in enumerate(order)
        )]  # fmt: skip

    if list(select) == [slice(None)] * len(symbols) and permutation == sorted(permutation) and not rule.values:
        if len(order) == len(groups):
            return ref.renamed(name)
        return replace(ref, name=name, shape=shape, read=read, take=take, boxes=parts)
    return TensorRef(name, ref.dtype, shape, read, take, boxes=parts)


def to_foreign(rule: Rule, parts: Mapping[tuple[int, int], Array], sizes: Sizes) -> Array:
    """The foreign array of a rule.

    Args:
        rule: The rule.
        parts: The Hugging Face arrays by their index on L and on P (0 where the rule lacks the axis).
        sizes: What each symbol stands for.

    Returns:
        The array with the rule's axes; W has the size of V, because padding is not kept.
    """
    import numpy as np

    symbols = [symbol.replace("W", "V") for symbol in rule.axes.split()]
    inner = [symbol for symbol in symbols if symbol not in "LP"]
    order = [symbol for group in rule.hf_axes.split() for symbol in group.split(".")]
    layers, count = (max(index[axis] for index in parts) + 1 for axis in (0, 1))
    arrays = {}
    for index, array in parts.items():
        split = array.reshape([sizes[symbol] for symbol in order])
        for value in reversed(rule.values):
            split = VALUES[value].from_hf(split, order, sizes)
        arrays[index] = split.transpose([order.index(symbol) for symbol in inner])
    stacked = np.stack([np.stack([arrays[layer, part] for part in range(count)]) for layer in range(layers)])
    absent = tuple(axis for axis, symbol in enumerate("LP") if symbol not in symbols)
    present = [symbol for symbol in ("L", "P", *inner) if symbol in symbols]
    return stacked.squeeze(absent).transpose([present.index(symbol) for symbol in symbols])
