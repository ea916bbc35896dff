"""Every backbone tensor of the output against the source's own arrays, in bounded pieces on several threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jaxconv.checkpoint import mapped
from jaxconv.verification.array_comparison import Merge, compare_arrays
from jaxconv.verification.byte_comparison import compare_bytes
from jaxconv.verification.output import Stored
from jaxconv.verification.source_files import FLOATS, Located, SourceFiles


@dataclass(frozen=True, slots=True)
class Structure:
    """The backbone.

    Attributes:
        tensors: How many backbone tensors the source has.
        identical: How many of them the output has: the source's bits where values are only moved or cast, and within one
            unit in the last place where a layout or an adapter computes them.
        mismatched: The names of the others, and of tensors that the output has and the source has not.
        findings: A sentence for each of these.
    """

    tensors: int
    identical: int
    mismatched: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor to compare: its name, where the source has it, and what the output has."""

    name: str
    located: Located
    stored: Stored


def compare_tensors(
    names: Sequence[str],
    source: SourceFiles,
    output: Mapping[str, Stored],
    *,
    dtype: str | None = None,
    merges: Mapping[str, Merge] | None = None,
    left_out: Callable[[str], bool] = lambda name: False,
    score: str = "score",
) -> Structure:
    """Compares tensors of the output with the source's arrays, bytes where these are of one form, values elsewhere.

    Args:
        names: The backbone tensors that the classifier must have, Hugging Face's names.
        source: The source's arrays.
        output: The output's tensors by name.
        dtype: The safetensors dtype that floating-point tensors are cast to.
        merges: How an adapter changes tensors, by name.
        left_out: Whether an array of the source has no place in a classifier, as a draft head has none.
        score: The name of the output's score layer.
    """
    merges = merges or {}
    wrong: dict[str, str] = {}
    pairs: list[Pair] = []
    for name in names:
        stored = output.get(name)
        if stored is None:
            wrong[name] = "is missing from the output."
            continue
        entry = source.locate(name, stored.shape)
        if entry is None:
            wrong[name] = f"is {stored.dtype} {list(stored.shape)}; {_without_place(name, source)}"
            continue
        expected = dtype if dtype is not None and entry.ref.dtype in FLOATS else entry.ref.dtype
        if stored.dtype != expected:
            wrong[name] = f"is {stored.dtype} {list(stored.shape)}; expected {expected} {list(stored.shape)}."
        else:
            pairs.append(Pair(name, entry, stored))
    wrong |= dict(_compare(pairs, source, merges))
    identical = len(names) - len(wrong)
    for name in sorted(output.keys() - set(names) - {f"{score}.weight", f"{score}.bias"}):
        wrong[name] = "is in the output and is not a tensor of the classifier."
    ordered = sorted(wrong, key=[*names, *wrong].index)
    missing = [f"the source's array {name} is in no tensor of the output." for name in source.unaccounted(names, left_out)]
    return Structure(
        len(names), identical, tuple(ordered), (*(f"tensor {name} {wrong[name]}" for name in ordered), *missing)
    )  # fmt: skip


def _without_place(name: str, source: SourceFiles) -> str:
    """Why a tensor of the output comes from no array of the source."""
    shapes = [f"{ref.name} {list(ref.shape)}" for ref in source.named(name)]
    return f"the source has {' and '.join(shapes)}, which does not give that." if shapes else "the source has no such array."


def _compare(pairs: Sequence[Pair], source: SourceFiles, merges: Mapping[str, Merge]) -> Iterator[tuple[str, str]]:
    """The names that differ, and how."""
    as_bytes = [pair for pair in pairs if pair.located.stored is not None and pair.name not in merges]
    # Large ones first, so that no thread is left alone with one at the end.
    as_bytes.sort(key=lambda pair: -pair.stored.nbytes)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for text in pool.map(_compare_bytes, as_bytes):
            if text is not None:
                yield text
    # An array may hold many tensors (stacked layers): it is read once, and no other at the time.
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.located.stored is None or pair.name in merges:
            groups.setdefault(pair.located.ref.name, []).append(pair)
    for group in groups.values():
        yield from _compare_arrays(group, source, merges)
    yield from _incomplete(groups)


def _compare_bytes(pair: Pair) -> tuple[str, str] | None:
    assert pair.located.stored is not None
    different, first = compare_bytes(pair.located.stored, pair.stored)
    return (pair.name, _difference(pair.stored, different, first)) if different else None


def _compare_arrays(group: Sequence[Pair], source: SourceFiles, merges: Mapping[str, Merge]) -> Iterator[tuple[str, str]]:
    array = mapped(group[0].located.ref)
    for pair in group:
        part = pair.located.part(pair.stored.shape, source.sizes, array)
        tensor = pair.stored.array(pair.name)
        different, first = compare_arrays(
            part, pair.located.place, pair.stored, tensor, source.sizes, merges.get(pair.name)
        )  # fmt: skip
        if different:
            yield pair.name, _difference(pair.stored, different, first)


def _incomplete(groups: Mapping[str, Sequence[Pair]]) -> Iterator[tuple[str, str]]:
    """Stacked arrays that hold more layers or parts than the output has."""
    for group in groups.values():
        ref, place = group[0].located.ref, group[0].located.place
        stacked = [size for axis, size in zip(place.axes.split(), ref.shape, strict=False) if axis in "lp"]
        if len(group) < math.prod(stacked):
            yield group[0].name, f"is one of {len(group)} from {ref.name}, which holds {math.prod(stacked)}."


def _difference(stored: Stored, different: int, first: int) -> str:
    total = math.prod(stored.shape)
    return f"differs from the source in {different} of {total} elements, first in element {first} of {stored.path.name}."
