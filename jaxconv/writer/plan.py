"""Which output file holds which tensor: decided from names, sizes and source files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.checkpoint import DTYPE_BITS, Checkpoint, TensorRef, numpy_dtype
from jaxconv.readers.safetensors import INDEX, SINGLE

SCORE_FILE = "model-score.safetensors"
METADATA = {"format": "pt"}


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One safetensors file of the output. `verbatim` is the source file it equals byte for byte, if it does."""

    name: str
    tensors: tuple[TensorRef, ...]
    verbatim: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return sum(ref.nbytes for ref in self.tensors)


def cast(ref: TensorRef, dtype: str | None) -> TensorRef:
    """The tensor in another floating dtype, converted when read (round to nearest even); integers stay."""
    if dtype is None or ref.dtype == dtype or ref.dtype not in ("F64", "F32", "F16", "BF16"):
        return ref
    target = numpy_dtype(dtype)
    return TensorRef(
        ref.name,
        dtype,
        ref.shape,
        lambda: ref.read().astype(target),
        lambda ids, axis: ref.take(ids, axis).astype(target),
    )


def plan_files(
    checkpoint: Checkpoint,
    backbone: Sequence[str],
    score: Sequence[TensorRef],
    *,
    dtype: str | None,
    keep_files: bool,
    max_shard_bytes: int,
) -> tuple[OutputFile, ...]:
    """The output files for the backbone tensors and the score tensors.

    Source shards whose tensors all stay are taken verbatim, others are rewritten under their own name. With
    `keep_files` (link, reflink) a single source file is kept whole too, as a shard beside the score;
    without it a single file gives a single file. Sources that are not shards yet, or are cast, are cut
    into shards of at most `max_shard_bytes`.
    """
    kept = set(backbone)
    if not checkpoint.shards or dtype is not None or checkpoint.metadata.get("format") == "flax":
        tensors = [cast(checkpoint.tensors[name], dtype) for name in backbone]
        return _cut([*tensors, *score], max_shard_bytes)
    files = []
    for shard in checkpoint.shards:
        tensors = [checkpoint.tensors[name] for name in shard.tensors if name in kept]
        if tensors:
            whole = len(tensors) == len(shard.tensors) and all(ref.extent is not None for ref in tensors)
            files.append(OutputFile(shard.path.name, tuple(tensors), shard.path if whole else None))
    if len(checkpoint.shards) == 1 and checkpoint.shards[0].path.name == SINGLE:
        only = files[0]
        if not (keep_files and only.verbatim):
            return (OutputFile(SINGLE, (*only.tensors, *score)),)
        # Beside an index no file may be called model.safetensors: transformers would load it alone.
        files = [OutputFile("model-backbone.safetensors", only.tensors, only.verbatim)]
    return (*files, OutputFile(SCORE_FILE, tuple(score)))


def _cut(tensors: Sequence[TensorRef], max_shard_bytes: int) -> tuple[OutputFile, ...]:
    groups: list[list[TensorRef]] = [[]]
    filled = 0
    for ref in tensors:
        if groups[-1] and filled + ref.nbytes > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(ref)
        filled += ref.nbytes
    if len(groups) == 1:
        return (OutputFile(SINGLE, tuple(groups[0])),)
    count = len(groups)
    return tuple(
        OutputFile(f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group)) for number, group in enumerate(groups, 1)
    )


def assign(files: Sequence[OutputFile], processes: int) -> tuple[int, ...]:
    """The process that writes each file: by bytes, largest first to whoever has least; the score file is the first's."""
    owners, load = [0] * len(files), [0] * processes
    for number in sorted(range(len(files)), key=lambda number: -files[number].nbytes):
        if files[number].name != SCORE_FILE:
            owners[number] = load.index(min(load))
        load[owners[number]] += files[number].nbytes
    return tuple(owners)


def index_json(files: Sequence[OutputFile]) -> tuple[str, str] | None:
    """Name and text of the index for several files; None for the single `model.safetensors`."""
    if [file.name for file in files] == [SINGLE]:
        return None
    weight_map = {ref.name: file.name for file in files for ref in file.tensors}
    document = {
        "metadata": {
            "total_size": sum(file.nbytes for file in files),
            "total_parameters": sum(math.prod(ref.shape) for file in files for ref in file.tensors),
        },
        "weight_map": dict(sorted(weight_map.items())),
    }
    return INDEX, json.dumps(document, indent=2) + "\n"


def dominant_dtype(tensors: Mapping[str, TensorRef]) -> str:
    """The dtype that most bytes of the tensors have."""
    sizes: dict[str, int] = {}
    for ref in tensors.values():
        sizes[ref.dtype] = sizes.get(ref.dtype, 0) + math.prod(ref.shape) * DTYPE_BITS[ref.dtype]
    return max(sizes, key=lambda dtype: sizes[dtype])
