"""Tables from foreign tensors to Hugging Face's: one rule says name, axes and value changes, and reads in both directions.

Axes are symbols, one for each dimension of the foreign tensor: V vocab_size, W the vocabulary with padding, D hidden_size,
F intermediate_size, N attention heads, G key-value heads, H head_dim, L stacked layers, P stacked parts (one for each
Hugging Face name of the rule). "D N H" -> "N.H D" permutes and merges: HF[n * H + h, d] = foreign[d, n, h].
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, mapped
from jaxconv.errors import LayoutError

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


def _halves(x: Array, axes: Sequence[str], sizes: Sizes) -> Array:
    """Rotary pairs that lie side by side -> first members in the first half, second members in the second."""
    import numpy as np

    axis, size = axes.index("H"), sizes["H"]
    return x.take(np.arange(size).reshape(size // 2, 2).T.reshape(-1), axis)


def _pairs(x: Array, axes: Sequence[str], sizes: Sizes) -> Array:
    import numpy as np

    axis, size = axes.index("H"), sizes["H"]
    return x.take(np.arange(size).reshape(2, size // 2).T.reshape(-1), axis)


VALUES: Mapping[str, ValueChange] = {
    "times sqrt(H)": ValueChange(_scaled(0.5, "H"), _scaled(-0.5, "H")),
    "over sqrt(D)": ValueChange(_scaled(-0.5, "D"), _scaled(0.5, "D")),
    "over bfloat16 sqrt(D)": ValueChange(_scaled(-0.5, "D", "bfloat16"), _scaled(0.5, "D", "bfloat16")),
    "minus one": ValueChange(_shifted(-1.0), _shifted(1.0)),
    "rope in halves": ValueChange(_halves, _pairs, elementwise=False),
}


def axis_sizes(config: Mapping[str, Any]) -> dict[str, int]:
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

    Raises `LayoutError` listing names that no rule explains, shapes that no rule gives, and names that meet.
    """
    compiled = [(rule, rule.pattern()) for rule in rules]
    tensors: dict[str, TensorRef] = {}
    unknown, misshaped, doubled = [], [], []
    for name, ref in checkpoint.tensors.items():
        named = [(rule, match) for rule, pattern in compiled if (match := pattern.fullmatch(name))]
        fitting = [(rule, match) for rule, match in named if _fits(rule, ref.shape, sizes)]
        if not named:
            unknown.append(name)
        elif len(fitting) != 1:
            wanted = " or ".join(f"[{_shown(rule, sizes)}]" for rule, _ in named)
            misshaped.append(f"{name} is {list(ref.shape)}, expected {'only one of ' if fitting else ''}{wanted}")
        else:
            rule, match = fitting[0]
            for hf_name, made in _expand(rule, ref, int(match[1]) if match.groups() else 0, sizes):
                if hf_name in tensors:
                    doubled.append(f"{hf_name} (again from {name})")
                tensors[hf_name] = made
    found = [
        f"{len(names)} {word} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
        for word, names in (("unknown", unknown), ("of another shape", misshaped), ("twice", doubled))
        if names
    ]
    if found:
        raise LayoutError(
            f"{checkpoint.path}: tensors that layout {layout} does not explain: {'; '.join(found)}. Expected the names of "
            f"{layout} with config.json's sizes; check --base, or choose another --layout."
        )
    return replace(checkpoint, tensors=tensors, shards=())


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


def _expand(rule: Rule, ref: TensorRef, number: int, sizes: Sizes) -> Iterator[tuple[str, TensorRef]]:
    """The Hugging Face tensors that one foreign tensor holds."""
    symbols = rule.axes.split()
    layers = ref.shape[symbols.index("L")] if "L" in symbols else 1
    for index in range(layers):
        layer = rule.layer[0] * index + rule.layer[1] * number + rule.layer[2]
        for part, hf in enumerate(rule.hf):
            name = hf.replace("{i}", str(layer))
            yield name, _tensor(name, rule, ref, {"L": index, "P": part}, sizes)


def _tensor(name: str, rule: Rule, ref: TensorRef, at: Mapping[str, int], sizes: Sizes) -> TensorRef:
    symbols = rule.axes.split()
    kept = [symbol for symbol in symbols if symbol not in "LP"]
    groups = [group.split(".") for group in rule.hf_axes.split()]
    order = [symbol for group in groups for symbol in group]
    shape = tuple(math.prod(sizes[symbol] for symbol in group) for group in groups)
    select = tuple(
        at[symbol] if symbol in "LP" else slice(sizes["V"]) if symbol == "W" else slice(None) for symbol in symbols
    )
    permutation = [[s.replace("W", "V") for s in kept].index(symbol) for symbol in order]

    def change(array: Array) -> Array:
        for value in rule.values:
            array = VALUES[value].to_hf(array, order, sizes)
        return array

    def read() -> Array:
        return change(mapped(ref)[select].transpose(permutation)).reshape(shape)

    def take(ids: Sequence[int], axis: int) -> Array:
        if len(kept) < len(symbols) or len(order) > len(groups) or not all(VALUES[v].elementwise for v in rule.values):
            return read().take(list(ids), axis)
        return change(ref.take(ids, permutation[axis]).transpose(permutation))[tuple(
            slice(None) if number == axis else slice(sizes[symbol]) for number, symbol in enumerate(order)
        )]  # fmt: skip

    if list(select) == [slice(None)] * len(symbols) and permutation == sorted(permutation) and not rule.values:
        if len(order) == len(groups):
            return ref.renamed(name)
        return replace(ref, name=name, shape=shape, read=read, take=take)
    return TensorRef(name, ref.dtype, shape, read, take)


def to_foreign(rule: Rule, parts: Mapping[tuple[int, int], Array], sizes: Sizes, padded: int | None = None) -> Array:
    """The inverse: the foreign array of the Hugging Face arrays at (index on L, part); `padded` is the size of W."""
    import numpy as np

    symbols = rule.axes.split()
    kept = [symbol.replace("W", "V") for symbol in symbols if symbol not in "LP"]
    order = [symbol for group in rule.hf_axes.split() for symbol in group.split(".")]
    layers, count = (max(index[axis] for index in parts) + 1 for axis in (0, 1))
    made = {}
    for index, array in parts.items():
        split = array.reshape([sizes[symbol] for symbol in order])
        for value in reversed(rule.values):
            split = VALUES[value].from_hf(split, order, sizes)
        moved = split.transpose([order.index(symbol) for symbol in kept])
        if "W" in symbols and padded is not None:
            axis = kept.index("V")
            moved = np.pad(moved, [(0, padded - sizes["V"] if number == axis else 0) for number in range(moved.ndim)])
        made[index] = moved
    stacked = np.stack([np.stack([made[layer, part] for part in range(count)]) for layer in range(layers)])
    leading = ["L", "P", *kept]
    drop = tuple(number for number, symbol in enumerate(("L", "P")) if symbol not in symbols)
    present = [symbol for symbol in leading if symbol in [s.replace("W", "V") for s in symbols]]
    return stacked.squeeze(drop).transpose([present.index(symbol.replace("W", "V")) for symbol in symbols])
