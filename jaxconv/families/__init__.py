"""Stage 3: what a model family calls its tensors, and what it does between final hidden state and logits.

A family answers the questions of `Family`. Most are a row of `table.py`; those that have none take their answers from
transformers, and their conversions have to be proven (`by_proof.py`).
"""

from __future__ import annotations

from jaxconv.families.adapter_names import adapter_names
from jaxconv.families.by_proof import PROOF, check_proof_can_run
from jaxconv.families.family import Family, HeadNames, LogitTransform, score_layer, text_config
from jaxconv.families.multimodal import COMPOSITES, composite_of, language_model
from jaxconv.families.parameter import Parameter
from jaxconv.families.recognition import family_for
from jaxconv.families.table import FAMILIES
from jaxconv.families.table_family import num_experts, with_defaults
from jaxconv.families.tensors import LmHead, Rows, check_backbone, disagreement, find_lm_head, tie_word_embeddings
from jaxconv.families.text_only import text_only_config, without_towers
from jaxconv.families.tower_names import with_served_towers

__all__ = [
    "COMPOSITES", "FAMILIES", "PROOF", "Family", "HeadNames", "LmHead", "LogitTransform", "Parameter", "Rows",
    "adapter_names", "check_backbone", "check_proof_can_run", "composite_of", "disagreement", "family_for", "find_lm_head",
    "language_model", "num_experts", "score_layer", "text_config", "text_only_config", "tie_word_embeddings", "with_defaults",
    "with_served_towers", "without_towers",
]  # fmt: skip
