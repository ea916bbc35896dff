"""MaxText: what its own loader (to_maxtext) makes of a Hugging Face checkpoint.

Source: maxtext 0.2.5 checkpoint_conversion/utils/param_mapping.py, the hooks with `to_hf=False`. Queries are divided by
sqrt(head_dim) for Llama, Mistral and Gemma 2; rotary dimensions of Llama 3.1 lie in pairs; Gemma's norms carry their one,
and its embedding the factor sqrt(hidden_size). Scanned layers lie on axis 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxconv.json_files import JsonObject
from jaxconv.verification.libraries._place import LAYER, Place, bfloat16_root, float32_root

LAYOUTS = ("maxtext", "maxtext-llama3.1")
# Hugging Face tensor of a layer -> its axes, MaxText's module, leaf, and axes there.
TENSORS = {
    "self_attn.q_proj.weight": ("(N H) D", "self_attention", "query.kernel", "D N H"),
    "self_attn.k_proj.weight": ("(G H) D", "self_attention", "key.kernel", "D G H"),
    "self_attn.v_proj.weight": ("(G H) D", "self_attention", "value.kernel", "D G H"),
    "self_attn.o_proj.weight": ("D (N H)", "self_attention", "out.kernel", "N H D"),
    "self_attn.q_proj.bias": ("(N H)", "self_attention", "query.bias", "N H"),
    "self_attn.k_proj.bias": ("(G H)", "self_attention", "key.bias", "G H"),
    "self_attn.v_proj.bias": ("(G H)", "self_attention", "value.bias", "G H"),
    "self_attn.q_norm.weight": ("H", "self_attention", "query_norm.scale", "H"),
    "self_attn.k_norm.weight": ("H", "self_attention", "key_norm.scale", "H"),
    "mlp.gate_proj.weight": ("F D", "mlp", "wi_0.kernel", "D F"),
    "mlp.up_proj.weight": ("F D", "mlp", "wi_1.kernel", "D F"),
    "mlp.down_proj.weight": ("D F", "mlp", "wo.kernel", "F D"),
}
NORMS = {
    "input_layernorm.weight": "pre_self_attention_layer_norm",
    "post_attention_layernorm.weight": "post_self_attention_layer_norm",
}
GEMMA_NORMS = {
    "input_layernorm.weight": "pre_self_attention_norm",
    "post_attention_layernorm.weight": "post_self_attention_norm",
    "pre_feedforward_layernorm.weight": "pre_ffw_norm",
    "post_feedforward_layernorm.weight": "post_ffw_norm",
}
GEMMA3_PATTERN = 6  # layers of one repetition of local and global attention


def places(name: str, config: JsonObject, layout: str) -> Iterator[Place]:
    """Scanned and one by one; Gemma 2 in pairs of layers, Gemma 3 in sixes."""
    kind = str(config.get("model_type"))
    gemma = kind in ("gemma2", "gemma3_text")
    norm_plus = 1.0 if gemma else 0.0
    if name == "model.embed_tokens.weight":
        root = {"gemma2": float32_root, "gemma3_text": bfloat16_root}.get(kind)
        yield Place("token_embedder.embedding", "V D", "W D", times=root(config["hidden_size"]) if root else 1.0)
    elif name == "model.norm.weight":
        yield Place("decoder.decoder_norm.scale", "D", "D", plus=norm_plus)
    elif name == "lm_head.weight":
        yield Place("decoder.logits_dense.kernel", "V D", "D W")
    elif (match := LAYER.fullmatch(name)) is not None:
        number, tail = int(match[1]), match[2]
        norms = GEMMA_NORMS if gemma else NORMS
        row = ("D", norms[tail], "scale", "D") if tail in norms else TENSORS.get(tail)
        if row is None:
            return
        times, pairs = _query_factor(kind, tail, config), tail.endswith(("q_proj.weight", "k_proj.weight"))
        plus = norm_plus if tail.endswith("norm.weight") else 0.0
        for prefix, suffix, index in _blocks(kind, number, config["num_hidden_layers"]):
            yield Place(
                f"{prefix}.{row[1]}{suffix}.{row[2]}", row[0], _scanned(row[3]) if index is not None else row[3],
                {} if index is None else {"l": index}, times, plus, pairs and _pairs_rotary(config, layout),
            )  # fmt: skip


def _scanned(axes: str) -> str:
    """The axes with the stacked layers on axis 1."""
    first, *rest = axes.split()
    return " ".join([first, "l", *rest])


def _query_factor(kind: str, tail: str, config: JsonObject) -> float:
    if tail != "self_attn.q_proj.weight" or kind not in ("llama", "mistral", "gemma2"):
        return 1.0
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 1.0 / float32_root(head_dim)


def _pairs_rotary(config: JsonObject, layout: str) -> bool:
    """MaxText's models called llama3.1, which Hugging Face tells by the rope type llama3."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    llama3 = "llama3" in (scaling.get("rope_type"), scaling.get("type"))
    return config.get("model_type") == "llama" and (llama3 or layout == "maxtext-llama3.1")


def _blocks(kind: str, number: int, layers: int) -> Iterator[tuple[str, str, int | None]]:
    """Prefix, suffix of the module, and index among stacked layers (None: not stacked), for a Hugging Face layer."""
    if kind == "gemma2":
        suffix = "_global" if number % 2 else "_local"
        yield "decoder.layers", suffix, number // 2
        yield f"decoder.layers_{number // 2}", suffix, None
        return
    if kind == "gemma3_text":
        repeated = layers - layers % GEMMA3_PATTERN
        if number < repeated:
            yield f"decoder.layers.layers_{number % GEMMA3_PATTERN}", "", number // GEMMA3_PATTERN
        else:
            yield f"decoder.layers_remainder.layers_{number - repeated}", "", None
    else:
        yield "decoder.layers", "", number
    yield f"decoder.layers_{number}", "", None
