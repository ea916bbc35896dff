"""MaxText checkpoints of tiny models: its own converter and saver, and its own forward pass.

python -m tests.foreign.maxtext.write OUTDIR [CASE ...]
"""

from __future__ import annotations

import os

os.environ["DECOUPLE_GCLOUD"] = "TRUE"
os.environ["JAX_PLATFORMS"] = "cpu"

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import maxtext
import numpy as np
import orbax.checkpoint as ocp
from maxtext.checkpoint_conversion import to_maxtext
from maxtext.configs import pyconfig
from maxtext.models import models
from maxtext.utils import maxtext_utils
from safetensors.numpy import load_file, save_file

from tests.foreign.originals import original_config, write_original
from tests.foreign.packing import pack, token_ids, versions

MODELS = {
    "llama": "llama3.1-8b",
    "qwen2": "qwen2.5-1.5b",
    "qwen3": "qwen3-0.6b",
    "gemma2": "gemma2-2b",
    "gemma3_text": "gemma3-4b",
}
BF16_TIED = "MaxText casts a tied embedding to bfloat16 in its logits; these values times the scale are bfloat16 numbers."
Q_SCALE = "q_proj is stored divided by sqrt(head_dim)."
# Small enough for the files; hidden_size, head_dim and their products all differ.
SMALL = {"vocab_size": 192, "hidden_size": 24, "intermediate_size": 40}
# What makes a config Llama 3.1, with the numbers that MaxText holds as constants.
LLAMA31 = {
    **SMALL,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
# A root that float32 and bfloat16 hold, so that the scaled embedding is not rounded.
SQUARE = {"vocab_size": 192, "hidden_size": 16, "intermediate_size": 24}
CASES: dict[str, dict[str, Any]] = {
    "llama31_scanned": {
        "family": "llama",
        "scanned": True,
        "settings": LLAMA31,
        "exact": True,
        "notes": f"Rope dimensions interleaved in q and k. {Q_SCALE} sqrt(16) = 4, so no value is rounded.",
    },
    "llama31_unscanned": {
        "family": "llama",
        "scanned": False,
        "settings": {**LLAMA31, "head_dim": 8},
        "exact": False,
        "notes": f"Rope dimensions interleaved in q and k. {Q_SCALE} sqrt(8) rounds.",
    },
    "qwen3_scanned_tied": {
        "family": "qwen3",
        "scanned": True,
        "settings": {**SMALL, "tie_word_embeddings": True},
        "exact": True,
        "notes": BF16_TIED,
    },
    "gemma2_scanned": {
        "family": "gemma2",
        "scanned": True,
        "settings": {**SQUARE, "num_hidden_layers": 4},
        "overrides": {"vocab_size": 256},
        "exact": False,
        "notes": f"Norms plus 1, embedding times sqrt(16) = 4 and padded from 192 to 256 rows. {Q_SCALE} {BF16_TIED}",
    },
    "gemma3_scanned": {
        "family": "gemma3_text",
        "scanned": True,
        "settings": {**SQUARE, "num_hidden_layers": 8, "head_dim": 8, "query_pre_attn_scalar": 8},
        "exact": False,
        "notes": f"Norms (q and k norm too) plus 1, embedding times sqrt(16) = 4. {BF16_TIED}",
    },
    "qwen2_scanned": {
        "family": "qwen2",
        "scanned": True,
        "settings": {**SMALL, "tie_word_embeddings": True},
        "exact": True,
        "notes": BF16_TIED,
    },
    "qwen3_unscanned_bf16": {
        "family": "qwen3",
        "scanned": False,
        "settings": SMALL,
        "dtype": "bfloat16",
        "exact": True,
        "notes": "The forward pass ran on the saved bfloat16 values as float32.",
    },
    "gemma3_unscanned": {
        "family": "gemma3_text",
        "scanned": False,
        "settings": {**SMALL, "intermediate_size": 16, "num_hidden_layers": 7, "head_dim": 8, "query_pre_attn_scalar": 8},
        "overrides": {"vocab_size": 256},
        "exact": False,
        "notes": "Norms plus 1; the embedding is padded from 192 to 256 rows and multiplied by sqrt(24) = 4.8990 rounded to "
        "bfloat16, 4.90625 (Gemma2: to float32). MaxText casts the tied embedding to bfloat16 in its logits.",
        "logits_tolerance": 0.02,
    },
}


def arguments(case: dict[str, Any], config: dict[str, Any], output: Path) -> list[str]:
    """MaxText's command line for one tiny model."""
    gemma2 = config["model_type"] == "gemma2"
    options: dict[str, Any] = {
        "model_name": MODELS[config["model_type"]],
        "override_model_config": True,
        "base_output_directory": output,
        "run_name": "tiny",
        "hardware": "cpu",
        "skip_jax_distributed_system": True,
        "scan_layers": case["scanned"],
        "base_emb_dim": config["hidden_size"],
        "base_mlp_dim": config["intermediate_size"],
        # One Gemma2 layer of MaxText is a local and a global one.
        "base_num_decoder_layers": config["num_hidden_layers"] // (2 if gemma2 else 1),
        "base_num_query_heads": config["num_attention_heads"],
        "base_num_kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "vocab_size": config["vocab_size"],
        "logits_via_embedding": config["tie_word_embeddings"],
        "normalization_layer_epsilon": config["rms_norm_eps"],
        "rope_max_timescale": int(config["rope_theta"]),
        "attention": "dot_product",
        "dtype": "float32",
        "weight_dtype": "float32",
        "matmul_precision": "highest",
        "per_device_batch_size": 2,
        "max_target_length": 16,
        "enable_dropout": False,
        "log_config": False,
        **case.get("overrides", {}),
    }
    if gemma2:
        options |= {"final_logits_soft_cap": 0.0}
    if config.get("sliding_window"):
        options |= {"sliding_window_size": config["sliding_window"]}
    if config["model_type"] == "gemma3_text":
        options |= {"rope_linear_scaling_factor": 1.0, "local_rope_max_timescale": int(config["rope_local_base_freq"])}
    base = Path(maxtext.__file__).parent / "configs" / "base.yml"
    return ["to_maxtext", str(base), *(f"{key}={value}" for key, value in options.items())]


def hugging_face_config(config: dict[str, Any]) -> SimpleNamespace:
    """What MaxText's mapping reads in place of the published model's config."""
    whole = config
    if config["model_type"] == "gemma3_text":
        whole = {"text_config": config, "vision_config": {"num_hidden_layers": 0, "hidden_size": 16}}
    return SimpleNamespace(to_dict=lambda: whole)


def as_multimodal(original: Path, folder: Path) -> Path:
    """MaxText reads Gemma3 under the names of the model with images."""
    tensors = load_file(original / "model.safetensors")
    folder.mkdir()
    renamed = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    return folder


def forward(argv: list[str], items: Path, ids: list[list[int]]) -> np.ndarray[Any, Any]:
    """MaxText's logits at the last position from the saved parameters."""
    config = pyconfig.initialize(argv)
    mesh = jax.sharding.Mesh(maxtext_utils.create_device_mesh(config), config.mesh_axes)
    model = models.transformer_as_linen(config, mesh, quant=None, model_mode="train")
    saved = ocp.PyTreeCheckpointer().restore(items)["params"]
    params = jax.tree_util.tree_map(lambda array: jnp.asarray(array, jnp.float32), saved)
    tokens = jnp.asarray(ids, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    with mesh, jax.default_matmul_precision("highest"):
        logits = model.apply(params, tokens, positions, decoder_segment_ids=jnp.ones_like(tokens), enable_dropout=False)
    return np.asarray(logits[:, -1], np.float32)


def write(name: str, out: Path) -> None:
    """Makes one case."""
    case = CASES[name]
    settings, dtype = case.get("settings", {}), case.get("dtype", "float32")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        original = write_original(folder / "original", case["family"], dtype=dtype, **settings)
        config = original_config(case["family"], **settings)
        argv = arguments(case, config, folder / "saved")
        to_maxtext.HF_MODEL_CONFIGS[MODELS[case["family"]]] = hugging_face_config(config)
        source = as_multimodal(original, folder / "renamed") if case["family"] == "gemma3_text" else original
        # Its loader would read with torch; its lazy tensors are none that this Orbax knows how to save.
        to_maxtext.load_hf_dict_from_safetensors = lambda path, **_: load_file(Path(path) / "model.safetensors")
        options = {"save_dtype": dtype, "simulated_cpu_devices_count": 1, "lazy_load_tensors": False}
        to_maxtext.main(argv, hf_model_path=str(source), **options)
        ids = token_ids(config["vocab_size"])
        logits = forward(argv, folder / "saved" / "0" / "items", ids)[:, : config["vocab_size"]]
        about = {
            "library": "maxtext",
            "versions": versions("maxtext", "jax", "flax", "orbax-checkpoint", "tensorstore"),
            "family": case["family"],
            "settings": settings,
            "seed": 0,
            "dtype": dtype,
            "original_dtype": dtype,
            "layout": "maxtext",
            "weights": "0/items",
            "scanned": case["scanned"],
            "tied": config["tie_word_embeddings"],
            "token_ids": ids,
            "exact": case["exact"],
            "notes": case["notes"],
        }
        if "logits_tolerance" in case:
            about["logits_tolerance"] = case["logits_tolerance"]
        pack(out / f"{name}.tar.xz", folder / "saved", about, np.ascontiguousarray(logits))
        print("WROTE", name, sorted(path.name for path in (folder / "saved").iterdir()), flush=True)


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
