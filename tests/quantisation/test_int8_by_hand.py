"""Families and modules that no fixture of a library has, as llm-compressor would store them in INT8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxconv
from tests.support.quantised import OPTIONS, PAIRS, stored_bytes
from tests.support.tiny import tiny_checkpoint

WEIGHTS = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False}
Chosen = Callable[[str], bool]


def int8_checkpoint(
    folder: Path, model_type: str, chosen: Chosen, targets: list[str], ignore: list[str], **sizes: Any
) -> Path:
    """A tiny model whose chosen matrices are codes with a scale for each row."""
    source = tiny_checkpoint(folder, model_type, **sizes)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, array in load_file(source / "model.safetensors").items():
        tensors[name] = array
        if chosen(name) and array.ndim == 2:
            wide = array.astype(np.float32)
            scale = (np.abs(wide).max(1, keepdims=True) / 127).astype(ml_dtypes.bfloat16)
            tensors[name] = np.round(wide / scale.astype(np.float32)).clip(-127, 127).astype(np.int8)
            tensors[f"{name}_scale"] = scale
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ignore,
        "config_groups": {"group_0": {"targets": targets, "weights": WEIGHTS, "input_activations": None}},
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(config))
    return source


@pytest.mark.parametrize(
    ("model_type", "chosen", "targets", "ignore", "sizes"),
    [
        ("qwen3_moe", lambda name: "_proj" in name, ["Linear"], ["lm_head", "re:.*mlp.gate$"], {}),
        ("phi3", lambda name: "_proj" in name, ["Linear"], ["lm_head"], {}),
        ("qwen2", lambda name: "mlp" in name, ["re:.*mlp.*"], ["lm_head"], {}),
        (
            "qwen3", lambda name: "_proj" in name or "embed_tokens" in name, ["Linear", "Embedding"], [],
            {"tie_word_embeddings": True},
        ),
    ],
    ids=["experts", "fused projections", "targets that leave attention out", "tied embedding in 8 bits"],
)  # fmt: skip
def test_it_is_converted_and_proved(
    tmp_path: Path, model_type: str, chosen: Chosen, targets: list[str], ignore: list[str], sizes: dict[str, Any]
) -> None:
    """Every tensor bit for bit, the row in float32, and a proof that finds nothing wrong."""
    source = int8_checkpoint(tmp_path / "source", model_type, chosen, targets, ignore, **sizes)
    jaxconv.convert(source, tmp_path / "out", **OPTIONS)
    before, after = stored_bytes(source), stored_bytes(tmp_path / "out")
    assert after.pop("score.weight")[0] == "F32"
    assert after == {name: stored for name, stored in before.items() if not name.startswith("lm_head.")}
    report = jaxconv.verify(source, tmp_path / "out", pairs=PAIRS, backend="jax")
    assert report.findings == () and report.head.exact
