"""Hugging Face's own names, as PyTorch saves them, and the spellings of them that transformers reads too.

transformers loads a causal LM from a file of its backbone (names without `model.`: `base_model_prefix`), and the text
model of a composite one from the composite's names (`model.language_model.*`). The output always has the names of the
causal LM's own class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from jaxconv.checkpoint import Checkpoint, TensorRef
from jaxconv.errors import LayoutError, SourceError
from jaxconv.json_files import JsonObject
from jaxconv.layouts._wrappers import check_wrappers
from jaxconv.readers import merge_zero

NAME = "hf"
FORMATS = ("safetensors", "torch_bin")
ROOT = "model."
EMBEDDING = "model.embed_tokens.weight"
# What a backbone's names begin with when they lack `model.`.
BACKBONE = ("embed_tokens.", "layers.", "norm.", "final_layernorm.", "rotary_emb.")
# Prefix of a text model within a composite model -> prefix in a causal LM; the first that fits counts.
COMPOSITE = (
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", ROOT),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", ROOT),
    ("language_model.", ROOT),
    ("model.text_model.", ROOT),  # Idefics 3 and SmolVLM
)


def matches(checkpoint: Checkpoint) -> bool:
    """Whether the container of `checkpoint` is one that holds PyTorch names."""
    return checkpoint.format in FORMATS


def standard_names(names: Iterable[str]) -> dict[str, str]:
    """The name that each tensor has in the causal LM's class; unknown names stay as they are.

    Args:
        names: The names of a whole checkpoint: whether `model.` is missing depends on all of them.

    Returns:
        Name in the checkpoint -> name in the causal LM.
    """
    names = list(names)
    bare = not any(name.startswith(ROOT) for name in names)

    def standard(name: str) -> str:
        for prefix, target in COMPOSITE:
            if name.startswith(prefix):
                return target + name.removeprefix(prefix)
        return ROOT + name if bare and name.startswith(BACKBONE) else name

    return {name: standard(name) for name in names}


def to_hf(checkpoint: Checkpoint, config: JsonObject) -> Checkpoint:
    """The tensors under the names of the causal LM's class.

    Args:
        checkpoint: The checkpoint as its reader opened it.
        config: Not used: names alone decide.

    Returns:
        The checkpoint itself if it has these names already.

    Raises:
        LayoutError: Two tensors would get the same name.
        SourceError: The names are those of a training wrapper, or the tensors were saved empty.
    """
    names = standard_names(checkpoint.tensors)
    check_wrappers(checkpoint, names.values())
    check_not_empty(checkpoint)
    changed = [(name, standard) for name, standard in names.items() if name != standard]
    if not changed:
        return checkpoint
    tensors: dict[str, TensorRef] = {}
    for name, ref in checkpoint.tensors.items():
        if names[name] in tensors:
            raise LayoutError(
                f"{checkpoint.path}: {name} and another tensor both mean {names[name]}; expected one of them. "
                "Save the model again with AutoModelForCausalLM."
            )
        tensors[names[name]] = ref.renamed(names[name])
    note = (
        f"{len(changed)} tensors are renamed as transformers' class calls them ({changed[0][0]} to {changed[0][1]}), so the "
        "weight files are rewritten, with --copy-mode link too."
    )
    return replace(checkpoint, tensors=tensors, shards=(), notes=(*checkpoint.notes, note))


def inverse(output: Checkpoint, raw: Checkpoint, config: JsonObject) -> dict[str, TensorRef]:
    """See `jaxconv.layouts.from_hf`.

    Args:
        output: Tensors under the names of the causal LM's class.
        raw: The source as its reader opened it.
        config: Not used.
    """
    names = standard_names(raw.tensors) | {name: name for name in raw.tensors if name in output.tensors}
    return {name: output.tensors[names[name]].renamed(name) for name in raw.tensors if names[name] in output.tensors}


def check_not_empty(checkpoint: Checkpoint) -> None:
    """Raises `SourceError` if the checkpoint holds tensors without values, as ZeRO-3 saves them."""
    empty = [name for name, ref in checkpoint.tensors.items() if ref.shape == (0,)]
    if empty:
        commands = merge_zero(Path(checkpoint.path))
        remedy = (
            "Save again with stage3_gather_16bit_weights_on_model_save, or convert the directory with zero_to_fp32.py, which "
            "holds the values: jaxconv says how to merge it."
            if commands is None
            else f"The values lie in the global_step directory beside them. Merge those and convert that{commands}"
        )
        raise SourceError(
            f"{checkpoint.path}: {len(empty)} of {len(checkpoint.tensors)} tensors are empty (shape [0]: {empty[0]}, ...). "
            f"DeepSpeed ZeRO-3 saves them so when weights are not gathered. {remedy}"
        )
