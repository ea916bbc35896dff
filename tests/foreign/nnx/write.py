"""Cases of a user's own flax.nnx model saved with Orbax: `python -m tests.foreign.nnx.write OUTDIR`."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from tests.foreign.nnx.decoder import Decoder
from tests.foreign.originals import original_config, original_tensors, write_original
from tests.foreign.packing import SMALL, pack, token_ids, torch_logits, versions

jax.config.update("jax_default_matmul_precision", "highest")


def pure(model: Decoder) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def named(model: Decoder) -> dict[str, Any]:
    """The pure dict with the layers' numbers as strings, as Linen has them."""
    return json_keys(pure(model))


def json_keys(tree: Any) -> Any:
    return {str(key): json_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def flat(model: Decoder, separator: str) -> dict[str, Any]:
    return {separator.join(map(str, path)): value[...] for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def standard(tree: Any, target: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, tree)


def linen(model: Decoder, target: Path, **options: Any) -> None:
    ocp.PyTreeCheckpointer(**options).save(target, {"params": named(model)})


def stepped(params: Any) -> Any:
    """Adam's state after one step with gradients of one value each."""
    optimizer = optax.adam(1e-3)
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params)
    return optimizer.update(gradients, optimizer.init(params), params)[1]


def manager(model: Decoder, target: Path) -> None:
    """Steps 2 (other weights) and 10, the items params and opt_state side by side."""
    other = jax.tree.map(lambda x: jnp.full_like(x, 0.25), named(model))
    with ocp.CheckpointManager(target) as saver:
        for step, params in ((2, other), (10, named(model))):
            items = {"params": params, "opt_state": stepped(params)}
            saver.save(step, args=ocp.args.Composite(**{k: ocp.args.StandardSave(v) for k, v in items.items()}))


def train_state(model: Decoder, target: Path) -> None:
    """One item that holds everything: params, opt_state and a scalar."""
    state = {"params": named(model), "opt_state": stepped(named(model)), "step": jnp.asarray(7)}
    with ocp.CheckpointManager(target) as saver:
        saver.save(7, args=ocp.args.StandardSave(state))


def sharded(model: Decoder, target: Path) -> None:
    mesh = jax.make_mesh((4, 2), ("tp", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    axes = {"embedding": PartitionSpec("tp", "fsdp"), "kernel": PartitionSpec("fsdp", "tp"), "scale": PartitionSpec()}
    tree = jax.tree_util.tree_map_with_path(lambda p, x: jax.device_put(x, NamedSharding(mesh, axes[p[-1].key])), pure(model))
    standard(tree, target)


def adapters(model: Decoder, target: Path) -> None:
    rngs = nnx.Rngs(0)
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            projection = getattr(layer.self_attn, name)
            adapted = nnx.LoRA(projection.in_features, 4, projection.out_features, base_module=projection, rngs=rngs)
            setattr(layer.self_attn, name, adapted)
    standard(nnx.state(model, nnx.LoRAParam), target)


Saver = Callable[[Decoder, Path], None]
CASES: dict[str, tuple[Saver, dict[str, Any]]] = {
    "llama_state": (lambda m, t: standard(nnx.state(m), t), {
        "family": "llama", "notes": "StandardCheckpointer of nnx.state: every path ends in `value`"}),
    "qwen3_pure_dict": (lambda m, t: standard(pure(m), t), {
        "family": "qwen3", "settings": {"tie_word_embeddings": True}, "notes": "nnx.to_pure_dict, tied, no lm_head"}),
    "qwen3_flat_slash": (lambda m, t: standard(flat(m, "/"), t), {
        "family": "qwen3", "notes": "flat dict, one key a parameter, joined with `/`"}),
    "llama_flat_dot_bf16": (lambda m, t: standard(flat(m, "."), t), {
        "family": "llama", "dtype": "bfloat16", "notes": "flat dict joined with `.`, bfloat16"}),
    "llama_manager": (manager, {
        "family": "llama", "notes": "CheckpointManager root, steps 2 and 10, items params and opt_state (optax.adam). "
        "Step 10 is the original; in step 2 every value is 0.25", "newest": "10/params"}),
    "qwen3_train_state": (train_state, {
        "family": "qwen3", "settings": {"tie_word_embeddings": True},
        "notes": "CheckpointManager, step 7, one item `default` with params, opt_state (optax.adam) and step"}),
    "gemma_linen_directories": (lambda m, t: linen(m, t, use_ocdbt=False), {
        "family": "gemma", "notes": "{'params': …}, use_ocdbt=False: a zarr folder per array. `scale` is zero-centred"}),
    "llama_linen_zarr3": (lambda m, t: linen(m, t, use_zarr3=True), {
        "family": "llama", "notes": "{'params': …}, OCDBT with zarr3"}),
    "llama_sharded": (sharded, {
        "family": "llama", "notes": "pure dict of arrays sharded over 8 devices (4 tp, 2 fsdp): chunked"}),
    "optimizer_only": (lambda m, t: standard({"opt_state": stepped(named(m))}, t), {
        "family": "llama", "refused": True, "notes": "optax.adam state only, whose mu and nu repeat the weights' names"}),
    "lora_only": (adapters, {
        "family": "llama", "refused": True, "notes": "nnx.LoRAParam of q_proj and v_proj only, rank 4"}),
}  # fmt: skip


def write_case(name: str, out: Path) -> None:
    save, case = CASES[name]
    family, settings, dtype = case["family"], {**SMALL, **case.get("settings", {})}, case.get("dtype", "float32")
    ids, config = token_ids(), original_config(family, **settings)
    model = Decoder(config)
    model.load(original_tensors(config))
    logits = np.asarray(model(jnp.array(ids))[:, -1], np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        difference = float(np.abs(logits - torch_logits(write_original(Path(temporary, "o"), family, **settings), ids)).max())
        if difference > 1e-4:
            raise SystemExit(f"{name}: logits differ from transformers/torch by {difference}")
        model.load(original_tensors(config), jnp.dtype(dtype))
        checkpoint = Path(temporary, "checkpoint")
        save(model, checkpoint)
        described = {
            "library": "nnx", "versions": versions("flax", "orbax-checkpoint", "jax", "transformers", "torch"),
            "seed": 0, "original_dtype": "float32", "dtype": dtype, "layout": "nnx", "weights": ".",
            "scanned": False, "tied": config["tie_word_embeddings"], "token_ids": ids, "exact": True,
            "max_difference_to_torch": difference, **case, "settings": settings,
        }  # fmt: skip
        target = out / f"{name}.tar.xz"
        pack(target, checkpoint, described, None if case.get("refused") else logits)
        count = sum(path.is_file() for path in checkpoint.rglob("*"))
        print(json.dumps({"case": name, "difference": difference, "bytes": target.stat().st_size, "files": count}))


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write_case(wanted, Path(sys.argv[1]))
