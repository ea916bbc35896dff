"""Stage 6: everything of the output that is not weights, as a pure function of the plan."""

from __future__ import annotations

from collections.abc import Sequence

from jaxconv.bundle.card import CARD_NAME, card
from jaxconv.bundle.config import output_config
from jaxconv.bundle.provenance import PROVENANCE, provenance
from jaxconv.bundle.quantisation import companion_files
from jaxconv.bundle.sentence_transformers import sentence_transformers_files
from jaxconv.bundle.tokenizer import tokenizer_files
from jaxconv.head import ScoreHead
from jaxconv.json_files import dump_json
from jaxconv.plan import Plan
from jaxconv.text.prompt import TEMPLATE_NAME
from jaxconv.writer.shards import OutputFile, index_file

__all__ = ["CARD_NAME", "PROVENANCE", "files"]


def files(plan: Plan, head: ScoreHead, weights: Sequence[OutputFile]) -> dict[str, bytes]:
    """The content of every file of the output that is not weights.

    Args:
        plan: The plan of the conversion.
        head: The score head.
        weights: The planned weight files, for the index.

    Returns:
        File name, relative to the output -> content, in the order in which they are written: `config.json`, which makes
        a checkpoint of the directory, is the last.
    """
    return {
        **index_file(weights),
        **tokenizer_files(plan),
        **companion_files(plan),
        TEMPLATE_NAME: plan.prompt.template.encode(),
        **sentence_transformers_files(plan, head),
        CARD_NAME: card(plan).encode(),
        PROVENANCE: dump_json(provenance(plan, head)),
        "config.json": dump_json(output_config(plan)),
    }
