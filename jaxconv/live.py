"""Parameters in memory -> classifier: pytrees of arrays, nnx modules and states, Linen variables, sharded or not.

Rows of the head are gathered on the device, and one tensor at a time is brought to the host; of arrays over several
processes to every host, in the order of the files, since a gather takes all processes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from jaxconv.arguments import checked
from jaxconv.checkpoint import SAFETENSORS_NAMES, Array, Checkpoint, TensorRef
from jaxconv.conversion import ConversionResult, Request, convert_resolved
from jaxconv.distributed import ALONE, Processes
from jaxconv.distributed.collective import Collective, gather
from jaxconv.errors import RefusedError, SourceError, UsageError
from jaxconv.model import ReadOptions
from jaxconv.plan import PlanOptions
from jaxconv.readers._training_state import parameter_names
from jaxconv.sources import Source, resolve_base, with_base
from jaxconv.sources.hub import HubAccess
from jaxconv.text.prompt import read_template
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.share import Progress

Leaf: TypeAlias = Any  # an array of JAX or NumPy, or a tree of them

FORMAT = "live"


@checked
def convert_params(
    params: object,
    output: str | Path,
    *,
    base: str | Path,
    preset: str | None = None,
    method: str | None = None,
    classifier_from_tokens: Sequence[str] | None = None,
    token_ids: Sequence[int] | None = None,
    use_sep_token: bool = False,
    backend: str = "jax",
    device: str = "auto",
    layout: str | None = None,
    adapter: str | Path | None = None,
    dequantize: bool = False,
    dtype: str | None = None,
    template: str | Path | None = None,
    activation: str = "auto",
    calibrate: bool = False,
    scale: float = 1.0,
    bias: float = 0.0,
    max_shard_size: str = "5GB",
    allow_approximate: bool = False,
    hash: bool = False,
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> ConversionResult:
    """Converts live parameters into a sequence classifier.

    Where arrays are spread over the processes of `jax.distributed`, each process makes the same call and writes some of
    the files.

    Args:
        params: A pytree of `jax.Array` or NumPy arrays (a dict, Linen variables, an `nnx.State`) or an `nnx.Module`.
        output: The directory to create.
        base: A model whose config and tokenizer fit.
        preset: As for `convert`; so are all following parameters.
        method: "from_2_way_softmax" or "no_post_processing".
        classifier_from_tokens: The answers as vocabulary pieces, false first.
        token_ids: The answers as token ids, false first.
        use_sep_token: The value of `use_sep_token` in config.json.
        backend: What computes the head.
        device: Where the head is computed.
        layout: The layout of the names in the tree.
        adapter: A PEFT LoRA adapter to merge.
        dequantize: Make bfloat16 numbers of the arrays that AQT or Qwix quantised.
        dtype: The dtype the backbone is cast to.
        template: The Jinja file of the prompt.
        activation: What consumers apply to the logit.
        calibrate: Fold the preset's calibration into the head.
        scale: score = scale * logit + bias.
        bias: score = scale * logit + bias.
        max_shard_size: The size of the output's shards.
        allow_approximate: Allow conversions that keep the ranking but not the exact scores.
        hash: Record the sha256 of every file.
        token: Hub token, for `base`.
        offline: Use only the hub's cache.
        overwrite: Replace a former output.
        dry_run: Plan and compute the head, write nothing.
        verify: Prove the result before it is published.
        progress: Called with the bytes done and the bytes in all.

    Returns:
        What was decided and done.

    Raises:
        JaxconvError: As for `convert`; nothing is left at `output`.

    Example:
        >>> params = safetensors.flax.load_file("./my-reranker/model.safetensors")
        >>> result = jaxconv.convert_params(
        ...     params, "out", base="./my-reranker", layout="hf", classifier_from_tokens=["no", "yes"]
        ... )
        >>> result.plan.num_labels
        1
    """
    request = Request(
        ReadOptions(layout, None, adapter, dequantize),
        PlanOptions(
            preset=preset, method=method, classifier_from_tokens=classifier_from_tokens, token_ids=token_ids, dtype=dtype,
            template=read_template(template), activation=activation, calibrate=calibrate, scale=scale, bias=bias,
            allow_approximate=allow_approximate, use_sep_token=use_sep_token,
        ),
        WriteOptions("copy", max_shard_size, hash, overwrite),
        backend, device, dry_run, verify, progress,
    )  # fmt: skip
    tree = _tree(params)
    with _processes(tree, verify) as processes:
        located = resolve_base(base, HubAccess(token=token, offline=offline))
        source = with_base(Source("live parameters", "live parameters", located.assets), located)
        return convert_resolved(source, output, request, live_checkpoint(tree), processes)


def _tree(params: Leaf) -> Leaf:
    from flax import nnx

    return nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params


def live_checkpoint(tree: Leaf) -> Checkpoint:
    """References to the arrays of a tree, by the keys that lead to them.

    Raises `SourceError` for leaves that are not arrays of numbers, `RefusedError` for trees without parameters.
    """
    import jax

    leaves = {tuple(_key(entry) for entry in path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    names, notes = parameter_names(leaves, "the tree of live parameters")
    if len(set(names.values())) != len(names):
        raise SourceError("two arrays of the live parameters have the same name; expected one of each.")
    return Checkpoint(
        FORMAT, "live parameters", {names[keys]: _ref(names[keys], leaves[keys]) for keys in names}, notes=notes
    )


def _key(entry: Leaf) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _ref(name: str, array: Leaf) -> TensorRef:
    dtype = str(getattr(array, "dtype", type(array).__name__))
    if dtype not in SAFETENSORS_NAMES or not hasattr(array, "shape"):
        raise SourceError(f"live parameter {name} is a {dtype}; expected an array of numbers.")
    shape = tuple(array.shape)
    return TensorRef(
        name, SAFETENSORS_NAMES[dtype], shape, lambda: _on_host(array), lambda ids, axis: _take(array, ids, axis)
    )


def _on_host(array: Leaf) -> Array:
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


def _is_spread(array: Leaf) -> bool:
    return not getattr(array, "is_fully_addressable", True)


def _processes(params: Leaf, verify: bool) -> Processes:
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
    return Collective(spread=True)


def _take(array: Leaf, ids: Sequence[int], axis: int) -> Array:
    """Slices gathered where the array lies; with explicit mesh axes the result's sharding has to be given."""
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
