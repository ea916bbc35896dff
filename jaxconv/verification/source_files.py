"""The source's side: its own arrays before any layout, and where each Hugging Face tensor lies among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxconv.checkpoint import Array, Checkpoint, TensorRef, numpy_dtype
from jaxconv.families import text_config
from jaxconv.json_files import JsonObject
from jaxconv.model import Model, ReadOptions
from jaxconv.sources import Source
from jaxconv.storage import is_address, need_here
from jaxconv.verification.array_comparison import Merge
from jaxconv.verification.jax_trees import plain_arrays
from jaxconv.verification.libraries import Place, axis_sizes, libraries
from jaxconv.verification.output import Stored, stored_tensors

FLOATS = ("F64", "F32", "F16", "BF16")
# What old files carry and no model reads: tables that are computed from the config.
UNUSED = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|(cos|sin)_cached)|.*\.attn\.(masked_)?bias")


@dataclass(frozen=True, slots=True)
class Located:
    """A Hugging Face tensor among the source's arrays: the array, where in it, and its bytes where it is a file's."""

    ref: TensorRef
    place: Place
    stored: Stored | None

    def rows(self, ids: Sequence[int]) -> Array:
        """Rows of a head or embedding, with the values that the source keeps.

        Args:
            ids: The token ids of the rows.

        Returns:
            [len(ids), hidden_size], or [len(ids)] of a bias.
        """
        import numpy as np

        if self.stored is not None:
            return self.stored.rows(self.ref.name, ids)
        axis = next((number for number, axis in enumerate(self.place.axes.split()) if axis in "WVO"), 0)
        return np.moveaxis(self.ref.take(ids, axis), axis, 0)

    def part(self, hf_shape: tuple[int, ...], sizes: Mapping[str, int], array: Array | None = None) -> Array:
        """What the source's array holds of the tensor, axes as they lie there.

        Args:
            hf_shape: The shape of the Hugging Face tensor.
            sizes: The sizes of merged axes, by letter.
            array: The source's array, if it has been read already.
        """
        axes = self.place.axes.split()
        if array is None and self.ref.computed and "l" in axes:
            alone = self.ref.take([self.place.at["l"]], axes.index("l"))
            return replace(self.place, at={**self.place.at, "l": 0}).part(alone, hf_shape, sizes)
        return self.place.part(self.ref.read() if array is None else array, hf_shape, sizes)


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The arrays of a source by their own names.

    Attributes:
        raw: The arrays as the reader gives them, before any layout.
        layout: The layout of their names.
        config: The language model's part of config.json.
        sizes: The sizes of merged axes.
        heads: The names of the LM head and its bias.
        stored: Where safetensors files keep them, as the safetensors library reads their headers.
        findings: What is wrong with the files, a sentence each.
        wide: Of a tree with quantised arrays, all arrays again with those in float32; the head is made of them.
    """

    raw: Mapping[str, TensorRef]
    layout: str
    config: JsonObject
    sizes: Mapping[str, int]
    heads: tuple[str, ...]
    stored: Mapping[str, Stored]
    findings: tuple[str, ...] = ()
    wide: Mapping[str, TensorRef] = field(default_factory=dict)

    def unrounded(self) -> SourceFiles:
        """The arrays as the head is made of them: those that were quantised in float32."""
        return replace(self, raw=self.wide) if self.wide else self

    def locate(self, name: str, shape: tuple[int, ...]) -> Located | None:
        """Where a Hugging Face tensor lies, or None.

        Args:
            name: The Hugging Face name.
            shape: The shape of the Hugging Face tensor.
        """
        for place in libraries()[self.layout].places(name, self.config, self.layout):
            ref = self.raw.get(place.name)
            if ref is not None and place.fits(ref.shape, shape, self.sizes):
                return Located(ref, place, self.stored.get(place.name) if place.hf is None else None)
        return None

    def named(self, name: str) -> list[TensorRef]:
        """The arrays of any shape under one of the names that the layout has for the Hugging Face tensor `name`."""
        places = libraries()[self.layout].places(name, self.config, self.layout)
        return [self.raw[place] for place in dict.fromkeys(place.name for place in places) if place in self.raw]

    def unaccounted(self, names: Iterable[str], left_out: Callable[[str], bool]) -> list[str]:
        """The arrays that hold none of the tensors of the output; heads and unused tables are not among them.

        Args:
            names: The Hugging Face names of the output's tensors.
            left_out: Whether the array of a name has no place in a classifier.

        Returns:
            The names of the arrays in the source.
        """
        known = {ref.name for name in (*names, *self.heads) for ref in self.named(name)}
        return [name for name in self.raw if name not in known and not UNUSED.fullmatch(name) and not left_out(name)]

    def checkpoint(
        self, names: Iterable[str], output: Mapping[str, Stored], merges: Mapping[str, Merge], dtype: str | None = None
    ) -> Checkpoint:
        """The source as a checkpoint of Hugging Face tensors, read through `places` and not through `jaxconv.layouts`.

        Args:
            names: The tensors.
            output: The output's tensors, whose shapes these must have.
            merges: How an adapter changes tensors, by name.
            dtype: The safetensors dtype that floating-point tensors are cast to.
        """
        tensors = {}
        for name in names:
            located = self.locate(name, output[name].shape)
            if located is not None:
                tensors[name] = _cast(self._tensor(name, located, output[name].shape, merges.get(name)), dtype)
        return Checkpoint("source", "the source", tensors)

    def _tensor(self, name: str, located: Located, shape: tuple[int, ...], merge: Merge | None) -> TensorRef:
        if located.place.hf is None and merge is None:
            return located.ref.renamed(name)

        def read() -> Array:
            import numpy as np

            place = located.place
            values = place.moved_back(located.part(shape, self.sizes), shape, self.sizes)
            if place.exact and merge is None:
                return values
            wide = (values.astype(np.float64) - place.plus) / place.times
            return (wide if merge is None else merge(wide, slice(0, shape[0]))[0]).astype(values.dtype)

        return TensorRef(name, located.ref.dtype, shape, read, lambda ids, axis: read().take(list(ids), axis))

    def is_stacked(self, names: Iterable[str], output: Mapping[str, Stored]) -> bool:
        """Whether an array holds several layers, so that reading the tensors in any order reads it many times.

        Args:
            names: The Hugging Face names of the tensors to read.
            output: The output's tensors by name, which give the shapes.
        """
        entries = (self.locate(name, output[name].shape) for name in names if name in output)
        return any(entry is not None and "l" in entry.place.axes.split() for entry in entries)


