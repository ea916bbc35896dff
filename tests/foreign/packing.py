"""How a case is packed: one tar.xz that is byte for byte the same for the same content."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 160
SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "intermediate_size": 40}


def token_ids(vocab_size: int = VOCABULARY, seed: int = 0) -> list[list[int]]:
    """Two rows of 12 ids, none of them a special one."""
    ids: list[list[int]] = np.random.default_rng(seed).integers(3, vocab_size, (2, 12)).tolist()
    return ids


def versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}


def torch_logits(original: Path, ids: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
    """Logits [2, vocab_size] at the last position, from transformers and torch in float32. Needs both."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(original, torch_dtype=torch.float32).eval()
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(torch.tensor(ids)).logits[:, -1].float().numpy()
    return logits


def pack(target: Path, checkpoint: Path, case: Mapping[str, Any], logits: np.ndarray[Any, Any] | None) -> int:
    """Writes `target` (`….tar.xz`) with checkpoint/, case.json and, when there are some, logits.npy; gives its size."""
    members = {f"checkpoint/{path.relative_to(checkpoint).as_posix()}": path.read_bytes()
               for path in checkpoint.rglob("*") if path.is_file()}  # fmt: skip
    members["case.json"] = json.dumps(case, indent=2, sort_keys=True).encode()
    if logits is not None:
        stream = io.BytesIO()
        np.save(stream, np.asarray(logits, np.float32))
        members["logits.npy"] = stream.getvalue()
    target.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(target, "wb", preset=9 | lzma.PRESET_EXTREME) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            tar.addfile(entry, io.BytesIO(members[name]))
    return target.stat().st_size
