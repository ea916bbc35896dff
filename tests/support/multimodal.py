"""Tiny random models of pictures and text, of transformers' own classes, with real tokenizers and processors' files."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText

from jaxconv.families.row import Spelling
from tests.support.real_tokenizers import tokenizer_folder
from tests.support.tiny import tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 2048,
}  # fmt: skip
HEAD_DIM = {"head_dim": 32}
QWEN_MARKS = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip
SMALL_ROWS = 320


@dataclass(frozen=True)
class Tiny:
    """A family in the size of a test.

    Attributes:
        text: The language model's config beside `TEXT`.
        vision: The vision tower's config.
        marks: The keys of the config that name a token -> the token.
        processor: The processor's files.
        top: Further keys of the config.
        named: The tokens that the processor asks the tokenizer for by name.
        tokenizer: The real tokenizer.
        rows: The rows of the embedding with it.
        model_type: The family, where the entry's own name is another one.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    marks: Mapping[str, str]
    processor: Mapping[str, Mapping[str, Any]]
    top: Mapping[str, Any] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str = "qwen"
    rows: int = 151936
    model_type: str | None = None


def _qwen_processor(patch: int, name: str, least: int, video: str, mean: float) -> dict[str, dict[str, Any]]:
    shared = {
        "patch_size": patch, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [mean] * 3, "image_std": [0.5] * 3,
        "processor_class": name,
    }  # fmt: skip
    image = {"image_processor_type": "Qwen2VLImageProcessorFast", "size": {"shortest_edge": least, "longest_edge": 1 << 20}}
    return {
        "preprocessor_config.json": {**shared, **image},
        "video_preprocessor_config.json": {
            **shared, "video_processor_type": video, "size": {"shortest_edge": 4096, "longest_edge": 1 << 20},
        },
    }  # fmt: skip


# What Idefics 3 and SmolVLM put around a picture and between its tiles.
IDEFICS3_NAMED = {
    "fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    **{f"row_{row}_col_{column}": f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)},
}  # fmt: skip


def _idefics3(name: str, video: Mapping[str, Any]) -> Tiny:
    """Pictures in tiles of 56 x 56, up to two by two, and the whole of them; four tokens each."""
    image = {
        "image_processor_type": f"{name}ImageProcessor", "processor_class": f"{name}Processor", "do_image_splitting": True,
        "size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56},
    }  # fmt: skip
    return Tiny(
        {"model_type": "llama", "rms_norm_eps": 1e-5},
        {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
            "patch_size": 14,
        },
        {"image_token_id": "<image>"},
        {
            "preprocessor_config.json": image,
            "processor_config.json": {"processor_class": f"{name}Processor", "image_seq_len": 4},
            **video,
        },
        {"scale_factor": 2},
        IDEFICS3_NAMED,
    )  # fmt: skip


