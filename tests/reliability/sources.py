"""Writes the same weights in three containers: `python -m tests.reliability.sources DIRECTORY`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import flax.serialization
import orbax.checkpoint as ocp

from tests.support.tiny import tiny_checkpoint
from tests.support.trees import as_tree

# 5 MB in bfloat16: large enough that most kills come while bytes are written and synced.
SIZE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}


def main(directory: Path) -> None:
    """Writes `safetensors`, `msgpack` and `orbax` into the directory."""
    base = tiny_checkpoint(directory / "safetensors", "llama", tie=False, shards=3, **SIZE)
    whole = tiny_checkpoint(directory / "whole", "llama", tie=False, **SIZE)
    tree = as_tree(whole)
    shutil.copytree(base, directory / "msgpack", ignore=shutil.ignore_patterns("*.safetensors*"))
    (directory / "msgpack" / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    saver = ocp.StandardCheckpointer()
    saver.save((directory / "orbax").resolve(), tree)
    saver.wait_until_finished()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
