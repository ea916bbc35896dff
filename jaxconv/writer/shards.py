"""Decides which output file holds which tensor, from names, sizes and source files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxconv.checkpoint import Checkpoint, ShardFile, TensorRef
from jaxconv.json_files import dump_json, parse_json
from jaxconv.safetensors_header import INDEX, SINGLE
from jaxconv.storage import File, FileIdentity
from jaxconv.writer.cast import cast
from jaxconv.writer.options import WriteOptions

SCORE_FILE = "model-score.safetensors"
METADATA: Mapping[str, str] = {"format": "pt"}  # what loaders expect


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One safetensors file of the output.

    Attributes:
        name: Its name.
        tensors: What it holds, in file order.
        verbatim: The source file that it equals byte for byte, if it does.
        metadata: Its `__metadata__`, if it is not verbatim.
        sources: The files that its tensors are read from, as they were when their headers were read.
    """

    name: str
    tensors: tuple[TensorRef, ...]
    verbatim: File | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: METADATA)
    sources: Mapping[File, FileIdentity] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data."""
        return sum(ref.nbytes for ref in self.tensors)


def plan_files(
    checkpoint: Checkpoint,
    score: Sequence[TensorRef],
    dtype: str | None,
    options: WriteOptions,
    tensor_list: str | None = None,
) -> tuple[OutputFile, ...]:
    """The output files for the backbone tensors and the score tensors.

    Source shards whose tensors all stay are taken verbatim, unless their metadata lacks the `format: pt` that loaders
    expect; others are rewritten under their own name and keep the rest of their metadata. With the copy modes link and
    reflink a single source file is kept whole too, as a shard beside the score; with copy a single file gives a single file.
    Sources that are not shards yet, or are cast, are cut into shards.

    Args:
        checkpoint: The backbone's tensors.
        score: The score head's tensors.
        dtype: The safetensors dtype that the backbone is cast to; None: as stored.
        options: Copy mode and shard size.
        tensor_list: The metadata key under which files list their tensors, for readers that leave out all others.
    """
    backbone = checkpoint.tensors
    # The metadata of other containers is not text for loaders of safetensors.
    metadata = {**checkpoint.metadata, **METADATA} if checkpoint.shards else METADATA
    if tensor_list is not None:
        metadata = _listing({**checkpoint.metadata, **METADATA}, score, tensor_list)
    if not checkpoint.shards or dtype is not None or checkpoint.metadata.get("format") == "flax":
        tensors = [cast(ref, dtype) for ref in backbone.values()]
        return _cut([*tensors, *score], options.max_shard_bytes, metadata, checkpoint)
    files = []
    for shard in checkpoint.shards:
        tensors = [backbone[name] for name in shard.tensors if name in backbone]
        if tensors:
            files.append(_from_shard(shard, tensors, checkpoint))
    if len(checkpoint.shards) == 1 and checkpoint.shards[0].path.name == SINGLE:
        only = files[0]
        if options.copy_mode == "copy" or only.verbatim is None:
            return (OutputFile(SINGLE, (*only.tensors, *score), None, metadata, checkpoint.files),)
        # Beside an index no file may be called model.safetensors: transformers would load it alone.
        files = [OutputFile("model-backbone.safetensors", only.tensors, only.verbatim, only.metadata, only.sources)]
    # All files are checked with the score, which may come from a shard that the output has no other use for.
    metadata = METADATA if tensor_list is None else metadata
    return (*files, OutputFile(SCORE_FILE, tuple(score), None, metadata, checkpoint.files))


def _listing(metadata: Mapping[str, str], score: Sequence[TensorRef], key: str) -> Mapping[str, str]:
    """The metadata of all files with the score tensors listed and described, as torchao's readers want each file's.

    vLLM leaves out what the file at hand does not list; transformers takes the list of the last file for that of all.
    """
    names = [*parse_json(metadata[key], key, "Get the checkpoint again."), *(ref.name for ref in score)]
    described = {ref.name: json.dumps({"_type": "Tensor"}) for ref in score}
    return {**metadata, **described, key: json.dumps(names)}


def _from_shard(shard: ShardFile, tensors: Sequence[TensorRef], checkpoint: Checkpoint) -> OutputFile:
    complete = len(tensors) == len(shard.tensors) and all(ref.extent is not None for ref in tensors)
    verbatim = shard.path if complete and shard.metadata.get("format") == METADATA["format"] else None
    sources = {path: identity for path, identity in checkpoint.files.items() if path == shard.path}
    return OutputFile(shard.path.name, tuple(tensors), verbatim, {**shard.metadata, **METADATA}, sources)


def _cut(
    tensors: Sequence[TensorRef], max_shard_bytes: int, metadata: Mapping[str, str], checkpoint: Checkpoint
) -> tuple[OutputFile, ...]:
    groups: list[list[TensorRef]] = [[]]
    filled = 0
    for ref in tensors:
        if groups[-1] and filled + ref.nbytes > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(ref)
        filled += ref.nbytes
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    return tuple(
        OutputFile(name, tuple(group), None, metadata, checkpoint.files) for name, group in zip(names, groups, strict=True)
    )


def assign(files: Sequence[OutputFile], num_processes: int) -> tuple[int, ...]:
    """The rank that writes each file: largest file first, to the process with the fewest bytes; rank 0 writes the score.

    Args:
        files: The planned files.
        num_processes: How many processes share the work.
    """
    owners, load = [0] * len(files), [0] * num_processes
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
