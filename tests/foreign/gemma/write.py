"""Cases of the gemma library in each of its checkpoint structures. `python -m tests.foreign.gemma.write OUTDIR [CASE ...]`.

The library loads no Hugging Face checkpoint: the original's tensors are put into the tree here, its names and shapes are
checked against `model.init`, and the forward pass against transformers.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gemma import gm
from gemma.gm.ckpts import _checkpoint
from gemma.gm.nn._config import TransformerConfig, make_attention_layers_types
from gemma.gm.nn._modules import AttentionType
from kauldron import kd

from tests.foreign.originals import original_config, original_tensors, write_original
from tests.foreign.packing import pack, token_ids, versions
from tests.foreign.reference import reference_logits

jax.config.update("jax_default_matmul_precision", "highest")

Config = dict[str, Any]
PACKAGES = ("gemma", "kauldron", "jax", "flax", "orbax-checkpoint")
SMALL: Config = {"vocab_size": 96, "num_hidden_layers": 2, "intermediate_size": 24}
DEEP: Config = {**SMALL, "num_hidden_layers": 8, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
                "head_dim": 8, "query_pre_attn_scalar": 8}  # fmt: skip
LOCAL, GLOBAL = AttentionType.LOCAL_SLIDING, AttentionType.GLOBAL
PATTERNS = {"gemma": (GLOBAL,), "gemma2": (LOCAL, GLOBAL), "gemma3_text": (LOCAL,) * 5 + (GLOBAL,)}


def library_config(config: Config, transposed: bool) -> TransformerConfig:
    """The library's configuration of the same sizes."""
    family = config["model_type"]
    local = config.get("rope_local_base_freq", config["rope_theta"])
    return TransformerConfig(
        num_embed=config["vocab_size"], embed_dim=config["hidden_size"], hidden_dim=config["intermediate_size"],
        num_heads=config["num_attention_heads"], num_kv_heads=config["num_key_value_heads"], head_dim=config["head_dim"],
        final_logit_softcap=None, use_post_attn_norm=family != "gemma", use_post_ffw_norm=family != "gemma",
        use_qk_norm=family == "gemma3_text", attn_logits_soft_cap=config.get("attn_logit_softcapping"),
        sliding_window_size=config.get("sliding_window"), transpose_gating_einsum=transposed,
        attention_types=make_attention_layers_types(PATTERNS[family], num_layers=config["num_hidden_layers"]),
        local_base_frequency=int(local), global_base_frequency=int(config["rope_theta"]),
    )  # fmt: skip


