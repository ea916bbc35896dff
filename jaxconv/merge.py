"""Merges an adapter into its base: every tensor is changed when it is read."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from jaxconv.adapter import FLOATS, Adapter, Factors
from jaxconv.checkpoint import Array, Checkpoint, TensorRef, numpy_dtype
from jaxconv.errors import RefusedError, SourceError
from jaxconv.families import Family, HeadNames
from jaxconv.readers import NOT_APPLIED
from jaxconv.storage import File

STRIP = 1 << 20  # bytes of float32 rows that are merged at once: what caches hold
THREADS = min(4, os.cpu_count() or 1)
LISTED = 5
RESIZE = (
    "from transformers import {loader}, AutoTokenizer; "
    "model = {loader}.from_pretrained({base!r}, dtype='auto'); model.resize_token_embeddings({rows}); "
    "model.save_pretrained({target!r}); AutoTokenizer.from_pretrained({tokenizer!r}).save_pretrained({target!r})"
)


def merge_adapter(checkpoint: Checkpoint, adapter: Adapter, family: Family, tied: bool) -> Checkpoint:
    """The base's tensors with the adapter in them.

    Args:
        checkpoint: The base, under Hugging Face names.
        adapter: The adapter.
        family: The base's family, in the spelling of its names.
        tied: Whether the base uses its embedding as the LM head.

    Raises:
        SourceError: The base lacks a tensor that the adapter changes, or has it in another shape.
        RefusedError: The base is tied, and with the adapter head and embedding would differ.
    """
    tensors = dict(checkpoint.tensors)
    replaced = dict(adapter.replaced)
    _check_vocabulary(checkpoint, adapter, family)
    if tied:
        replaced = _untied_ends_removed(checkpoint, adapter, family.head)
    changed = dict.fromkeys([*adapter.factors, *replaced])
    missing = sorted(name for name in changed if name not in tensors)
    if missing:
        raise SourceError(
            f"the adapter {adapter.path} changes {len(missing)} tensors that the base lacks: {', '.join(missing[:LISTED])}. "
            f"It was trained on {adapter.base}; name that as the source."
        )
    for name, ref in replaced.items():
        if ref.shape != tensors[name].shape:
            raise SourceError(
                f"the adapter's {name} is {list(ref.shape)}; expected {list(tensors[name].shape)}, as in the base. "
                f"It was trained on {adapter.base}; name that as the source."
            )
        tensors[name] = _as_stored(ref, name, tensors[name].dtype)
    for name, factors in adapter.factors.items():
        tensors[name] = _merged(tensors[name], factors)
    note = f"the adapter {adapter.path.name} is merged into {len(changed)} tensors, in float32 and rounded once."
    notes = checkpoint.notes
    if _same_directory(adapter.path, checkpoint.path):
        notes = tuple(text for text in notes if NOT_APPLIED not in text)
    files = {**checkpoint.files, **adapter.files}
    return replace(checkpoint, tensors=tensors, files=files, notes=(*notes, note))


def _same_directory(adapter: File, checkpoint: str) -> bool:
    if isinstance(adapter, Path):
        return adapter.resolve() == Path(checkpoint).resolve()
    return str(adapter) == checkpoint


def _check_vocabulary(checkpoint: Checkpoint, adapter: Adapter, family: Family) -> None:
    base = checkpoint.tensors.get(family.head.embedding)
    for name in (family.head.embedding, family.head.weight):
        ref = adapter.replaced.get(name)
        if base is None or ref is None or ref.shape[1:] != base.shape[1:] or ref.shape == base.shape:
            continue
        tokenizer = adapter.path if (adapter.path / "tokenizer_config.json").is_file() else checkpoint.path
        target = f"{checkpoint.path}-resized"
        loader = "AutoModelForCausalLM" if family.composite is None else "AutoModelForImageTextToText"
        script = RESIZE.format(
            loader=loader, base=checkpoint.path, rows=ref.shape[0], target=target, tokenizer=str(tokenizer)
        )
        convert = ["jaxconv", "convert", target, "OUTPUT", "--adapter", str(adapter.path)]
        raise SourceError(
            f"the adapter {adapter.path} was trained with a resized vocabulary: its {name} has {ref.shape[0]} rows, the base "
            f"has {base.shape[0]}. Resize the base and convert that (the adapter brings the new rows): "
            f"{shlex.join(['python', '-c', script])} && {shlex.join(convert)}"
        )


def _untied_ends_removed(checkpoint: Checkpoint, adapter: Adapter, head: HeadNames) -> dict[str, TensorRef]:
    """The adapter's whole tensors, without a head and an embedding that leave a tied base as it is.

    Raises `RefusedError` where head and embedding would differ.
    """
    replaced = dict(adapter.replaced)
    both = (head.embedding, head.weight)
    ends = {name: replaced.pop(name) for name in both if name in replaced}
    factors = [name for name in adapter.factors if name in both]
    base = checkpoint.tensors.get(head.embedding)
    if not factors and base is not None:
        stored = [_as_stored(ref, name, base.dtype) for name, ref in ends.items()]
        if all(_equal(ref, base) for ref in stored):
            return replaced
        if len(stored) == 2 and _equal(*stored):
            return replaced | {name: ref for name, ref in ends.items() if name in checkpoint.tensors}
    if ends or factors:
        raise RefusedError(
            f"the adapter {adapter.path} changes {', '.join(sorted({*ends, *factors}))}, but the base ties head to "
            "embedding; merged they would differ. Merge it with PEFT, set tie_word_embeddings to false, and convert that."
        )
    return replaced


def _equal(x: TensorRef, y: TensorRef) -> bool:
    """Whether two matrices of one dtype hold the same values, compared some rows at a time."""
    if x.shape != y.shape:
        return False
    step = max(1, (1 << 24) // max(1, x.nbytes // max(1, x.shape[0])))
    blocks = (range(start, min(start + step, x.shape[0])) for start in range(0, x.shape[0], step))
    return all(bool((x.take(rows, 0) == y.take(rows, 0)).all()) for rows in blocks)


def _merged(base: TensorRef, factors: Factors) -> TensorRef:
    """The base's tensor plus the scaled product of the factors.

    Every element is summed up over the rank in the same order, by multiplications and additions of float32, so its value
    depends neither on the rows that are read together nor on threads. A BLAS gives no such promise.
    """
    import numpy as np

    left, right = (factors.a, factors.b) if factors.transposed else (factors.b, factors.a)
    rows, columns = (left.shape[1], right.shape[0]) if factors.transposed else (left.shape[0], right.shape[1])
    if base.shape != (rows, columns) or base.dtype not in FLOATS or factors.a.shape[0] != factors.b.shape[1]:
        raise SourceError(
            f"the adapter's factors of {base.name} make {[rows, columns]}; the base has {list(base.shape)} {base.dtype}. "
            "It was trained on another base; name that as the source."
        )

    def read_factors() -> tuple[Array, Array]:
        tall, wide = (_finite(ref) for ref in (left, right))
        return (tall.T, wide.T) if factors.transposed else (tall, wide)

    def change(stored: Array, tall: Array, wide: Array) -> Array:
        """Adds the product of tall [rows, r] and wide [r, columns] to the rows, in place."""
        scaling = np.float32(factors.scaling)
        wide = np.ascontiguousarray(wide)
        height = max(1, STRIP // max(1, 4 * stored.shape[1]))

        def strip(first: int) -> None:
            part = slice(first, first + height)
            total = tall[part, :1] * wide[0]
            term = np.empty_like(total)
            for k in range(1, len(wide)):
                np.multiply(tall[part, k : k + 1], wide[k], out=term)
                total += term
            total *= scaling
            total += stored[part].astype(np.float32)
            stored[part] = total.astype(stored.dtype)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(strip, range(0, len(stored), height)))
        return stored

    def read() -> Array:
        return change(np.array(base.read(), numpy_dtype(base.dtype), order="C"), *read_factors())

    def take(ids: Sequence[int], axis: int) -> Array:
        tall, wide = read_factors()
        if axis == 0:
            return change(np.array(base.take(ids, 0), order="C"), tall[list(ids)], wide)
        return change(np.array(base.take(ids, 1), order="C"), tall, wide[:, list(ids)])

    return TensorRef(base.name, base.dtype, base.shape, read, take)


def _finite(ref: TensorRef) -> Array:
    """A factor in float32. Raises `SourceError` for NaN or infinity in it."""
    import numpy as np

    array = ref.read().astype(np.float32)
    if not np.isfinite(array).all():
        raise SourceError(f"the adapter's {ref.name} holds NaN or infinite values; expected finite ones. Train it again.")
    return array


def _as_stored(ref: TensorRef, name: str, dtype: str) -> TensorRef:
    """A replacement in the base's dtype, as PEFT's merged model has it."""
    target = numpy_dtype(dtype)
    return TensorRef(
        name, dtype, ref.shape, lambda: ref.read().astype(target), lambda ids, axis: ref.take(ids, axis).astype(target)
    )
