"""Checkpoints as the trees of arrays that JAX programs hold."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
from safetensors.numpy import load_file


def as_tree(folder: Path) -> dict:
    """A checkpoint's tensors as a tree with Flax leaves."""
    tree: dict = {}
    for name, array in load_file(folder / "model.safetensors").items():
        *path, leaf = name.split(".")
        if leaf == "weight" and array.ndim == 2:
            leaf, array = ("embedding", array) if "embed" in name else ("kernel", array.T)
        at = tree
        for key in path:
            at = at.setdefault(key, {})
        at[leaf] = jnp.asarray(array)
    return tree
