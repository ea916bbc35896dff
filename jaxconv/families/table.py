"""The families as data: tensor names of the checkpoint files, with shapes in symbols.

Symbols: V vocab_size, D hidden_size, F intermediate_size, M moe_intermediate_size, Q query width (heads x
head_dim), K key width (kv heads x head_dim), H head_dim, E experts; "2F" and "Q+2K" are sums. `{i}` is the
layer, `{e}` the expert. Proven against transformers' own models in tests/families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Shapes = Mapping[str, str]

EMBED = {"model.embed_tokens.weight": "V D", "model.norm.weight": "D"}
_LAYER = "model.layers.{i}."
TWO_NORMS = {_LAYER + "input_layernorm.weight": "D", _LAYER + "post_attention_layernorm.weight": "D"}
POST_NORMS = {_LAYER + "post_attention_layernorm.weight": "D", _LAYER + "post_feedforward_layernorm.weight": "D"}
FOUR_NORMS = {
    **TWO_NORMS,
    _LAYER + "pre_feedforward_layernorm.weight": "D",
    _LAYER + "post_feedforward_layernorm.weight": "D",
}
ATTENTION = {
    _LAYER + "self_attn.q_proj.weight": "Q D",
    _LAYER + "self_attn.k_proj.weight": "K D",
    _LAYER + "self_attn.v_proj.weight": "K D",
    _LAYER + "self_attn.o_proj.weight": "D Q",
}
QKV_BIAS = {
    _LAYER + "self_attn.q_proj.bias": "Q",
    _LAYER + "self_attn.k_proj.bias": "K",
    _LAYER + "self_attn.v_proj.bias": "K",
}
O_BIAS = {_LAYER + "self_attn.o_proj.bias": "D"}
QK_NORM = {_LAYER + "self_attn.q_norm.weight": "H", _LAYER + "self_attn.k_norm.weight": "H"}
WIDE_QK_NORM = {_LAYER + "self_attn.q_norm.weight": "Q", _LAYER + "self_attn.k_norm.weight": "K"}
MLP = {
    _LAYER + "mlp.gate_proj.weight": "F D",
    _LAYER + "mlp.up_proj.weight": "F D",
    _LAYER + "mlp.down_proj.weight": "D F",
}
MLP_BIAS = {
    _LAYER + "mlp.gate_proj.bias": "F",
    _LAYER + "mlp.up_proj.bias": "F",
    _LAYER + "mlp.down_proj.bias": "D",
}
MIXTRAL_MOE = {
    _LAYER + "block_sparse_moe.gate.weight": "E D",
    _LAYER + "block_sparse_moe.experts.{e}.w1.weight": "F D",
    _LAYER + "block_sparse_moe.experts.{e}.w2.weight": "D F",
    _LAYER + "block_sparse_moe.experts.{e}.w3.weight": "F D",
}
QWEN3_MOE = {
    _LAYER + "mlp.gate.weight": "E D",
    _LAYER + "mlp.experts.{e}.gate_proj.weight": "M D",
    _LAYER + "mlp.experts.{e}.up_proj.weight": "M D",
    _LAYER + "mlp.experts.{e}.down_proj.weight": "D M",
}
PHI3 = {
    _LAYER + "self_attn.qkv_proj.weight": "Q+2K D",
    _LAYER + "self_attn.o_proj.weight": "D Q",
    _LAYER + "mlp.gate_up_proj.weight": "2F D",
    _LAYER + "mlp.down_proj.weight": "D F",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One family. `when` adds tensors where a config key is true (its default beside it)."""

    architecture: str
    tensors: Shapes
    when: Mapping[tuple[str, bool], Shapes] = field(default_factory=dict)
    target: str | None = None  # architecture of the output, where the suffix rule does not give it
    tied: bool = False  # what an absent tie_word_embeddings means
    multiply: str | None = None  # config key that logits are multiplied by
    divide: str | None = None  # config key that logits are divided by
    transformers_seq_cls: bool = True


