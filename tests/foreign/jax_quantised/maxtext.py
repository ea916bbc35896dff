"""MaxText models quantised by its own program and AQT: `python -m tests.foreign.jax_quantised.maxtext OUTDIR [CASE ...]`."""

from __future__ import annotations

import os

os.environ["DECOUPLE_GCLOUD"] = "TRUE"
os.environ["JAX_PLATFORMS"] = "cpu"

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from aqt.jax.v2 import aqt_tensor
from maxtext.checkpoint_conversion import to_maxtext
from maxtext.configs import pyconfig
from maxtext.models import models
from maxtext.utils import layerwise_quantization, maxtext_utils
from safetensors.numpy import load_file

from tests.foreign.maxtext.write import LLAMA31, MODELS, SMALL, arguments, hugging_face_config
from tests.foreign.originals import original_config, write_original
from tests.foreign.packing import pack, token_ids, versions

CASES: dict[str, dict[str, Any]] = {
    "aqt_qwen3_unscanned": {"family": "qwen3", "scanned": False, "settings": SMALL, "notes": "kernels gone, codes beside"},
    "aqt_qwen3_scanned": {"family": "qwen3", "scanned": True, "settings": SMALL, "notes": "codes [L, ...], kernels [D, L]"},
    "aqt_llama31_scanned": {"family": "llama", "scanned": True, "settings": LLAMA31, "notes": "queries over 4, rope pairs"},
}  # fmt: skip


def paths(tree: Any) -> dict[tuple[str, ...], Any]:
    """The leaves by path; a tensor of AQT is one."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, aqt_tensor.QTensor))
    return {tuple(str(key.key) for key in path): leaf for path, leaf in leaves}


def quantise(argv: list[str], folder: Path) -> dict[str, aqt_tensor.QTensor]:
    """Runs MaxText's program; gives AQT's tensors by the name of the module that has them."""
    states: list[Any] = []
    program = layerwise_quantization.LayerwiseQuantization
    strip = program._strip_kernels_at_quantized_paths

    def stripped(state: Any) -> Any:
        states.append(state)
        return strip(state)

    program._strip_kernels_at_quantized_paths = staticmethod(stripped)
    options = [f"load_parameters_path={folder / 'saved/0/items'}", "quantization=int8"]
    config = pyconfig.initialize([*argv, *options, f"save_quantized_params_path={folder / 'quantised'}"])
    program(config, jax.random.PRNGKey(0)).load_and_quantize()
    program._strip_kernels_at_quantized_paths = staticmethod(strip)
    return {".".join(path[:-3]): leaf for path, leaf in paths(states[0]).items() if isinstance(leaf, aqt_tensor.QTensor)}


def forward(argv: list[str], params: Any, ids: list[list[int]]) -> np.ndarray[Any, Any]:
    """MaxText's logits at the last position."""
    config = pyconfig.initialize(argv)
    mesh = jax.sharding.Mesh(maxtext_utils.create_device_mesh(config), config.mesh_axes)
    model = models.transformer_as_linen(config, mesh, quant=None, model_mode="train")
    tokens = jnp.asarray(ids, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    with mesh, jax.default_matmul_precision("highest"):
        logits = model.apply(params, tokens, positions, decoder_segment_ids=jnp.ones_like(tokens), enable_dropout=False)
    return np.asarray(logits[:, -1], np.float32)


def with_numbers(params: Any, tensors: dict[str, Any], scanned: bool) -> Any:
    """The parameters with AQT's own numbers, rounded to bfloat16, in the place of the kernels."""

    def value(path: Any, leaf: Any) -> Any:
        module = ".".join(str(key.key) for key in path[1:-1])
        if module not in tensors:
            return jnp.asarray(leaf, jnp.float32)
        numbers = tensors[module].dequant().astype(jnp.bfloat16).astype(jnp.float32)
        return jnp.swapaxes(numbers, 0, 1) if scanned else numbers

    return jax.tree_util.tree_map_with_path(value, params)


def write(name: str, out: Path) -> None:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        original = write_original(folder / "original", case["family"], **case["settings"])
        config = original_config(case["family"], **case["settings"])
        argv = arguments(case, config, folder / "saved")
        to_maxtext.HF_MODEL_CONFIGS[MODELS[case["family"]]] = hugging_face_config(config)
        to_maxtext.load_hf_dict_from_safetensors = lambda path, **_: load_file(Path(path) / "model.safetensors")
        options = {"save_dtype": "float32", "simulated_cpu_devices_count": 1, "lazy_load_tensors": False}
        to_maxtext.main(argv, hf_model_path=str(original), **options)
        tensors = quantise(argv, folder)
        saved = ocp.PyTreeCheckpointer().restore(folder / "saved/0/items")["params"]
        ids = token_ids(config["vocab_size"])
        logits = forward(argv, with_numbers(saved, tensors, case["scanned"]), ids)[:, : config["vocab_size"]]
        plain = forward(argv, saved, ids)[:, : config["vocab_size"]]
        bits = {module: np.asarray(tensor.dequant().astype(jnp.bfloat16)) for module, tensor in tensors.items()}
        about = {
            "library": "maxtext", "versions": versions("maxtext", "aqtp", "jax", "flax", "orbax-checkpoint", "tensorstore"),
            "family": case["family"], "settings": case["settings"], "seed": 0, "original_dtype": "float32",
            "layout": "maxtext", "weights": ".", "token_ids": ids, "notes": case["notes"], "quantised_by": "AQT",
            "refused": "", "moved_by_quantisation": float(np.abs(logits - plain).max()),
            "sha256": {module: hashlib.sha256(array.tobytes()).hexdigest() for module, array in bits.items()},
        }  # fmt: skip
        print(
            name,
            len(tensors),
            "tensors, moved the logits by",
            about["moved_by_quantisation"],
            np.abs(plain).max(),
            flush=True,
        )
        pack(out / f"{name}.tar.xz", folder / "quantised", about, np.ascontiguousarray(logits))


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
