"""Names that a training wrapper put a prefix before: not a model that loaders read, and how to remove the prefix."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import SourceError

EMBEDDING = "embed_tokens.weight"
# Part of a name -> who puts it there. Those that begin with an underscore lie within names too.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "module.": "DataParallel, DDP or DeepSpeed",
}
LORA = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B")
IMPORTS = {
    "safetensors": "from safetensors.numpy import load_file, save_file",
    "torch_bin": "from torch import load as load_file, save as save_file",
}
FILES = {"safetensors": "*.safetensors", "torch_bin": "pytorch_model*.bin"}
# Writes a copy of the weights, and of their index, with the names that `strip` gives.
SCRIPT = (
    "import json, ml_dtypes, pathlib; {imports}; source, target = pathlib.Path({source!r}), pathlib.Path({target!r}); "
    "target.mkdir(); strip = lambda names: {{{strip}: value for name, value in names.items()}}; "
    "[save_file(strip(load_file(file)), target / file.name) for file in source.glob({files!r})]; "
    "[(target / file.name).write_text(json.dumps({{'metadata': {{}}, 'weight_map': strip(index['weight_map'])}})) "
    "for file in source.glob('*.index.json') for index in [json.loads(file.read_text())]]"
)


def check_wrappers(checkpoint: Checkpoint, names: Collection[str]) -> None:
    """Refuses names that carry the prefix of a wrapper.

    Args:
        checkpoint: The checkpoint.
        names: Its names, as far as they are known to be those of transformers.

    Raises:
        SourceError: All names begin with a prefix, or a wrapper's name lies within them; the message has the command that
            removes it.
    """
    lora = [name for name in names if any(mark in name for mark in LORA)]
    if lora:
        raise SourceError(
            f"{checkpoint.path} holds a PEFT model that is not merged ({len(lora)} LoRA tensors beside its base, {lora[0]}, "
            "...); alpha is not stored with them, so they cannot be merged exactly here. In the program that has the model "
            "(a PeftModel) save the adapter alone, model.save_pretrained('adapter'), and pass it as --adapter adapter, or "
            "save it merged, model.merge_and_unload().save_pretrained('merged'), and convert merged."
        )
    inner = [mark for mark in WRAPPERS if mark.startswith("_") and any(mark in name for name in names)]
    for mark in inner:
        names = [name.replace(mark, "") for name in names]
    prefix = common_prefix(names)
    if inner or prefix:
        marks = [*inner, prefix] if prefix else inner
        shown = " and ".join(f"{mark} ({WRAPPERS[mark]})" if mark in WRAPPERS else mark for mark in marks)
        raise SourceError(
            f"{checkpoint.path}: the names carry a prefix that the model's own lack: {shown}; expected names like "
            f"model.layers.0. A training wrapper puts it there. Write a copy without it and convert that: "
            f"{_commands(checkpoint, inner, prefix)}"
        )


def common_prefix(names: Collection[str]) -> str:
    """What stands before the model's own names in all of `names`; empty if they have no common prefix."""
    for name in names:
        if name == EMBEDDING or name.endswith(f".{EMBEDDING}"):
            prefix = name.removesuffix(EMBEDDING)
            if prefix == "model." or prefix.endswith(".model."):
                prefix = prefix.removesuffix("model.")
            return prefix if all(other.startswith(prefix) for other in names) else ""
    return ""


def _commands(checkpoint: Checkpoint, inner: list[str], prefix: str) -> str:
    """The shell command that writes the copy, and the one that converts it."""
    source, target = Path(checkpoint.path), Path(f"{checkpoint.path}-unwrapped")
    strip = "name"
    for mark in inner:
        strip += f".replace({mark!r}, '')"
    if prefix:
        strip += f".removeprefix({prefix!r})"
    script = SCRIPT.format(
        imports=IMPORTS[checkpoint.format],
        files=FILES[checkpoint.format],
        source=str(source),
        target=str(target),
        strip=strip,
    )
    convert = shlex.join(["jaxconv", "convert", str(target), "OUTPUT", "--base", str(source)])
    return f"{shlex.join(['python', '-c', script])} && {convert}"
