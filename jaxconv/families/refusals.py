"""What is refused as data: heads that are not linear, and keys that change logits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from jaxconv.families.family import text_config
from jaxconv.json_files import JsonObject

# Known not to be one linear head over a decoder: architecture or model type -> why.
REFUSED: Mapping[str, str] = {
    "JinaForRanking": "it compares embeddings of many documents in one prompt; vLLM serves it natively",
    "LayerWiseMiniCPMForCausalLM": "it has one head for each layer",
    "CostWiseGemmaForCausalLM": "it compresses tokens between layers and has a head for each layer",
    "cost_wise_gemma": "it compresses tokens between layers and has a head for each layer",
    "minicpm": "hidden states are scaled before the head, and loaders differ on where",
    "minicpm3": "hidden states are scaled before the head, and loaders differ on where",
}

# Keys that change logits in some family or loader, and the values that change nothing.
LOGIT_KEYS: Mapping[str, tuple[object, ...]] = {
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "lm_head_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "logits_soft_cap": (None,),
}

# For families that no table describes every key of such a name is under suspicion, unless it acts inside the backbone or
# changes no value. Hidden states are scaled by `dim_model_base` in the MiniCPM family.
SUSPICIOUS = re.compile(r".*(logit|soft_?cap|lm_head|(head|output)_(scal|mult)|unembed).*|dim_model_base")
HARMLESS = re.compile(r"attn_.*|.*attention.*|.*router.*|gate_soft_cap|mlp_.*|num_logits_to_keep|lm_head_bias|.*_loss_.*")
NEUTRAL = (None, False, 1)


def suspicious_keys(config: JsonObject) -> Iterator[str]:
    """`key value` of everything in `config`, a config.json, that may change logits between the head and the answer."""
    for part in (config, text_config(config)):
        for key, value in part.items():
            neutral = LOGIT_KEYS.get(key, NEUTRAL)
            suspected = key in LOGIT_KEYS or (SUSPICIOUS.fullmatch(key) and not HARMLESS.fullmatch(key))
            if suspected and value not in neutral:
                yield f"{key} {value!r:.60}"
        if part is text_config(config):
            return
