"""Raw logits of a sequence classifier through transformers, for where JAX is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

ROWS = 32


class TorchClassifier:
    """A `*ForSequenceClassification` folder; `score.bias`, which transformers would drop, is honoured.

    `logits(token_ids)` gives float32 rows [labels], one per sequence, in order.
    """

    def __init__(self, folder: Path, device: str = "cpu", dtype: str = "float32") -> None:
        from safetensors import safe_open
        from transformers import AutoModelForSequenceClassification

        self.device = torch.device(device)
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.backbone = model.base_model.to(self.device).eval()
        tensors: dict[str, torch.Tensor] = {}
        for path in _files(folder):
            with safe_open(path, "pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys() if key.startswith("score.")}
        self.weight = tensors["score.weight"].float().to(self.device)
        bias = tensors.get("score.bias")
        self.bias = None if bias is None else bias.float().to(self.device)

    @torch.inference_mode()
    def logits(self, token_ids: list[list[int]]) -> list[list[float]]:
        """Raw logits [labels] of each sequence; padded on the right, pooled at the last token."""
        rows: list[list[float]] = [[] for _ in token_ids]
        order = sorted(range(len(token_ids)), key=lambda row: len(token_ids[row]))
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            lengths = torch.tensor([len(token_ids[row]) for row in chosen], device=self.device)
            ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long, device=self.device)
            for i, row in enumerate(chosen):
                ids[i, : len(token_ids[row])] = torch.tensor(token_ids[row])
            mask = torch.arange(ids.shape[1], device=self.device)[None] < lengths[:, None]
            hidden = self.backbone(ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
            last = hidden[torch.arange(len(chosen), device=self.device), lengths - 1].float()
            scores = torch.nn.functional.linear(last, self.weight, self.bias)
            for row, score in zip(chosen, scores.tolist(), strict=True):
                rows[row] = score
        return rows


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text())["weight_map"]
        return [folder / name for name in sorted(set(weight_map.values()))]
    return [folder / "model.safetensors"]
