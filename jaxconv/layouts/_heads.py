"""Rows that the layouts tunix and gemma share: attention with heads as axes, under einsum names."""

from __future__ import annotations

from collections.abc import Mapping

from jaxconv.layouts._rules import Rule

# Name in a layer -> (axes, names in a Hugging Face layer, their axes).
Rows = Mapping[str, tuple[str, tuple[str, ...], str]]
Q, K, V, OUT = (f"self_attn.{name}_proj.weight" for name in "qkvo")
EINSUM: Rows = {
    "attn.q_einsum.w": ("N D H", (Q,), "N.H D"),
    "attn.kv_einsum.w": ("P G D H", (K, V), "G.H D"),
    "attn.qkv_einsum.w": ("P N D H", (Q, K, V), "N.H D"),
    "attn.attn_vec_einsum.w": ("N H D", (OUT,), "D N.H"),
    "attn._query_norm.scale": ("H", ("self_attn.q_norm.weight",), "H"),
    "attn._key_norm.scale": ("H", ("self_attn.k_norm.weight",), "H"),
    "attn.query_norm.scale": ("H", ("self_attn.q_norm.weight",), "H"),
    "attn.key_norm.scale": ("H", ("self_attn.k_norm.weight",), "H"),
    "pre_attention_norm.scale": ("D", ("input_layernorm.weight",), "D"),
}
# Gemma 1 has two norms in a layer; the second precedes the MLP.
GEMMA1_NORMS: Rows = {"pre_ffw_norm.scale": ("D", ("post_attention_layernorm.weight",), "D")}
GEMMA_NORMS: Rows = {
    "post_attention_norm.scale": ("D", ("post_attention_layernorm.weight",), "D"),
    "post_attn_norm.scale": ("D", ("post_attention_layernorm.weight",), "D"),
    "pre_ffw_norm.scale": ("D", ("pre_feedforward_layernorm.weight",), "D"),
    "post_ffw_norm.scale": ("D", ("post_feedforward_layernorm.weight",), "D"),
}


def layer_rules(prefix: str, rows: Rows, *, layer: tuple[int, int, int] = (1, 1, 0), stacked: bool = False) -> list[Rule]:
    """The rows of one layer as rules.

    Args:
        prefix: What stands before the foreign names.
        rows: The rows.
        layer: As in `Rule`.
        stacked: Whether layers are stacked on axis 0.
    """
    return [
        Rule(
            f"{prefix}.{name}",
            f"L {axes}" if stacked else axes,
            tuple(f"model.layers.{{i}}.{hf}" for hf in names),
            hf_axes,
            layer=layer,
        )
        for name, (axes, names, hf_axes) in rows.items()
    ]


def embedder_rules(norm: str) -> list[Rule]:
    """The rules of the embedding (unscaled, like Hugging Face's) and of the final norm, whose foreign name is `norm`."""
    return [
        Rule("embedder.input_embedding", "W D", ("model.embed_tokens.weight",), "V D"),
        Rule(norm, "D", ("model.norm.weight",), "D"),
    ]
