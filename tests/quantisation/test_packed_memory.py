"""`score` keeps int8 and fp8 weights as codes in memory: the same scores bit for bit, a quarter of the memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import jaxconv
from benchmarks.process import run
from benchmarks.quantised import config_of, make_source
from jaxconv.models.layer import dequantised
from jaxconv.quantisation import reading
from tests.support.quantised import OPTIONS, PAIRS, quantised_source
from torch_backend.packed import PackedLinear

# Outputs whose linears, all or some, are codes of 8 bits; those of the second list take longer together.
FAST = ["fp8/block_partial_qwen2", "llmcompressor/int8_asymmetric_qwen2", "torchao/int8_llama_tied_shards"]
PACKED = [
    *FAST,
    *(pytest.param(name, marks=pytest.mark.slow) for name in (
        "fp8/block_e8m0_scales_qwen3", "fp8/block_qwen3_tied_shards", "fp8/dynamic_gemma", "fp8/static_llama",
        "llmcompressor/fp8_block_qwen2_tied", "llmcompressor/fp8_channel_qwen3_tied_shards",
        "llmcompressor/int8_gemma_tied_shards", "llmcompressor/int8_llama_two_layers_ignored",
        "llmcompressor/mixed_fp8_int4_llama", "modelopt/fp8_channel_qwen2", "modelopt/mixed_fp8_nvfp4_llama",
        "torchao/fp8_weights_qwen2",
    )),
]  # fmt: skip


def converted(name: str, folder: Path) -> Path:
    """The conversion of a fixture."""
    jaxconv.convert(quantised_source(name, folder).folder, folder / "out", **OPTIONS)
    return folder / "out"


def packed_matrices(scorer: jaxconv.Scorer) -> int:
    """How many matrices of the model in memory are codes."""
    classifier: Any = scorer.classifier
    if scorer.backend == "torch":
        return sum(isinstance(module, PackedLinear) for module in classifier.model.backbone.modules())
    leaves = jax.tree.leaves(nnx.state(classifier.decoder))
    return sum(leaf.shape[0] for leaf in leaves if leaf.dtype.itemsize == 1)


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("name", PACKED)
def test_scores_are_those_of_weights_dequantised_on_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    """In float32 and bfloat16 every bit is equal, and the matrices are codes in one of the two only."""
    output = converted(name, tmp_path)
    for dtype in ("float32", "bfloat16"):
        packed = jaxconv.load(output, backend=backend, device="cpu", dtype=dtype)
        with monkeypatch.context() as plain:
            plain.setattr(reading, "_packed", lambda *_: None)
            numbers = jaxconv.load(output, backend=backend, device="cpu", dtype=dtype)
        assert packed_matrices(packed) >= 3
        assert packed_matrices(numbers) == 0
        assert packed.logits(PAIRS) == numbers.logits(PAIRS)


@pytest.mark.parametrize("codes", [np.int8, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_every_code_has_numpys_value(codes: Any) -> None:
    """All 256 codes times scales, small and large, as XLA and PyTorch compute them, bit for bit."""
    stored = np.arange(256, dtype=np.uint8).view(codes).reshape(4, 64)
    scales = np.float32([[1e-3, 7.3], [0.0, 3e38], [2e-38, -2.5], [1 / 3, 1.0]])
    zeros = np.float32([[0, 3], [-7, 0], [1, 1], [0, 0]])
    wide = stored.astype(np.float32).reshape(4, 2, 32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ((wide - zeros[..., None]) * scales[..., None]).reshape(4, 64)
    compiled = np.asarray(jax.jit(dequantised)(stored, scales, zeros))
    tensors = [torch.from_numpy(stored.view(np.uint8)).view(getattr(torch, np.dtype(codes).name))]
    tensors += [torch.from_numpy(array) for array in (scales, zeros)]
    linear = PackedLinear(*tensors, None, torch.float32).weight.numpy()  # type: ignore[arg-type]
    for actual in (compiled, linear):
        normal = (np.abs(expected) >= np.finfo(np.float32).tiny) | (expected == 0)  # XLA takes smaller ones for zero
        assert np.array_equal(actual[normal], expected[normal], equal_nan=True)
        assert normal.mean() > 0.8


def small_int8(folder: Path) -> tuple[Path, int]:
    """An INT8 classifier with nearly all of its weights in linears, and how many these are."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_key_value_heads": 4,
             "vocab_size": 1024}  # fmt: skip
    config = config_of("int8", 12, tied=True) | sizes
    make_source(folder / "source", config)
    jaxconv.convert(
        folder / "source", folder / "out", classifier_from_tokens=["no", "yes"], backend="numpy", copy_mode="link"
    )
    attention = 2 * 1024 * 2048 + 2 * 1024 * 512
    return folder / "out", 12 * (attention + 3 * 1024 * 4096)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_peak_is_that_of_codes(tmp_path: Path, backend: str) -> None:
    """`jaxconv score` holds codes, a byte each, and a few matrices as numbers; numbers of all would be four bytes each."""
    output, weights = small_int8(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"query": "no", "document": "yes"}))
    score = ["-m", "jaxconv", "score", str(output), "--pairs", str(tmp_path / "pairs.jsonl"), "--backend", backend]
    empty = run(
        [sys.executable, "-c", f"import jaxconv.backends as b; b.get_backend({backend!r}); import torch_backend.models"]
    )
    peak = run([sys.executable, *score, "--device", "cpu"]).anonymous_mb - empty.anonymous_mb
    assert peak * 2**20 < 2 * weights


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "bytes_a_weight"), [("jax", 2), ("auto", 7)])
def test_a_proof_holds_one_model_at_a_time(tmp_path: Path, backend: str, bytes_a_weight: int) -> None:
    """JAX computes both sides from codes; transformers makes float32 of them (5 bytes a weight), one side at a time."""
    output, weights = small_int8(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"query": "no", "document": "yes"}))
    verify = ["-m", "jaxconv", "verify", str(tmp_path / "source"), str(output), "--pairs", str(tmp_path / "pairs.jsonl")]
    empty = run([sys.executable, "-c", "import jax, transformers.modeling_utils, torch_backend.models"])
    peak = run([sys.executable, *verify, "--backend", backend, "--device", "cpu"]).anonymous_mb - empty.anonymous_mb
    assert peak * 2**20 < bytes_a_weight * weights
