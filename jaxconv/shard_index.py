"""The index of a sharded checkpoint: tensor name -> file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from jaxconv.errors import SourceError
from jaxconv.json_files import read_object
from jaxconv.storage import File, RemotePath

F = TypeVar("F", Path, RemotePath, File)
MAX_NAME = 255  # bytes of a file name on Linux
LISTED = 5
# Buffers that are computed from the config: an index may leave them out.
BUFFER = re.compile(r"(.*[./])?rotary_emb[./]inv_freq")
# A tied head is the embedding: an index may list it although no shard has it.
HEAD = re.compile(r"(.*[./])?lm_head[./](weight|kernel)")


def read_weight_map(index: File) -> dict[str, str]:
    """The checked `weight_map` of the file `index`: tensor name -> plain file name in the index's directory.

    Raises:
        SourceError: The file is not a JSON object of strings, or names a file outside its directory.
    """
    weight_map = read_object(index, "the index of the shards").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f'{index} has no "weight_map" object; expected tensor names -> shard files. Download it again.')
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise SourceError(
                f"{index} maps {name[:200]} to {file!r:.200}; expected a plain file name in the same directory. "
                "Do not use this checkpoint before you know where it comes from."
            )
    return weight_map


def _is_plain(name: str) -> bool:
    """Whether a name can be that of a file in the same directory."""
    if name in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(name):
        return False
    return len(name.encode("utf-8", "replace")) <= MAX_NAME and name.isprintable()


def shard_files(index: F, weight_map: Mapping[str, str]) -> list[F]:
    """The files that an index names, sorted.

    Args:
        index: The index, beside which they lie.
        weight_map: Its content, as `read_weight_map` gives it.

    Raises:
        SourceError: One of them does not exist.
    """
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise SourceError(
            f"{index} names the shard {missing[0]}, which is not there ({len(missing)} of {len(files)} are missing). "
            "Download the missing ones."
        )
    return [index.parent / file for file in files]


def check_index(index: File, weight_map: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Compares an index with its shards.

    Args:
        index: The index, for messages.
        weight_map: Its content.
        files: Tensor name -> name of the shard that holds it.

    Raises:
        SourceError: They disagree on a tensor that a model may need.
    """
    wrong = [
        f"{name} ({file})"
        for name, file in weight_map.items()
        if files.get(name) != file and not (name not in files and (HEAD.fullmatch(name) or BUFFER.fullmatch(name)))
    ]
    wrong += [
        f"{name} (not in the index, lies in {file})"
        for name, file in files.items()
        if name not in weight_map and not BUFFER.fullmatch(name)
    ]
    if wrong:
        raise SourceError(
            f"{index} and its shards disagree on where {len(wrong)} tensors lie: {', '.join(wrong[:LISTED])}. "
            "Expected each tensor in the shard that the index names; download the checkpoint again."
        )
