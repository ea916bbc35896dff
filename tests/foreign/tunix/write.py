"""Cases of Tunix: its own loaders read the original, its own manager saves. `python -m tests.foreign.tunix.write OUTDIR`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import qwix
from flax import nnx
from safetensors.numpy import load_file, save_file
from tunix.models.gemma import model as gemma
from tunix.models.gemma import params_safetensors as gemma_params
from tunix.models.gemma3 import model as gemma3
from tunix.models.gemma3 import params_safetensors as gemma3_params
from tunix.models.llama3 import model as llama3
from tunix.models.llama3 import params as llama3_params
from tunix.models.qwen2 import model as qwen2
from tunix.models.qwen2 import params as qwen2_params
from tunix.models.qwen3 import model as qwen3
from tunix.models.qwen3 import params as qwen3_params
from tunix.sft.checkpoint_manager import CheckpointManager

from tests.foreign.originals import original_config, write_original
from tests.foreign.packing import pack, token_ids, versions
from tests.foreign.reference import reference_logits

jax.config.update("jax_default_matmul_precision", "highest")

Config = dict[str, Any]
PACKAGES = ("google-tunix", "qwix", "jax", "flax", "orbax-checkpoint", "safetensors")
FIXED_BASE = {"rope_theta": 1000000.0}  # what Tunix's Llama 3 and Qwen 3 use whatever their config says
SMALL: Config = {"vocab_size": 96, "num_hidden_layers": 2, "intermediate_size": 24}
TIED: Config = {"tie_word_embeddings": True}


def sizes(config: Config, vocabulary: str = "vocab_size") -> Config:
    """What every model's configuration wants."""
    return {
        "num_layers": config["num_hidden_layers"], vocabulary: config["vocab_size"], "embed_dim": config["hidden_size"],
        "hidden_dim": config["intermediate_size"], "num_heads": config["num_attention_heads"],
        "head_dim": config["head_dim"], "num_kv_heads": config["num_key_value_heads"],
    }  # fmt: skip


def load_llama(folder: str, config: Config, dtype: Any) -> Any:
    rest = {
        "rope_theta": config["rope_theta"],
        "norm_eps": config["rms_norm_eps"],
        "weight_tying": config["tie_word_embeddings"],
    }
    return llama3_params.create_model_from_safe_tensors(folder, llama3.ModelConfig(**sizes(config), **rest), dtype=dtype)


def load_qwen(module: Any, params: Any) -> Callable[[str, Config, Any], Any]:
    def load(folder: str, config: Config, dtype: Any) -> Any:
        rest = {"rope_theta": config["rope_theta"], "norm_eps": config["rms_norm_eps"]}
        made = module.ModelConfig(**sizes(config), **rest, use_tied_embedding=config["tie_word_embeddings"])
        return params.create_model_from_safe_tensors(folder, made, dtype=dtype)

    return load


def load_gemma(folder: str, config: Config, dtype: Any) -> Any:
    """Gemma 1. The loader's table is Gemma 2's, where the norm before the MLP has another name: the copy loaded has it."""
    tensors = load_file(Path(folder, "model.safetensors"))
    renamed = {name.replace("post_attention_layernorm", "pre_feedforward_layernorm"): x for name, x in tensors.items()}
    target = Path(folder).parent / "renamed"
    target.mkdir()
    save_file(renamed, target / "model.safetensors")
    made = gemma.ModelConfig(
        **sizes(config, "num_embed"), final_logit_softcap=None, use_post_attn_norm=False, use_post_ffw_norm=False,
        attention_types=(gemma.AttentionType.GLOBAL,) * config["num_hidden_layers"],
    )  # fmt: skip
    return gemma_params.create_model_from_safe_tensors(str(target), made, dtype=dtype)


def load_gemma2(folder: str, config: Config, dtype: Any) -> Any:
    pair = (gemma.AttentionType.LOCAL_SLIDING, gemma.AttentionType.GLOBAL)
    made = gemma.ModelConfig(
        **sizes(config, "num_embed"), final_logit_softcap=None, use_post_attn_norm=True, use_post_ffw_norm=True,
        attention_types=pair * (config["num_hidden_layers"] // 2), attn_logits_soft_cap=config["attn_logit_softcapping"],
        sliding_window_size=config["sliding_window"],
    )  # fmt: skip
    return gemma_params.create_model_from_safe_tensors(folder, made, dtype=dtype)


def load_gemma3(folder: str, config: Config, dtype: Any) -> Any:
    made = gemma3.ModelConfig(
        **sizes(config, "num_embed"), sliding_window_size=config["sliding_window"], param_dtype=dtype,
        local_base_frequency=config["rope_local_base_freq"], global_base_frequency=config["rope_theta"],
    )  # fmt: skip
    return gemma3_params.create_model_from_safe_tensors(folder, made, dtype=dtype)


LOADERS = {
    "llama": load_llama, "qwen2": load_qwen(qwen2, qwen2_params), "qwen3": load_qwen(qwen3, qwen3_params),
    "gemma": load_gemma, "gemma2": load_gemma2, "gemma3_text": load_gemma3,
}  # fmt: skip


def save_manager(model: Any, folder: Path, **options: Any) -> None:
    manager = CheckpointManager(str(folder))
    assert manager.save(1, model, force=True, **options)
    manager.close()


def save_with_optimizer(model: Any, folder: Path) -> None:
    """AdamW's state after one step at learning rate 0, beside the weights."""
    optimizer = nnx.Optimizer(model, optax.adamw(0.0, weight_decay=0.0), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    save_manager(model, folder, optimizer=optimizer)


def save_standard(model: Any, folder: Path) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, nnx.state(model))


def with_adapters(model: Any) -> Any:
    """LoRA as Tunix's examples make it; B is random instead of zero, as after training."""
    provider = qwix.LoraProvider(module_path=".*q_proj|.*v_proj|.*gate_proj", rank=4, alpha=8.0)
    adapted = qwix.apply_lora_to_model(model, provider, **model.get_model_input())
    state = nnx.state(adapted, nnx.LoRAParam)
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(state))))
    nnx.update(adapted, jax.tree.map(lambda x: 0.1 * jax.random.normal(next(keys), x.shape, x.dtype), state))
    return adapted