_PLAIN = {**EMBED, **TWO_NORMS, **ATTENTION, **MLP}
_BIASES: Mapping[tuple[str, bool], Shapes] = {
    ("attention_bias", False): {**QKV_BIAS, **O_BIAS},
    ("mlp_bias", False): MLP_BIAS,
}

FAMILIES: Mapping[str, Row] = {
    "llama": Row("LlamaForCausalLM", _PLAIN, _BIASES),
    "mistral": Row("MistralForCausalLM", _PLAIN),
    "mixtral": Row("MixtralForCausalLM", {**EMBED, **TWO_NORMS, **ATTENTION, **MIXTRAL_MOE}),
    "qwen2": Row("Qwen2ForCausalLM", {**_PLAIN, **QKV_BIAS}),
    "qwen3": Row(
        "Qwen3ForCausalLM", {**_PLAIN, **QK_NORM}, {("attention_bias", False): {**QKV_BIAS, **O_BIAS}}
    ),
    "qwen3_moe": Row(
        "Qwen3MoeForCausalLM",
        {**EMBED, **TWO_NORMS, **ATTENTION, **QK_NORM, **QWEN3_MOE},
        {("attention_bias", False): {**QKV_BIAS, **O_BIAS}},
    ),
    "gemma": Row(
        "GemmaForCausalLM", _PLAIN, {("attention_bias", False): {**QKV_BIAS, **O_BIAS}}, tied=True
    ),
    "gemma2": Row(
        "Gemma2ForCausalLM",
        {**EMBED, **FOUR_NORMS, **ATTENTION, **MLP},
        {("attention_bias", False): {**QKV_BIAS, **O_BIAS}},
        tied=True,
    ),
    # vLLM cannot load Gemma3TextForSequenceClassification (names without "model."); transformers goes by model_type.
    "gemma3_text": Row(
        "Gemma3ForCausalLM",
        {**EMBED, **FOUR_NORMS, **ATTENTION, **QK_NORM, **MLP},
        {("attention_bias", False): {**QKV_BIAS, **O_BIAS}},
        target="Gemma3ForSequenceClassification",
        tied=True,
    ),
    "phi3": Row("Phi3ForCausalLM", {**EMBED, **TWO_NORMS, **PHI3}),
    "granite": Row(
        "GraniteForCausalLM", _PLAIN, _BIASES, divide="logits_scaling", transformers_seq_cls=False
    ),
    "cohere": Row(
        "CohereForCausalLM",
        {**EMBED, _LAYER + "input_layernorm.weight": "D", **ATTENTION, **MLP},
        {("attention_bias", False): {**QKV_BIAS, **O_BIAS}},
        tied=True,
        multiply="logit_scale",
        transformers_seq_cls=False,
    ),
    "cohere2": Row(
        "Cohere2ForCausalLM",
        {**EMBED, _LAYER + "input_layernorm.weight": "D", **ATTENTION, **MLP},
        {("attention_bias", False): {**QKV_BIAS, **O_BIAS}},
        tied=True,
        multiply="logit_scale",
        transformers_seq_cls=False,
    ),
    "olmo2": Row(
        "Olmo2ForCausalLM",
        {**EMBED, **POST_NORMS, **ATTENTION, **WIDE_QK_NORM, **MLP},
        {("attention_bias", False): {**QKV_BIAS, **O_BIAS}},
        transformers_seq_cls=False,
    ),
    "smollm3": Row("SmolLM3ForCausalLM", _PLAIN, _BIASES, tied=True),
}  # fmt: skip

# Known not to be one linear head over a decoder: architecture -> why.
REFUSED: Mapping[str, str] = {
    "JinaForRanking": "it compares embeddings of many documents in one prompt; vLLM serves it natively",
    "LayerWiseMiniCPMForCausalLM": "it has one head for each layer",
    "CostWiseGemmaForCausalLM": "it compresses tokens between layers and has a head for each layer",
    "MiniCPMForCausalLM": "hidden states are scaled before the head, and loaders differ on where",
    "LlamaBidirectionalForSequenceClassification": "it is a classifier already",
}
