"""What all writers share that have torch: reading a checkpoint, a forward pass, and packing a case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from tests.foreign.packing import pack, token_ids, versions


def load(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint in one file or shards."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


def record(weight: torch.Tensor) -> dict[str, Any]:
    """What a case keeps of a weight that the library dequantised: enough to prove another one equal bit for bit."""
    data = weight.detach().contiguous()
    octets = data.view(torch.uint8).numpy().tobytes()
    name = str(data.dtype).removeprefix("torch.")
    return {"dtype": name, "shape": list(data.shape), "sha256": hashlib.sha256(octets).hexdigest()}


def last_logits(model: Any, vocab_size: int) -> np.ndarray[Any, Any]:
    """The library's own logits at the last position, float32 [2, vocab_size]."""
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor(token_ids(vocab_size))).logits[:, -1].float().numpy()
    return logits


def pack_case(
    target: Path,
    checkpoint: Path,
    *,
    library: str,
    packages: Sequence[str],
    family: str,
    notes: str,
    dequantised: Mapping[str, torch.Tensor],
    logits: np.ndarray[Any, Any] | None = None,
    **facts: Any,
) -> None:
    """Packs a checkpoint with what the library itself computes from it.

    Args:
        target: The file to write (`….tar.xz`).
        checkpoint: The folder that the library wrote.
        library: Who wrote it; "published layout" where no library was at hand.
        packages: Whose versions are recorded.
        family: The model type.
        notes: What is special.
        dequantised: The library's own plain weight by module.
        logits: Its own logits, where it runs the model.
        facts: Further entries of case.json.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    case = {
        "library": library,
        "versions": versions(*packages),
        "family": family,
        "tied": config["tie_word_embeddings"],
        "token_ids": token_ids(config["vocab_size"]),
        "files": sorted(path.name for path in checkpoint.iterdir()),
        "dequantised": {module: record(weight) for module, weight in sorted(dequantised.items())},
        "notes": notes,
        **facts,
    }
    size = pack(target, checkpoint, case, logits)
    print("WROTE", target.name, size, case["files"], flush=True)
