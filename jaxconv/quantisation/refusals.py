"""Methods that no output could be served with, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a method is refused, and what to do instead. The method's name goes before `reason`."""

    reason: str
    next_step: str


ORIGINAL = "Convert the original model, then quantise the result with score left out."

UNREADABLE: Mapping[str, Refusal] = {
    "bitsandbytes": Refusal(
        "is not a method of vLLM any more, so nothing would serve the output",
        "Convert the original model; or load this one with transformers, call model.dequantize(), save it, and convert that.",
    ),
    "gguf": Refusal(
        "is not a method of vLLM any more, and its tensors have llama.cpp's names and order",
        "Convert the original model; or load the file with transformers (gguf_file=...), which dequantises it, save it, and "
        "convert that.",
    ),
    "mlx": Refusal(
        "is read by MLX alone: vLLM fails at the packed embedding, whose rows a tied head would need",
        "Convert the original model; or run mlx_lm.convert --dequantize on this one and convert that.",
    ),
}
# Spellings under which files name the methods above.
ALIASES: Mapping[str, str] = {"bitsandbytes_4bit": "bitsandbytes", "bitsandbytes_8bit": "bitsandbytes"}
