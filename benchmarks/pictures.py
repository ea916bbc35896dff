"""Conversion of a reranker of pictures and text against `cp`: Qwen3-VL-2B's shape, with its towers and as text alone.

python -m benchmarks.pictures [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.conversion import convert_command, measure, write_checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "tie_word_embeddings": True,
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "text_config": {
        "model_type": "qwen3_vl_text", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "dtype": "bfloat16",
        "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_theta": 5e6, "pad_token_id": 2, "eos_token_id": 2,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "model_type": "qwen3_vl", "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
        "out_hidden_size": 2048, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
    },
}  # fmt: skip


def make_source(folder: Path) -> None:
    """Writes the checkpoint, its shapes those of transformers' own class."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    settings = CONFIG_MAPPING["qwen3_vl"].from_dict(CONFIG)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(settings)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    write_checkpoint(folder, CONFIG, shapes)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Qwen2VLImageProcessorFast"}))


def main() -> None:
    """Makes the source, runs every command in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made, on the disk to be measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        source, output = Path(scratch, "source"), Path(scratch, "output")
        make_source(source)
        measure(
            source,
            output,
            {
                "cp -r": ["cp", "-r", str(source), str(output)],
                "jaxconv copy, jax": convert_command(source, output, "--backend", "jax"),
                "jaxconv copy, torch": convert_command(source, output, "--backend", "torch"),
                "jaxconv link, jax": convert_command(source, output, "--backend", "jax", "--copy-mode", "link"),
                "jaxconv copy --text-only, jax": convert_command(source, output, "--backend", "jax", "--text-only"),
            },
            arguments.rounds,
        )


if __name__ == "__main__":
    main()
