"""Finds the model's parameters among the leaves of a saved tree, and names them.

Training loops save parameters beside optimizer state, step counters and wrappers of their own (MaxText
`params.params`, Tunix `model_params`, flax TrainState `params`, NNX a trailing `value`). Optimizer state repeats the
weights' names, so it is left out by its key, never by shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jaxconv.errors import RefusedError

OPTIMIZER = frozenset({"opt_state", "optimizer", "optimizer_state", "opt", "tx", "ema_params", "ema"})
COUNTERS = frozenset({"step", "rng", "rngs", "count", "key", "dropout_rng"})
COUNTER_KEYS = frozenset((key,) for key in COUNTERS)
WRAPPERS = frozenset({"params", "model_params", "base", "state", "train_state"})
ADAPTER_MARKS = ("lora_a", "lora_b", "lora_A", "lora_B")

Keys = tuple[str, ...]


def parameter_names(leaves: Iterable[Keys], where: str) -> tuple[dict[Keys, str], tuple[str, ...]]:
    """The parameters among the leaves of a saved tree.

    Args:
        leaves: The path of keys of every leaf.
        where: The checkpoint, for messages.

    Returns:
        The parameters' dotted names by path of keys, and notes on what was ignored.

    Raises:
        RefusedError: The tree holds only optimizer state or adapters, or adapters that are not merged.
    """
    paths = [tuple(keys) for keys in leaves]
    states = [keys for keys in paths if not OPTIMIZER.isdisjoint(keys)]
    counters = [keys for keys in paths if OPTIMIZER.isdisjoint(keys) and _inner(keys)[-1:] in COUNTER_KEYS]
    left = {*states, *counters}
    kept = [keys for keys in paths if keys and keys not in left]
    if not kept:
        listed = ", ".join(sorted({keys[0] for keys in paths if keys})[:5]) or "nothing"
        raise RefusedError(
            f"{where} holds no model parameters, at most optimizer state and counters (it has {listed}). "
            "Point at the checkpoint item with the parameters (items, model_params, params)."
        )
    _refuse_adapters(kept, where)
    names = {keys: ".".join(_inner(keys)).replace("/", ".") for keys in kept}
    while _wrapped(names):
        names = {keys: name.split(".", 1)[1] for keys, name in names.items()}
    ignored = [(states, "optimizer state"), (counters, "counters and random keys")]
    return names, tuple(f"{what} ignored ({len(paths)} arrays)." for paths, what in ignored if paths)


def _wrapped(names: Mapping[Keys, str]) -> bool:
    """Whether all names share a wrapper's prefix; `model` counts as one only around Hugging Face's own `model`."""
    first = {name.split(".")[0] for name in names.values()}
    if len(first) != 1 or not all("." in name for name in names.values()):
        return False
    return first <= WRAPPERS or (first == {"model"} and any(name.startswith("model.model.") for name in names.values()))


def _inner(keys: Keys) -> Keys:
    """The path without the `value` that NNX appends to every variable."""
    return keys[:-1] if len(keys) > 1 and keys[-1] in ("value", "raw_value") else keys


def _refuse_adapters(kept: list[Keys], where: str) -> None:
    marked = [keys for keys in kept if any(mark in key for key in keys for mark in ADAPTER_MARKS)]
    if not marked:
        return
    only = len(marked) == len(kept)
    raise RefusedError(
        f"{where} holds {'only LoRA adapters' if only else 'LoRA adapters that are not merged'} "
        f"({len(marked)} tensors, {'.'.join(marked[0])}, ...); rank and alpha are not stored with them, so they cannot be "
        "merged exactly here. Merge them in the library that trained them and save the whole model."
    )