TINY: Mapping[str, Tiny] = {
    "qwen3_vl": Tiny(
        {
            **HEAD_DIM, "num_hidden_layers": 4,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True,
            },
        },
        {
            "depth": 4, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "patch_size": 16,
            "out_hidden_size": 64, "num_position_embeddings": 2304, "deepstack_visual_indexes": [0, 1, 2],
        },
        QWEN_MARKS,
        _qwen_processor(16, "Qwen3VLProcessor", 65536, "Qwen3VLVideoProcessor", 0.5),
    ),
    "qwen3_5": Tiny(
        {
            **HEAD_DIM, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
            "linear_num_value_heads": 4, "linear_value_head_dim": 8,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "patch_size": 16,
            "out_hidden_size": 64, "num_position_embeddings": 2304,
        },
        QWEN_MARKS,
        _qwen_processor(16, "Qwen3VLProcessor", 65536, "Qwen3VLVideoProcessor", 0.5),
    ),
    "qwen2_5_vl": Tiny(
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}},
        {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "patch_size": 14, "window_size": 112,
            "out_hidden_size": 64, "fullatt_block_indexes": [1],
        },
        QWEN_MARKS,
        _qwen_processor(14, "Qwen2_5_VLProcessor", 3136, "Qwen2VLVideoProcessor", 0.48),
    ),
    "qwen2_vl": Tiny(
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}},
        {"depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14},
        QWEN_MARKS,
        _qwen_processor(14, "Qwen2VLProcessor", 3136, "Qwen2VLVideoProcessor", 0.48),
    ),
    "gemma3": Tiny(
        {**HEAD_DIM, "query_pre_attn_scalar": 32, "sliding_window": 512},
        {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
            "patch_size": 14,
        },
        {
            "boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
        },
        {
            "preprocessor_config.json": {
                "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor", "image_seq_length": 4,
                "size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
            },
            "processor_config.json": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        },
        {"mm_tokens_per_image": 4},
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        tokenizer="gemma", rows=262208,
    ),
    "llava": Tiny(
        {"model_type": "qwen2"},
        {
            "model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "projection_dim": 64,
        },
        {"image_token_index": "<image>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
                "size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56},
            },
            "processor_config.json": {
                "processor_class": "LlavaProcessor", "patch_size": 14, "vision_feature_select_strategy": "default",
                "image_token": "<image>", "num_additional_image_tokens": 1,
            },
        },
    ),
    "internvl": Tiny(
        {**HEAD_DIM, "model_type": "qwen3"},
        {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": [56, 56], "patch_size": [14, 14],
        },
        {"image_token_id": "<IMG_CONTEXT>"},
        {
            "preprocessor_config.json": {
                "image_processor_type": "GotOcr2ImageProcessor", "processor_class": "InternVLProcessor",
                "size": {"height": 56, "width": 56}, "crop_to_patches": False,
            },
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 4},
            "video_preprocessor_config.json": {
                "video_processor_type": "InternVLVideoProcessor", "processor_class": "InternVLProcessor",
                "size": {"height": 56, "width": 56},
            },
        },
        {"image_seq_length": 4},
        {
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "mistral3": Tiny(
        {**HEAD_DIM, "model_type": "mistral"},
        {
            "model_type": "pixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
        },
        {"image_token_index": "[IMG]"},
        {
            "processor_config.json": {"processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": 2},
            "preprocessor_config.json": {
                "image_processor_type": "PixtralImageProcessor", "processor_class": "PixtralProcessor",
                "size": {"longest_edge": 56}, "patch_size": {"height": 14, "width": 14},
            },
        },
        named={"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
    ),
    "qwen3_5_moe": Tiny(
        {
            **HEAD_DIM, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
            "linear_num_value_heads": 4, "linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 48, "shared_expert_intermediate_size": 40,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "patch_size": 16,
            "out_hidden_size": 64, "num_position_embeddings": 2304,
        },
        QWEN_MARKS,
        _qwen_processor(16, "Qwen3VLProcessor", 65536, "Qwen3VLVideoProcessor", 0.5),
    ),
    "idefics3": _idefics3("Idefics3", {}),
    "smolvlm": _idefics3(
        "SmolVLM",
        {
            "video_preprocessor_config.json": {
                "video_processor_type": "SmolVLMVideoProcessor", "processor_class": "SmolVLMProcessor",
                "size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56},
            },
        },
    ),
}  # fmt: skip


def composite_checkpoint(
    folder: Path, name: str, *, tie: bool = True, shards: int = 1, seed: int = 0, real: bool = False, **top: Any
) -> Path:
    """Writes a random bfloat16 model of an entry of `TINY`, norms and biases away from their start values.

    With `real` it has the real tokenizer, else a small one.
    """
    tiny = TINY[name]
    folder.mkdir(parents=True, exist_ok=True)
    ids = _add_tokenizer(folder, tiny, real)
    config = AutoConfig.for_model(
        tiny.model_type or name,
        text_config={**TEXT, "vocab_size": tiny.rows if real else SMALL_ROWS, **tiny.text},
        vision_config=dict(tiny.vision),
        **{**tiny.top, **ids, "tie_word_embeddings": tie, **top},
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            spread = 0.1 if "norm" in parameter_name or parameter_name.endswith("bias") else 0.08
            parameter.add_(torch.randn_like(parameter) * spread)
    size = sum(parameter.numel() * 2 for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=size // shards + 1000 if shards > 1 else "5GB")
    for file_name, settings in tiny.processor.items():
        (folder / file_name).write_text(json.dumps(settings, indent=3))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def _add_tokenizer(folder: Path, tiny: Tiny, real: bool) -> dict[str, int]:
    """The tokenizer's files. Returns the ids of the marks."""
    if real:
        for path in tokenizer_folder(tiny.tokenizer).iterdir():
            shutil.copyfile(path, folder / path.name)
    else:
        tokenizer(False).save_pretrained(folder)
    path = folder / "tokenizer.json"
    made = Tokenizer.from_file(str(path))
    marks = dict.fromkeys([*tiny.marks.values(), *tiny.named.values()])
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in marks])
    made.save(str(path))
    if tiny.named:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "extra_special_tokens": dict(tiny.named)}))
    return {key: made.token_to_id(text) for key, text in tiny.marks.items()}


def respelled(source: Path, before: Spelling, after: Spelling) -> None:
    """Gives a checkpoint of one file the names of another generation of files."""
    prefixes = {before.prefix: after.prefix, f"{before.head}.": f"{after.head}."}
    prefixes |= dict(zip(before.towers, after.towers, strict=True))
    renamed = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        prefix = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len)
        renamed[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    save_file(renamed, source / "model.safetensors", {"format": "pt"})


def picture(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG of random coarse blocks, so that resizing has edges to blur."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pixels = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
