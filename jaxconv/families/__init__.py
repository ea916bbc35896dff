"""Stage 3: what a model family calls its tensors, and what it does between final hidden state and logits.

A family is a row of `table.py`; nothing else has to change for a new one.
"""

from __future__ import annotations

from jaxconv.families.family import Family, LogitTransform, family_for, text_config
from jaxconv.families.table import FAMILIES
from jaxconv.families.tensors import HEAD, LmHead, check_backbone, find_lm_head, tie_word_embeddings

__all__ = [
    "FAMILIES", "HEAD", "Family", "LmHead", "LogitTransform", "check_backbone", "family_for", "find_lm_head", "text_config",
    "tie_word_embeddings",
]  # fmt: skip
