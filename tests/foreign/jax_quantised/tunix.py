"""Tunix models whose weights Qwix quantised: `python -m tests.foreign.jax_quantised.tunix OUTDIR [CASE ...]`."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx

from tests.foreign.originals import original_config, write_original
from tests.foreign.packing import pack, token_ids, versions
from tests.foreign.tunix.write import (
    FIXED_BASE,
    LOADERS,
    PACKAGES,
    SMALL,
    TIED,
    Config,
    logits_of,
    save_manager,
    save_standard,
)

HEAD = "lm_head.w"


@dataclass(frozen=True)
class Case:
    """One checkpoint: `rule` is how Qwix quantises; `dtype` the parameters' dtype, which scales get."""

    family: str
    settings: Config
    rule: dict[str, Any]
    notes: str
    dtype: str = "float32"
    modules: str = ".*"
    refused: str = ""


INT8 = {"weight_qtype": jnp.int8}
CASES = {
    "qwix_qwen3_int8": Case("qwen3", {**SMALL, **FIXED_BASE}, INT8, "a scale per channel, the untied head quantised"),
    "qwix_qwen2_tied_bf16": Case("qwen2", {**SMALL, **TIED}, INT8, "bfloat16 scales, the tied head plain", "bfloat16"),
    "qwix_llama_tiled": Case("llama", {**SMALL, **FIXED_BASE}, {**INT8, "tile_size": 8}, "a scale for 8 inputs",
        modules=".*(gate|up|down)_proj"),
    "qwix_qwen3_asymmetric": Case("qwen3", {**SMALL, **FIXED_BASE}, {**INT8, "weight_calibration_method": "minmax"},
        "zero points beside the scales"),
    "qwix_gemma2_int8": Case("gemma2", SMALL, INT8, "kv_einsum [2, K, D, H]: two parts in one array of codes"),
    "qwix_qwen3_fp8": Case("qwen3", {**SMALL, **FIXED_BASE}, {"weight_qtype": jnp.float8_e4m3fn}, "codes of float8_e4m3fn"),
    "qwix_llama_int4": Case("llama", {**SMALL, **FIXED_BASE}, {"weight_qtype": jnp.int4}, "codes of int4", refused="int4"),
}  # fmt: skip


def quantised_arrays(model: Any) -> dict[str, Any]:
    """Qwix's arrays, by the path of the variable that they stand for."""
    arrays: dict[str, dict[str, Any]] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        name = ".".join(map(str, path))
        if ".array." in name:
            place, _, part = name.partition(".array.")
            arrays.setdefault(place, {})[part] = variable[...]
    return {place: qwix.QArray(**parts) for place, parts in arrays.items()}


def dequantised_model(model: Any, arrays: dict[str, Any]) -> Any:
    """The model with the library's own numbers, as bfloat16 but for the head, all held as float32."""
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        value = variable[...]
        if name in arrays:
            head = qwix.QArray(arrays[name].qvalue, arrays[name].scale.astype(jnp.float32), arrays[name].zero_point)
            value = qwix.dequantize(head if name == HEAD else arrays[name])
            value = value if name == HEAD else value.astype(jnp.bfloat16)
        variable.set_value(value.astype(jnp.float32))
    nnx.update(model, state)
    return model


def write_case(name: str, out: Path) -> None:
    case = CASES[name]
    config = original_config(case.family, **case.settings)
    ids = token_ids(config["vocab_size"])
    with tempfile.TemporaryDirectory() as temporary:
        original = write_original(Path(temporary, "original"), case.family, **case.settings)
        model = LOADERS[case.family](str(original), config, jnp.dtype("float32"))
        plain = logits_of(model, ids)
        nnx.update(model, jax.tree.map(lambda x: x.astype(case.dtype), nnx.state(model)))
        provider = qwix.PtqProvider([qwix.QuantizationRule(module_path=case.modules, **case.rule)])
        quantised = qwix.quantize_model(model, provider, **model.get_model_input())
        checkpoint = Path(temporary, "checkpoint")
        (save_standard if case.family == "gemma2" else save_manager)(quantised, checkpoint)
        described = {
            "library": "tunix", "versions": versions(*PACKAGES), "family": case.family, "settings": case.settings, "seed": 0,
            "original_dtype": "float32", "layout": "tunix", "weights": ".", "token_ids": ids, "notes": case.notes,
            "quantised_by": "Qwix", "refused": case.refused,
        }  # fmt: skip
        logits = None
        if not case.refused:
            arrays = quantised_arrays(quantised)
            bits = {place: np.asarray(qwix.dequantize(array).astype(jnp.bfloat16)) for place, array in arrays.items()}
            described["sha256"] = {place: hashlib.sha256(array.tobytes()).hexdigest() for place, array in bits.items()}
            logits = logits_of(dequantised_model(model, arrays), ids)
            described["moved_by_quantisation"] = float(np.abs(logits - plain).max())
            print(name, "moved the logits by", described["moved_by_quantisation"], "of", np.abs(plain).max(), flush=True)
        print(name, pack(out / f"{name}.tar.xz", checkpoint, described, logits), flush=True)


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write_case(wanted, Path(sys.argv[1]).absolute())
