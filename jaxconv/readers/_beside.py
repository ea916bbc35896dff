"""What lies beside the weights of a directory and is not read. A note names it, so that nobody thinks that it counts."""

from __future__ import annotations

import os
import shlex
from fnmatch import fnmatch
from pathlib import Path

from jaxconv.checkpoint import Checkpoint
from jaxconv.storage import remote_path

ADAPTER = ("adapter_config.json", "adapter_model*")
TRAINING_STATE = (
    "optimizer.pt", "optimizer.bin", "optimizer_*", "scheduler.pt", "scheduler.bin", "scaler.pt", "rng_state*.pth",
    "random_states_*.pkl", "global_step*",
)  # fmt: skip
WEIGHTS = (
    "*.safetensors", "pytorch_model*.bin", "flax_model*.msgpack", "*.gguf", "tf_model.h5", "consolidated*.pth", "model*.onnx",
)  # fmt: skip
READ_PATTERNS = {"torch_bin": ("pytorch_model*.bin",), "flax_msgpack": ("*.msgpack",)}
LISTED = 3
NOT_APPLIED = "which is not applied"


def notes_on_neighbours(directory: Path | str, checkpoint: Checkpoint) -> tuple[str, ...]:
    """A sentence for each kind of file beside the weights that was not read: an adapter, training state, other weights.

    Args:
        directory: The directory or address of the weights.
        checkpoint: The checkpoint that was opened there.
    """
    names = sorted(remote_path(directory).entries()) if isinstance(directory, str) else sorted(os.listdir(directory))
    files_read = {ref.extent.path.name for ref in checkpoint.tensors.values() if ref.extent is not None}
    adapter = [name for name in names if _fits(name, ADAPTER)]
    state = [name for name in names if _fits(name, TRAINING_STATE)]
    others = [
        name
        for name in names
        if _fits(name, WEIGHTS)
        and name not in {*files_read, *adapter, *state}
        and not _fits(name, READ_PATTERNS.get(checkpoint.format, ()))
    ]
    notes = []
    if adapter:
        notes.append(
            f"the directory also holds a PEFT adapter ({_some(adapter)}), {NOT_APPLIED}; if the weights are its base, "
            f"pass --adapter {shlex.quote(str(directory))}"
        )
    if state:
        notes.append(f"training state beside the weights is left out ({_some(state)}).")
    if others:
        notes.append(f"the directory also holds {_some(others)}, which is not read ({checkpoint.format} is).")
    return tuple(notes)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