def read_source(model: Model, raw: Checkpoint) -> SourceFiles:
    """The arrays of a source.

    Args:
        model: The source as the conversion reads it; only its layout, config and file paths are used.
        raw: The source's checkpoint before any layout.
    """
    config = text_config(model.config)
    findings: list[str] = []
    stored: dict[str, Stored] = {}
    if raw.format == "safetensors":
        paths = dict.fromkeys(ref.extent.path for ref in raw.tensors.values() if ref.extent is not None)
        for path in (path for path in paths if isinstance(path, Path)):
            stored |= stored_tensors(path, findings)
        differing = sorted(raw.tensors.keys() ^ stored.keys())
        if differing and not findings:
            findings.append(f"the safetensors library reads other names from the source than jaxconv: {_some(differing)}.")
    heads = tuple(name for name in (model.family.head.weight, model.family.head.bias) if name is not None)
    arrays, wide = raw.tensors, dict[str, TensorRef]()
    if model.dequantised is not None:
        arrays, wide = plain_arrays(raw.tensors), plain_arrays(raw.tensors, "F32")
    return SourceFiles(arrays, model.layout, config, axis_sizes(config), heads, stored, tuple(findings), wide)


def check_here(source: Source, raw: Checkpoint, options: ReadOptions) -> None:
    """Refuses what lies in a store and is read by other libraries, which need files.

    Args:
        source: The source.
        raw: Its checkpoint.
        options: How it is read; the adapter may lie in a store too.

    Raises:
        SourceError: It has to be downloaded; the message has the command.
    """
    if source.address is not None and raw.format == "safetensors":
        raise need_here("verify has the safetensors library read", source.address)
    if options.adapter is not None and is_address(options.adapter):
        raise need_here("verify reads an adapter's", str(options.adapter))


def _cast(ref: TensorRef, dtype: str | None) -> TensorRef:
    """A tensor that is rounded to another dtype when it is read; integers stay."""
    if dtype is None or ref.dtype == dtype or ref.dtype not in FLOATS:
        return ref
    target = numpy_dtype(dtype)
    return TensorRef(
        ref.name, dtype, ref.shape, lambda: ref.read().astype(target), lambda ids, axis: ref.take(ids, axis).astype(target)
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
