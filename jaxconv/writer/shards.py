"""Which output file holds which tensor: decided from names, sizes and source files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.checkpoint import Checkpoint, TensorRef, numpy_dtype
from jaxconv.json_files import dump_json
from jaxconv.safetensors_header import INDEX, SINGLE
from jaxconv.writer.options import WriteOptions

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
    checkpoint: Checkpoint, score: Sequence[TensorRef], dtype: str | None, options: WriteOptions
) -> tuple[OutputFile, ...]:
    """The output files for the backbone tensors and the score tensors.

    Source shards whose tensors all stay are taken verbatim, others are rewritten under their own name. With the copy
    modes link and reflink a single source file is kept whole too, as a shard beside the score; with copy a single file
    gives a single file. Sources that are not shards yet, or are cast, are cut into shards.

    Args:
        checkpoint: The backbone's tensors.
        score: The score head's tensors.
        dtype: The safetensors dtype that the backbone is cast to; None: as stored.
        options: Copy mode and shard size.
    """
    backbone = checkpoint.tensors
    if not checkpoint.shards or dtype is not None or checkpoint.metadata.get("format") == "flax":
        tensors = [cast(ref, dtype) for ref in backbone.values()]
        return _cut([*tensors, *score], options.max_shard_bytes)
    files = []
    for shard in checkpoint.shards:
        tensors = [backbone[name] for name in shard.tensors if name in backbone]
        if tensors:
            whole = len(tensors) == len(shard.tensors) and all(ref.extent is not None for ref in tensors)
            files.append(OutputFile(shard.path.name, tuple(tensors), shard.path if whole else None))
    if len(checkpoint.shards) == 1 and checkpoint.shards[0].path.name == SINGLE:
        only = files[0]
        if options.copy_mode == "copy" or only.verbatim is None:
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


def index_file(files: Sequence[OutputFile]) -> dict[str, bytes]:
    """The name and content of the index for several files; empty for the single `model.safetensors`."""
    if [file.name for file in files] == [SINGLE]:
        return {}
    weight_map = {ref.name: file.name for file in files for ref in file.tensors}
    document = {
        "metadata": {
            "total_size": sum(file.nbytes for file in files),
            "total_parameters": sum(math.prod(ref.shape) for file in files for ref in file.tensors),
        },
        "weight_map": dict(sorted(weight_map.items())),
    }
    return {INDEX: dump_json(document)}
