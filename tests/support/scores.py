"""The independent oracle: transformers' own forward pass, at float32."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

PROMPTS = ["is it? yes", "What is this\nthat the no", "a longer prompt, the that this yes no: ", "x"]


@torch.inference_mode()
def causal_logits(source: Path, prompts: list[str], ids: list[int]) -> torch.Tensor:
    """Next-token logits [prompts, ids] of the causal LM, one prompt at a time."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    rows = [model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1, ids] for prompt in prompts]
    return torch.stack(rows)


@torch.inference_mode()
def classifier_logits(output: Path, prompts: list[str]) -> tuple[torch.Tensor, dict[str, object]]:
    """Logits [prompts, num_labels] of the classifier, batched with padding, and transformers' loading report."""
    model, report = AutoModelForSequenceClassification.from_pretrained(output, dtype=torch.float32, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(output)
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    return model.eval()(**batch).logits, report
