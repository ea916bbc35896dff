"""The families as data: tensor names of the checkpoint files, with shapes in symbols.

Symbols: V vocab_size, D hidden_size, F intermediate_size, M moe_intermediate_size, S
shared_expert_intermediate_size, N attention heads, G key-value heads, H head_dim, Q query width (N x H),
K key width (G x H), E experts; "2F", "2M" and "Q+2K" are sums. In names `{i}` is the layer, `{e}` the expert,
`{n}` the attention head, `{g}` the key-value head. Of linear attention: LH value heads, LD their size, LV value width
(LH x LD), LC width of the convolution (two key widths and LV), LW its length.
Proven against transformers' own models in tests/families.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxconv.families.row import Row, Shapes, When
from jaxconv.json_files import JsonObject


def _layer(**shapes: str) -> Shapes:
    """Names of one layer: `a__b="D"` is `layers.{i}.a.b.weight`, and `a__b_bias` its bias."""
    return {
        f"layers.{{i}}.{name.removesuffix('_bias').replace('__', '.')}."
        f"{'bias' if name.endswith('_bias') else 'weight'}": shape
        for name, shape in shapes.items()
    }


EMBED = {"embed_tokens.weight": "V D", "norm.weight": "D"}
IN_NORM = _layer(input_layernorm="D")
TWO_NORMS = {**IN_NORM, **_layer(post_attention_layernorm="D")}
POST_NORMS = _layer(post_attention_layernorm="D", post_feedforward_layernorm="D")
FOUR_NORMS = {**TWO_NORMS, **_layer(pre_feedforward_layernorm="D", post_feedforward_layernorm="D")}
QKV = _layer(self_attn__q_proj="Q D", self_attn__k_proj="K D", self_attn__v_proj="K D")
QKV_BIAS = _layer(self_attn__q_proj_bias="Q", self_attn__k_proj_bias="K", self_attn__v_proj_bias="K")
O_BIAS = _layer(self_attn__o_proj_bias="D")
ATTENTION = {**QKV, **_layer(self_attn__o_proj="D Q")}
ATTENTION_BIAS = {**QKV_BIAS, **O_BIAS}
QK_NORM = _layer(self_attn__q_norm="H", self_attn__k_norm="H")
WIDE_QK_NORM = _layer(self_attn__q_norm="Q", self_attn__k_norm="K")
HEADS_QK_NORM = _layer(self_attn__q_norm="N H", self_attn__k_norm="G H")
MLP = _layer(mlp__gate_proj="F D", mlp__up_proj="F D", mlp__down_proj="D F")
MLP_BIAS = _layer(mlp__gate_proj_bias="F", mlp__up_proj_bias="F", mlp__down_proj_bias="D")
FUSED_MLP = _layer(mlp__gate_up_proj="2F D", mlp__down_proj="D F")
_EXPERT = "block_sparse_moe__experts__{e}__"
MIXTRAL_MOE = _layer(block_sparse_moe__gate="E D", **{_EXPERT + "w1": "F D", _EXPERT + "w2": "D F", _EXPERT + "w3": "F D"})
_EXPERT = "mlp__experts__{e}__"
QWEN_MOE = _layer(
    mlp__gate="E D",
    **{_EXPERT + "gate_proj": "M D", _EXPERT + "up_proj": "M D", _EXPERT + "down_proj": "D M"},
)
SHARED_EXPERT = _layer(
    mlp__shared_expert__gate_proj="S D",
    mlp__shared_expert__up_proj="S D",
    mlp__shared_expert__down_proj="D S",
    mlp__shared_expert_gate="1 D",
)
PHI = {
    "embed_tokens.weight": "V D", "final_layernorm.weight": "D", "final_layernorm.bias": "D",
    **IN_NORM, **_layer(input_layernorm_bias="D"), **QKV, **QKV_BIAS,
    **_layer(self_attn__dense="D Q", self_attn__dense_bias="D"),
    **_layer(mlp__fc1="F D", mlp__fc1_bias="F", mlp__fc2="D F", mlp__fc2_bias="D"),
}  # fmt: skip
PHI_QK_NORM = _layer(
    self_attn__q_layernorm="H", self_attn__q_layernorm_bias="H",
    self_attn__k_layernorm="H", self_attn__k_layernorm_bias="H",
)  # fmt: skip
STARCODER2 = {
    **EMBED, "norm.bias": "D", **TWO_NORMS,
    **_layer(input_layernorm_bias="D", post_attention_layernorm_bias="D"),
    **ATTENTION, **_layer(mlp__c_fc="F D", mlp__c_proj="D F"),
}  # fmt: skip
STARCODER2_BIAS = {**ATTENTION_BIAS, **_layer(mlp__c_fc_bias="F", mlp__c_proj_bias="D")}
# Qwen3.5: the gate of full attention lies in q_proj.
LINEAR_ATTENTION = {
    "layers.{i}.linear_attn.A_log": "LH", "layers.{i}.linear_attn.dt_bias": "LH",
    **_layer(linear_attn__conv1d="LC 1 LW", linear_attn__in_proj_qkv="LC D", linear_attn__in_proj_z="LV D"),
    **_layer(linear_attn__in_proj_a="LH D", linear_attn__in_proj_b="LH D", linear_attn__norm="LD"),
    **_layer(linear_attn__out_proj="D LV"),
}  # fmt: skip
JOINED_EXPERTS = {
    "layers.{i}.mlp.experts.gate_up_proj": "E 2M D", "layers.{i}.mlp.experts.down_proj": "E D M",
}  # fmt: skip
GATED_ATTENTION = {**ATTENTION, **QK_NORM, **_layer(self_attn__q_proj="2Q D")}
STABLELM = {**EMBED, "norm.bias": "D", **IN_NORM, **_layer(input_layernorm_bias="D"), **ATTENTION, **MLP}
STABLELM_QK_NORM = _layer(**{"self_attn__q_layernorm__norms__{n}": "H", "self_attn__k_layernorm__norms__{g}": "H"})
STABLELM_SERIAL = _layer(post_attention_layernorm="D", post_attention_layernorm_bias="D")

_BASE = {**EMBED, **TWO_NORMS, **ATTENTION}
_PLAIN = {**_BASE, **MLP}
_COHERE = {**EMBED, **IN_NORM, **ATTENTION, **MLP}
_BIAS = (When("attention_bias", False, ATTENTION_BIAS),)
_BIASES = (*_BIAS, When("mlp_bias", False, MLP_BIAS))
_SOFTCAP = "final_logit_softcapping"
_KV, _HD, _E, _TOP = "num_key_value_heads", "head_dim", "num_experts", "num_experts_per_tok"
_EPS, _THETA, _WINDOW = "rms_norm_eps", "rope_theta", "sliding_window"


def _decoder(positions: int, **defaults: Any) -> JsonObject:
    """The defaults of a family that `jaxconv.models` runs: what decides its arithmetic, beside the sizes."""
    return {"max_position_embeddings": positions, _EPS: 1e-6, _THETA: 1e4, "hidden_act": "silu", **defaults}


def _gemma(positions: int, **defaults: Any) -> JsonObject:
    return _decoder(positions, **{_HD: 256, "hidden_activation": "gelu_pytorch_tanh", **defaults})


def _hybrid(kv_heads: int, **defaults: Any) -> JsonObject:
    return {
        _KV: kv_heads, _HD: 256, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4, **defaults,
    }  # fmt: skip


HYBRID = {"linear_attention": LINEAR_ATTENTION, "full_attention": GATED_ATTENTION}
_QWEN_WINDOW = {_WINDOW: 4096, "max_window_layers": 28}

FAMILIES: Mapping[str, Row] = {
    "llama": Row("LlamaForCausalLM", _PLAIN, _BIASES, defaults=_decoder(2048)),
    "mistral": Row("MistralForCausalLM", _PLAIN, defaults=_decoder(131072, **{_KV: 8, _WINDOW: 4096})),
    "mixtral": Row(
        "MixtralForCausalLM", {**_BASE, **MIXTRAL_MOE},
        defaults=_decoder(131072, **{_KV: 8, _E: 8, _TOP: 2, _EPS: 1e-5, _THETA: 1e6, _WINDOW: None}),
    ),
    "qwen2": Row("Qwen2ForCausalLM", {**_PLAIN, **QKV_BIAS}, defaults=_decoder(32768, **{_KV: 32, **_QWEN_WINDOW})),
    "qwen2_moe": Row(
        "Qwen2MoeForCausalLM", _BASE, (When("qkv_bias", True, QKV_BIAS),), {**QWEN_MOE, **SHARED_EXPERT}, MLP,
        {_KV: 16, _E: 60, "decoder_sparse_step": 1},
    ),
    "qwen3": Row(
        "Qwen3ForCausalLM", {**_PLAIN, **QK_NORM}, _BIAS, defaults=_decoder(32768, **{_KV: 32, _HD: 128, **_QWEN_WINDOW})
    ),
    "qwen3_moe": Row(
        "Qwen3MoeForCausalLM", {**_BASE, **QK_NORM}, _BIAS, QWEN_MOE, MLP,
        _decoder(
            32768,
            **{_KV: 4, _E: 128, _TOP: 8, "norm_topk_prob": False, "decoder_sparse_step": 1, _WINDOW: 4096},
        ),
    ),
    "qwen3_5_text": Row(
        "Qwen3_5ForCausalLM", {**EMBED, **TWO_NORMS, **MLP}, by_layer_type=HYBRID, defaults=_hybrid(4), draft="mtp.",
    ),
    "qwen3_5_moe_text": Row(
        "Qwen3_5MoeForCausalLM", {**EMBED, **TWO_NORMS, **QWEN_MOE, **SHARED_EXPERT}, by_layer_type=HYBRID,
        joined=JOINED_EXPERTS, defaults=_hybrid(2, num_experts=256), draft="mtp.", transformers_seq_cls=False,
    ),
    "gemma": Row("GemmaForCausalLM", _PLAIN, _BIAS, defaults=_gemma(8192, **{_KV: 16}), tied=True),
    "gemma2": Row(
        "Gemma2ForCausalLM", {**EMBED, **FOUR_NORMS, **ATTENTION, **MLP}, _BIAS,
        defaults=_gemma(
            8192,
            **{_KV: 4, _WINDOW: 4096, _SOFTCAP: 30.0, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0},
        ),
        tied=True, softcap=_SOFTCAP,
    ),
    # vLLM cannot load Gemma3TextForSequenceClassification (names without ""); transformers goes by model_type.
    "gemma3_text": Row(
        "Gemma3ForCausalLM", {**EMBED, **FOUR_NORMS, **ATTENTION, **QK_NORM, **MLP}, _BIAS,
        defaults=_gemma(
            131072,
            **{
                _KV: 4, _WINDOW: 4096, "sliding_window_pattern": 6, _THETA: 1e6, "rope_local_base_freq": 1e4,
                "query_pre_attn_scalar": 256, "attn_logit_softcapping": None,
            },
        ),
        target="Gemma3ForSequenceClassification", tied=True, softcap=_SOFTCAP,
    ),
    "phi3": Row(
        "Phi3ForCausalLM",
        {**EMBED, **TWO_NORMS, **_layer(self_attn__qkv_proj="Q+2K D", self_attn__o_proj="D Q"), **FUSED_MLP},
        defaults=_decoder(4096, **{_EPS: 1e-5, _WINDOW: None, "original_max_position_embeddings": 4096}),
    ),
    "phi": Row("PhiForCausalLM", PHI, (When("qk_layernorm", False, PHI_QK_NORM),), head_bias=True),
    "granite": Row(
        "GraniteForCausalLM", _PLAIN, _BIASES, defaults={"logits_scaling": 1.0}, divide="logits_scaling",
        transformers_seq_cls=False,
    ),
    "cohere": Row(
        "CohereForCausalLM", _COHERE, (*_BIAS, When("use_qk_norm", False, HEADS_QK_NORM)),
        defaults={"logit_scale": 0.0625}, tied=True, multiply="logit_scale", transformers_seq_cls=False,
    ),
    "cohere2": Row(
        "Cohere2ForCausalLM", _COHERE, _BIAS, defaults={"logit_scale": 0.0625}, tied=True,
        multiply="logit_scale", transformers_seq_cls=False,
    ),
    "olmo2": Row("Olmo2ForCausalLM", {**EMBED, **POST_NORMS, **ATTENTION, **WIDE_QK_NORM, **MLP}, _BIAS),
    "starcoder2": Row(
        "Starcoder2ForCausalLM", STARCODER2, (When("use_bias", True, STARCODER2_BIAS),), defaults={_KV: 2},
        tied=True,
    ),
    "smollm3": Row("SmolLM3ForCausalLM", _PLAIN, _BIASES, defaults={_KV: 4}, tied=True),
    "glm4": Row(
        "Glm4ForCausalLM",
        {**_BASE, **_layer(post_self_attn_layernorm="D", post_mlp_layernorm="D"), **FUSED_MLP},
        (When("attention_bias", True, QKV_BIAS),), defaults={_KV: 2, _HD: 128},
    ),
    "stablelm": Row(
        "StableLmForCausalLM", STABLELM,
        (
            When("use_qkv_bias", False, QKV_BIAS),
            When("qk_layernorm", False, STABLELM_QK_NORM),
            When("use_parallel_residual", False, STABLELM_SERIAL, value=False),
        ),
        defaults={_KV: 32},
    ),
}  # fmt: skip
