"""Tiny random models with real tokenizers: what the presets convert, in the size of a test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jaxconv.families import COMPOSITES
from jaxconv.presets import Preset
from tests.support.multimodal import composite_checkpoint
from tests.support.real_tokenizers import tokenizer_folder
from tests.support.tiny import tiny_checkpoint
from tests.support.vllm_server import HEADS

# architecture of a preset -> family and tokenizer
REAL = {
    "Qwen2ForCausalLM": ("qwen2", "qwen"),
    "Qwen3ForCausalLM": ("qwen3", "qwen"),
    "MistralForCausalLM": ("mistral", "mistral"),
    "GemmaForCausalLM": ("gemma", "gemma"),
    "LlamaForCausalLM": ("llama", "llama3"),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", "qwen"),
    "Qwen2VLForConditionalGeneration": ("qwen2_vl", "qwen"),
}


def real_checkpoint(folder: Path, architecture: str, **settings: Any) -> Path:
    """Writes a random model of an architecture with the real tokenizer that its rerankers have."""
    family, name = REAL[architecture]
    if family in COMPOSITES:
        return composite_checkpoint(folder, family, real=True, **settings)
    files = tokenizer_folder(name)
    entries = Tokenizer.from_file(str(files / "tokenizer.json")).get_vocab_size()
    rows = -(-entries // 128) * 128  # Qwen pads its head
    tiny_checkpoint(folder, family, vocab_size=rows, **{**HEADS, "max_position_embeddings": 2048, **settings})
    for path in files.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def architecture_of(preset: Preset) -> str:
    """The first of a preset's architectures that has a real tokenizer here (Qwen3.5's is in no package)."""
    return next(name for name in preset.architectures if name in REAL)


def checkpoint_of(preset: Preset, folder: Path) -> Path:
    """The checkpoint that stands in for a preset's model."""
    return real_checkpoint(folder, architecture_of(preset), tie=True)
