"""Parameters in memory -> classifier: pytrees of arrays, nnx modules and states, Linen variables, sharded or not.

Rows of the head are gathered on the device, and one tensor at a time is brought to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import SAFETENSORS_NAMES, Array, Checkpoint, TensorRef
from jaxconv.conversion import ConversionResult, Progress, convert_found
from jaxconv.errors import RefusedError, SourceError
from jaxconv.plan import Source
from jaxconv.planning import Options, read_template
from jaxconv.readers._training_state import parameter_names
from jaxconv.sources import resolve_base

FORMAT = "live"


def convert_params(
    params: Any,
    output: str | Path,
    *,
    base: str | Path,
    layout: str | None = None,
    backend: str = "jax",
    device: str = "auto",
    template: str | Path | None = None,
    max_shard_size: str = "5GB",
    hash: bool = False,
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> ConversionResult:
    """Converts live parameters into the classifier directory `output`.

    `params` is any pytree of `jax.Array` or NumPy arrays (a dict, Linen variables, an `nnx.State`) or an
    `nnx.Module`; `base` names the model whose config and tokenizer fit; `options` are those of `convert`.
    Raises a `JaxconvError`; then nothing is left at `output`.
    """
    found = resolve_base(base, token=token, offline=offline)
    source = Source("live parameters", "live parameters", found.assets, base_id=found.hub_id)
    return convert_found(
        source,
        live_checkpoint(params),
        output,
        Options(template=read_template(template), layout=layout, **options),
        backend=backend,
        device=device,
        max_shard_size=max_shard_size,
        hash=hash,
        overwrite=overwrite,
        dry_run=dry_run,
        verify=verify,
        progress=progress,
    )


def live_checkpoint(params: Any) -> Checkpoint:
    """References to the arrays of a tree, by the keys that lead to them.

    Raises `SourceError` for leaves that are no arrays of numbers, `RefusedError` for arrays of which this process
    holds only a part, and for trees without parameters.
    """
    import jax
    from flax import nnx

    tree = nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params
    leaves = {tuple(_key(entry) for entry in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    names, notes = parameter_names(leaves, "the tree of live parameters")
    if len(set(names.values())) != len(names):
        raise SourceError("two arrays of the live parameters have the same name; expected one of each.")
    return Checkpoint(
        FORMAT, "live parameters", {names[keys]: _ref(names[keys], leaves[keys]) for keys in names}, notes=notes
    )


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _ref(name: str, array: Any) -> TensorRef:
    dtype = str(getattr(array, "dtype", type(array).__name__))
    if dtype not in SAFETENSORS_NAMES or not hasattr(array, "shape"):
        raise SourceError(f"live parameter {name} is a {dtype}; expected an array of numbers.")
    if not getattr(array, "is_fully_addressable", True):
        raise RefusedError(
            f"live parameter {name} is spread over several processes, and this one holds only a part. Save it with Orbax and "
            "convert that checkpoint (with --distributed on all hosts), or gather it first."
        )

    def read() -> Array:
        import numpy as np

        return np.asarray(array)

    return TensorRef(name, SAFETENSORS_NAMES[dtype], tuple(array.shape), read, lambda ids, axis: _take(array, ids, axis))


def _take(array: Any, ids: Sequence[int], axis: int) -> Array:
    """Slices gathered where the array lies; with explicit mesh axes the result's sharding has to be said."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    if not isinstance(array, jax.Array):
        return np.asarray(array).take(list(ids), axis)
    index = (slice(None),) * axis + (np.asarray(ids),)
    sharding = array.sharding
    replicated = None
    if isinstance(sharding, NamedSharding):
        replicated = NamedSharding(sharding.mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    return np.asarray(array.at[index].get(out_sharding=replicated))
