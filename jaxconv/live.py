"""Parameters in memory -> classifier: pytrees of arrays, nnx modules and states, Linen variables, sharded or not.

Rows of the head are gathered on the device, and one tensor at a time is brought to the host; of arrays over several
processes to every host, in the order of the files, since a gather takes all processes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxconv.checkpoint import SAFETENSORS_NAMES, Array, Checkpoint, TensorRef
from jaxconv.conversion import ConversionResult, convert_found
from jaxconv.distributed import ALONE, Processes
from jaxconv.distributed.collective import Collective, gather
from jaxconv.errors import RefusedError, SourceError, UsageError
from jaxconv.plan import Source
from jaxconv.planning import Options, read_template
from jaxconv.readers._training_state import parameter_names
from jaxconv.sources import resolve_base
from jaxconv.writer.share import Progress

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
    `nnx.Module`; `base` names the model whose config and tokenizer fit; `options` are those of `convert`. Where arrays
    are spread over the processes of `jax.distributed`, each process makes the same call and writes some of the files.
    Raises a `JaxconvError`; then nothing is left at `output`.
    """
    tree = _tree(params)
    with _processes(tree, verify) as processes:
        found = resolve_base(base, token=token, offline=offline)
        source = Source("live parameters", "live parameters", found.assets, base_id=found.hub_id)
        return convert_found(
            source,
            live_checkpoint(tree),
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
            processes=processes,
        )


def _tree(params: Any) -> Any:
    from flax import nnx

    return nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params


def live_checkpoint(tree: Any) -> Checkpoint:
    """References to the arrays of a tree, by the keys that lead to them.

    Raises `SourceError` for leaves that are no arrays of numbers, `RefusedError` for trees without parameters.
    """
    import jax

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
    shape = tuple(array.shape)
    return TensorRef(
        name, SAFETENSORS_NAMES[dtype], shape, lambda: _on_host(array), lambda ids, axis: _take(array, ids, axis)
    )


def _on_host(array: Any) -> Array:
    """The whole array; if it is spread over processes, all of them have to ask for it."""
    import jax
    import numpy as np

    if _is_spread(array):
        return gather(array)
    if isinstance(array, jax.Array):
        # JAX keeps an array's host copy as long as the array lives, which would be the whole model in the end: another
        # array over the same buffers takes its copy with it.
        buffers = [shard.data for shard in array.addressable_shards]
        array = jax.make_array_from_single_device_arrays(array.shape, array.sharding, buffers)
    return np.asarray(array)


def _is_spread(array: Any) -> bool:
    return not getattr(array, "is_fully_addressable", True)


def _processes(params: Any, verify: bool) -> Processes:
    """Those that the arrays are spread over: all of the program, or this one.

    Raises `RefusedError` for arrays over some of the processes, `UsageError` for a proof that cannot be had.
    """
    import jax

    spread = [leaf for leaf in jax.tree.leaves(params) if _is_spread(leaf)]
    if not spread:
        return ALONE
    for array in spread:
        holders = {device.process_index for device in array.sharding.device_set}
        if len(holders) != jax.process_count():
            raise RefusedError(
                f"a live parameter of shape {list(array.shape)} lies on the processes {sorted(holders)} of "
                f"{jax.process_count()}; expected a mesh over all of them, or arrays of one process."
            )
    if verify:
        raise UsageError(
            "verify=True cannot be had for parameters that are spread over several processes: the proof reads tensors in an "
            "order of its own. Convert without it, then use jaxconv.verify with a checkpoint of them."
        )
    return Collective()


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
    return _on_host(array.at[index].get(out_sharding=replicated))
