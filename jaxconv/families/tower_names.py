"""CLIP and SigLIP towers under the names that vLLM reads.

transformers 5 writes their tensors one level higher than the hub's files have them (`vision_tower.encoder…` for
`vision_tower.vision_model.encoder…`). It reads both; vLLM 0.32 starts only with the hub's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.families.family import Family
from jaxconv.json_files import JsonObject

TOWERS = ("clip_vision_model", "siglip_vision_model")
INNER = "vision_model."


def with_served_towers(checkpoint: Checkpoint, family: Family, config: JsonObject) -> Checkpoint:
    """The same tensors, those of a CLIP or SigLIP tower under the hub's names, and a note where that changed one.

    Args:
        checkpoint: The tensors under Hugging Face names.
        family: The family, in the spelling of these names.
        config: The config.json.
    """
    vision = config.get("vision_config")
    if family.composite is None or not isinstance(vision, dict) or vision.get("model_type") not in TOWERS:
        return checkpoint
    tower = family.towers[0]
    if any(name.startswith(tower + INNER) for name in checkpoint.tensors):
        return checkpoint
    names = {name: tower + INNER + name.removeprefix(tower) for name in checkpoint.tensors if name.startswith(tower)}
    if not names:
        return checkpoint
    note = (
        f"the {len(names)} tensors of the vision tower have the names that transformers 5 writes ({tower}*), with which vLLM "
        f"0.32 does not start; the output has the hub's names ({tower}{INNER}*), which transformers reads too. The weight "
        "files are rewritten for it, with --copy-mode link too."
    )
    return replace(checkpoint, tensors=_renamed(checkpoint.tensors, names), shards=(), notes=(*checkpoint.notes, note))


def _renamed(tensors: Mapping[str, TensorRef], names: Mapping[str, str]) -> dict[str, TensorRef]:
    return {names.get(name, name): ref.renamed(names.get(name, name)) for name, ref in tensors.items()}