def layer_tree(config: Config, tensors: dict[str, Any], prefix: str, transposed: bool) -> dict[str, Any]:
    """One layer in the library's names and shapes."""
    hidden, size = config["hidden_size"], config["head_dim"]

    def heads(name: str) -> Any:
        """[N, D, H] of a projection [N.H, D]."""
        return tensors[f"{prefix}self_attn.{name}_proj.weight"].reshape(-1, size, hidden).transpose(0, 2, 1)

    def norm(name: str) -> dict[str, Any]:
        return {"scale": tensors[f"{prefix}{name}.weight"]}

    attention = {"attn_vec_einsum": {"w": tensors[f"{prefix}self_attn.o_proj.weight"].T.reshape(-1, size, hidden)}}
    if config["num_attention_heads"] == config["num_key_value_heads"]:
        attention["qkv_einsum"] = {"w": np.stack([heads("q"), heads("k"), heads("v")])}
    else:
        attention["q_einsum"], attention["kv_einsum"] = {"w": heads("q")}, {"w": np.stack([heads("k"), heads("v")])}
    if config["model_type"] == "gemma3_text":
        attention["_query_norm"], attention["_key_norm"] = norm("self_attn.q_norm"), norm("self_attn.k_norm")
    gating = np.stack([tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up")])
    gating = gating if transposed else gating.transpose(0, 2, 1)
    mlp = {"gating_einsum": gating, "linear": tensors[f"{prefix}mlp.down_proj.weight"].T}
    norms = {"pre_attention_norm": norm("input_layernorm")}
    if config["model_type"] == "gemma":
        norms["pre_ffw_norm"] = norm("post_attention_layernorm")
    else:
        norms["post_attention_norm"] = norm("post_attention_layernorm")
        norms["pre_ffw_norm"], norms["post_ffw_norm"] = norm("pre_feedforward_layernorm"), norm("post_feedforward_layernorm")
    return {"attn": attention, "mlp": mlp, **norms}


def filled(config: Config, transposed: bool) -> dict[str, Any]:
    """The NESTED tree of the original's tensors."""
    tensors = original_tensors(config)
    layers = {
        f"layer_{i}": layer_tree(config, tensors, f"model.layers.{i}.", transposed)
        for i in range(config["num_hidden_layers"])
    }
    return {
        "embedder": {"input_embedding": tensors["model.embed_tokens.weight"]},
        "final_norm": {"scale": tensors["model.norm.weight"]},
        **layers,
    }


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def save_nested(tree: Any, folder: Path) -> None:
    gm.ckpts.save_params(tree, folder, wait_until_finished=True)


def save_flat(tree: Any, folder: Path) -> None:
    gm.ckpts.save_params(_checkpoint._nested_to_flat(tree), folder, wait_until_finished=True)


def save_stacked(tree: Any, folder: Path) -> None:
    gm.ckpts.save_params(_checkpoint._nested_to_stacked(tree, 6), folder, wait_until_finished=True)


def save_kauldron(tree: Any, folder: Path) -> None:
    """A kd.train.TrainState with Adam's state after one step, by Kauldron's own checkpointer."""
    adam = optax.adam(1e-3)
    state = adam.update(jax.tree.map(jnp.ones_like, tree), adam.init(tree), tree)[1]
    saver = kd.ckpts.Checkpointer(workdir=folder, save_interval_steps=1)
    saver.save(kd.train.TrainState(step=1, params=tree, opt_state=state, collections={}), step=1)
    saver.wait_until_finished()
    saver.close()


@dataclass(frozen=True)
class Case:
    family: str
    save: Callable[[Any, Path], None]
    notes: str
    settings: Config = field(default_factory=lambda: SMALL)
    dtype: str = "float32"
    transposed: bool = False
    weights: str = "."


CASES = {
    "gemma_nested": Case("gemma", save_nested, "NESTED, as many kv heads as heads: qkv_einsum; gating_einsum [2, D, F]",
        {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 2}),
    "gemma2_nested": Case("gemma2", save_nested, "NESTED, gating_einsum [2, D, F] as in Gemma 2 2B"),
    "gemma2_flat_bf16": Case("gemma2", save_flat, "FLAT, gating_einsum [2, F, D] as in Gemma 2 9B and 27B, bfloat16",
        dtype="bfloat16", transposed=True),
    "gemma3_nested": Case("gemma3_text", save_nested, "NESTED, gating_einsum [2, F, D]", transposed=True),
    "gemma3_flat": Case("gemma3_text", save_flat, "FLAT: an outer key is one string with slashes", transposed=True),
    "gemma3_stacked": Case("gemma3_text", save_stacked, "STACKED: eight layers, two of types 0 and 1, one of the others",
        DEEP, transposed=True),
    "gemma3_kauldron": Case("gemma3_text", save_kauldron, "KAULDRON: params, opt_state (Adam), step and collections",
        {**SMALL, "num_hidden_layers": 1}, transposed=True, weights="."),
}  # fmt: skip


def write_case(name: str, out: Path) -> None:
    case = CASES[name]
    config = original_config(case.family, **case.settings)
    ids = token_ids(config["vocab_size"])
    model = gm.nn.Transformer(config=library_config(config, case.transposed), dtype=jnp.float32)
    tokens = jnp.array(ids)
    tree = filled(config, case.transposed)
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))["params"]
    assert shapes(tree) == shapes(expected), shapes(tree).items() ^ shapes(expected).items()
    logits = np.asarray(model.apply({"params": jax.tree.map(jnp.asarray, tree)}, tokens).logits[:, -1], np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        original = write_original(Path(temporary, "original"), case.family, **case.settings)
        difference = float(np.abs(logits - reference_logits(original, ids)).max())
        print(name, "differs from transformers/torch by", difference, flush=True)
        assert difference <= 1e-4
        checkpoint = Path(temporary, "checkpoint")
        case.save(jax.tree.map(lambda x: jnp.asarray(x, case.dtype), tree), checkpoint)
        described = {
            "library": "gemma", "versions": versions(*PACKAGES), "family": case.family, "settings": case.settings,
            "seed": 0, "dtype": case.dtype, "original_dtype": "float32", "layout": "gemma", "weights": case.weights,
            "scanned": name.endswith("stacked"), "tied": True, "token_ids": ids, "exact": True,
            "max_difference_to_torch": difference, "notes": case.notes,
        }  # fmt: skip
        print(name, pack(out / "gemma" / f"{name}.tar.xz", checkpoint, described, logits), "bytes", flush=True)


if __name__ == "__main__":
    failed = []
    for wanted in sys.argv[2:] or CASES:
        try:
            write_case(wanted, Path(sys.argv[1]).absolute())
        except Exception as error:  # the other cases are still wanted
            failed.append(wanted)
            print(wanted, "FAILED", repr(error)[:800], flush=True)
    print("failed:", failed)
