"""The kind of module that a parameter belongs to, from its name and shape."""

from __future__ import annotations

import re

from jaxconv.families.parameter import Parameter

# Routers of experts: no loader quantises them, whatever a list of targets says.
ROUTER = re.compile(r"(.*\.)?(mlp|block_sparse_moe|feed_forward|ffn|moe)\.(gate|router)\.weight")


def parameter(name: str, shape: tuple[int, ...], embeddings: frozenset[str]) -> Parameter:
    """A parameter of a decoder.

    Args:
        name: Its name in the file.
        shape: Its shape.
        embeddings: The names of the embeddings among the model's parameters.
    """
    if name in embeddings:
        return Parameter(shape, "embedding")
    module = name.rpartition(".")[0]
    if any("norm" in part for part in module.split(".")[-3:]):
        return Parameter(shape, "norm")
    if ROUTER.fullmatch(name):
        return Parameter(shape, "other")
    return Parameter(shape, "linear" if len(shape) == 2 and name.endswith(".weight") else "other")