def logits_of(model: Any, ids: list[list[int]]) -> np.ndarray[Any, Any]:
    """Float32 at the last position, from the library's own forward pass."""
    tokens = jnp.array(ids)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool)), (len(ids),) + (tokens.shape[1],) * 2)
    return np.asarray(model(tokens, positions, None, mask)[0][:, -1], np.float32)


@dataclass(frozen=True)
class Case:
    family: str
    settings: Config
    save: Callable[[Any, Path], None]
    weights: str
    notes: str
    dtype: str = "float32"
    refused: bool = False
    lora: bool = False


CASES = {
    "llama_optimizer": Case("llama", {**SMALL, **FIXED_BASE}, save_with_optimizer, ".",
        "sft CheckpointManager root, step 1: model_params, optimizer_state (AdamW) and custom_metadata"),
    "llama_tied_standard_bf16": Case("llama", {**SMALL, **FIXED_BASE, **TIED}, save_standard, ".",
        "StandardCheckpointer on nnx.state, bfloat16, weight_tying", "bfloat16"),
    "qwen2_tied": Case("qwen2", {**SMALL, **TIED}, save_manager, "1/model_params", "flat biases q_bias, k_bias, v_bias"),
    "qwen3": Case("qwen3", {**SMALL, **FIXED_BASE}, save_manager, "1", "untied; weights is the step's folder"),
    "gemma": Case("gemma", {**SMALL, "num_key_value_heads": 1}, save_manager, "1/model_params",
        "Gemma 1; the loader's table has Gemma 2's norm names, so the norm before the MLP was renamed in the copy loaded"),
    "gemma_equal_heads": Case("gemma", {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 2}, save_manager,
        "1/model_params", "as many kv heads as heads: qkv_einsum [3, N, D, H]"),
    "gemma2": Case("gemma2", SMALL, save_manager, "1/model_params", "post_attn_norm"),
    "gemma3": Case("gemma3_text", {**SMALL, "num_hidden_layers": 7, "hidden_size": 16, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}, save_manager, "1/model_params",
        "post_attention_norm, attn._query_norm, attn._key_norm"),
    "lora_only": Case("llama", {**SMALL, **FIXED_BASE}, lambda m, f: save_manager(m, f, save_only_lora_params=True),
        "1/model_params", "save_only_lora_params: w_lora_a, w_lora_b, kernel_lora_a, kernel_lora_b and no weights",
        refused=True, lora=True),
    "lora_unmerged": Case("llama", {**SMALL, **FIXED_BASE}, save_manager, "1/model_params",
        "base weights and adapters side by side; alpha and rank are not stored", refused=True, lora=True),
}  # fmt: skip


def write_case(name: str, out: Path) -> None:
    case = CASES[name]
    config = original_config(case.family, **case.settings)
    ids = token_ids(config["vocab_size"])
    with tempfile.TemporaryDirectory() as temporary:
        original = write_original(Path(temporary, "original"), case.family, **case.settings)
        model = LOADERS[case.family](str(original), config, jnp.dtype("float32"))
        logits, difference = logits_of(model, ids), None
        difference = float(np.abs(logits - reference_logits(original, ids)).max())
        print(name, "differs from transformers/torch by", difference, flush=True)
        assert difference <= 1e-4
        model = with_adapters(model) if case.lora else model
        if case.dtype != "float32":
            nnx.update(model, jax.tree.map(lambda x: x.astype(case.dtype), nnx.state(model)))
        checkpoint = Path(temporary, "checkpoint")
        case.save(model, checkpoint)
        described = {
            "library": "tunix", "versions": versions(*PACKAGES), "family": case.family, "settings": case.settings,
            "seed": 0, "dtype": case.dtype, "original_dtype": "float32", "layout": "tunix", "weights": case.weights,
            "scanned": False, "tied": config["tie_word_embeddings"], "token_ids": ids, "exact": True,
            "max_difference_to_torch": difference, "notes": case.notes, **({"refused": True} if case.refused else {}),
        }  # fmt: skip
        pack(out / "tunix" / f"{name}.tar.xz", checkpoint, described, None if case.refused else logits)
        print(name, flush=True)


if __name__ == "__main__":
    failed = []
    for wanted in sys.argv[2:] or CASES:
        try:
            write_case(wanted, Path(sys.argv[1]).absolute())
        except Exception as error:  # the other cases are still wanted
            failed.append(wanted)
            print(wanted, "FAILED", repr(error)[:600], flush=True)
    print("failed:", failed)
