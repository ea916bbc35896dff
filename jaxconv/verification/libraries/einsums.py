"""Tunix and the gemma library: heads as axes, parts of one einsum stacked; values are Hugging Face's.

Source: google-tunix 0.1.7 models/*/params_safetensors.py (what it makes of Hugging Face names); gemma 3.3 gm/ckpts and gm/nn.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxconv.json_files import JsonObject
from jaxconv.verification.libraries._place import LAYER, Place

LAYOUTS = ("tunix", "gemma")
PATTERN = 6  # layers of one repetition of the attention pattern, which stacked checkpoints of the gemma library split by
# Hugging Face tensor of a layer -> its axes, then (the library's name, its axes, index of the part) for each spelling.
Spellings = tuple[tuple[str, str, int | None], ...]
PROJECTIONS: dict[str, tuple[str, Spellings]] = {
    "self_attn.q_proj.weight": (
        "(N H) D",
        (("attn.q_proj.w", "D N H", None), ("attn.q_einsum.w", "N D H", None), ("attn.qkv_einsum.w", "p N D H", 0)),
    ),
    "self_attn.k_proj.weight": (
        "(G H) D",
        (("attn.k_proj.w", "D G H", None), ("attn.kv_einsum.w", "p G D H", 0), ("attn.qkv_einsum.w", "p G D H", 1)),
    ),
    "self_attn.v_proj.weight": (
        "(G H) D",
        (("attn.v_proj.w", "D G H", None), ("attn.kv_einsum.w", "p G D H", 1), ("attn.qkv_einsum.w", "p G D H", 2)),
    ),
    "self_attn.o_proj.weight": ("D (N H)", (("attn.o_proj.w", "N H D", None), ("attn.attn_vec_einsum.w", "N H D", None))),
    "self_attn.q_proj.bias": ("B", (("attn.q_bias", "B", None),)),
    "self_attn.k_proj.bias": ("B", (("attn.k_bias", "B", None),)),
    "self_attn.v_proj.bias": ("B", (("attn.v_bias", "B", None),)),
}
GATED = (("mlp.gating_einsum", "p F D"), ("mlp.gating_einsum.w", "p F D"), ("mlp.gating_einsum", "p D F"),
         ("mlp.gating_einsum.w", "p D F"))  # fmt: skip
MLP: dict[str, tuple[str, Spellings]] = {
    "mlp.gate_proj.weight": ("F D", (("mlp.gate_proj.kernel", "D F", None), *((*gated, 0) for gated in GATED))),
    "mlp.up_proj.weight": ("F D", (("mlp.up_proj.kernel", "D F", None), *((*gated, 1) for gated in GATED))),
    "mlp.down_proj.weight": (
        "D F",
        (("mlp.down_proj.kernel", "F D", None), ("mlp.linear", "F D", None), ("mlp.linear.w", "F D", None)),
    ),
}
NORMS = {
    "self_attn.q_norm.weight": ("attn.q_norm.w", "attn._query_norm.scale", "attn.query_norm.scale"),
    "self_attn.k_norm.weight": ("attn.k_norm.w", "attn._key_norm.scale", "attn.key_norm.scale"),
    "input_layernorm.weight": ("input_layernorm.w", "pre_attention_norm.scale"),
    "post_attention_layernorm.weight": ("post_attention_layernorm.w", "post_attention_norm.scale", "post_attn_norm.scale"),
    "pre_feedforward_layernorm.weight": ("pre_ffw_norm.scale",),
    "post_feedforward_layernorm.weight": ("post_ffw_norm.scale",),
}
# Gemma 1 has two norms in a layer, and the second stands before the feed-forward part.
GEMMA1_NORMS = {**NORMS, "post_attention_layernorm.weight": ("pre_ffw_norm.scale",)}
ENDS = {
    "model.embed_tokens.weight": ("V D", (("embedder.input_embedding", "W D"),)),
    "model.norm.weight": ("D", (("final_norm.w", "D"), ("final_norm.scale", "D"))),
    "lm_head.weight": ("V D", (("lm_head.w", "D W"),)),
}


def places(name: str, config: JsonObject, layout: str) -> Iterator[Place]:
    """Every spelling of either library; names under the gemma library's root too."""
    for place in _places(name, config, layout):
        yield place
        if layout == "gemma":
            yield Place(f"transformer.{place.name}", place.hf, place.axes, place.at)


def _places(name: str, config: JsonObject, layout: str) -> Iterator[Place]:
    if name in ENDS:
        hf, names = ENDS[name]
        yield from (Place(library, hf, axes) for library, axes in names)
    elif (match := LAYER.fullmatch(name)) is not None:
        number, tail = int(match[1]), match[2]
        norms = GEMMA1_NORMS if config.get("model_type") == "gemma" else NORMS
        vectors: Spellings = tuple((library, "B", None) for library in norms.get(tail, ()))
        hf, spellings = {**PROJECTIONS, **MLP}.get(tail) or ("B", vectors)
        for library, axes, part in spellings:
            at = {} if part is None else {"p": part}
            if layout == "tunix":
                yield Place(f"layers.{number}.{library}", hf, axes, at)
                continue
            stack = f"stacked_layers.attention_type_{number % PATTERN}"
            yield Place(f"layer_{number}.{library}", hf, axes, at)
            yield Place(f"{stack}.{library}", hf, f"l {axes}", {**at, "l": number // PATTERN})
