"""Trees that AQT or Qwix quantised: what is read of them, what is refused by name, and how much memory it takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxconv
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import JaxconvError, RefusedError, SourceError, UsageError
from jaxconv.quantisation.jax_trees import open_quantised_tree
from tests.support.refs import array_ref
from tests.support.tiny import tiny_checkpoint

Tree = dict[str, Any]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
KERNEL = "model.layers.0.mlp.up_proj.kernel"
FROZEN = "AqtDotGeneral_0.qrhs.frozen"


def quantised(array: np.ndarray) -> Tree:
    """An array as Qwix keeps it, a scale for each of the last axis."""
    scale = np.abs(array).max(0, keepdims=True).astype(np.float32) / np.float32(127)
    return {"array": {"qvalue": np.round(array / scale).astype(np.int8), "scale": scale}}


def nnx_tree(base: Path, embedding: bool = False) -> Tree:
    """A model with Hugging Face's paths, its kernels quantised; where wanted the embedding, and so the tied head, too."""
    flat: Tree = {}
    for name, array in load_file(base / "model.safetensors").items():
        wide = array.astype(np.float32)
        stem = name.removesuffix(".weight")
        if wide.ndim == 1:
            flat[f"{stem}.scale"] = array
        elif name.endswith("embed_tokens.weight"):
            flat[f"{stem}.embedding"] = quantised(wide) if embedding else array
        else:
            flat[f"{stem}.kernel"] = quantised(wide.T)
    return flat


def convert(tree: Tree, out: Path, base: Path, **options: Any) -> jaxconv.ConversionResult:
    return jaxconv.convert_params(tree, out, base=base, token_ids=[5, 6], dequantize=True, backend="numpy", **options)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "tied", "qwen3", tie_word_embeddings=True)


@pytest.mark.slow
def test_a_tied_embedding_gives_an_unrounded_head(tmp_path: Path, tied: Path) -> None:
    """The backbone's embedding is bfloat16, the row a difference of float32 products, and the proof knows both."""
    tree = nnx_tree(tied, embedding=True)
    assert convert(tree, tmp_path / "out", tied, verify=True).report.findings == ()  # type: ignore[union-attr]
    stored = tree["model.embed_tokens.embedding"]["array"]
    wide = stored["qvalue"].astype(np.float32) * stored["scale"]
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert np.array_equal(tensors["model.embed_tokens.weight"], wide.astype(BFLOAT16))
    assert np.array_equal(tensors["score.weight"][0], wide[6] - wide[5])


@pytest.mark.parametrize(("dtype", "codes"), [(np.float16, np.int8), (np.float32, ml_dtypes.float8_e4m3fn)])
def test_a_product_is_rounded_to_the_scales_dtype_first(dtype: Any, codes: Any) -> None:
    """As the library does, which multiplies in the dtype of the scale; float16 and then bfloat16 is not bfloat16 at once."""
    rng = np.random.default_rng(0)
    stored = rng.integers(-127, 128, (64, 512)).astype(codes)
    scale = (rng.random((1, 512)) * 0.01).astype(dtype)
    tree = {"kernel.qvalue": stored, "kernel.scale": scale}
    opened = open_quantised_tree(Checkpoint("live", "here", {name: array_ref(name, array) for name, array in tree.items()}))
    assert opened is not None
    expected = (stored.astype(dtype) * scale).astype(BFLOAT16)
    ref = opened.plain().tensors["kernel"]
    assert np.array_equal(ref.read(), expected)
    assert np.array_equal(ref.take([7, 3], 1), expected[:, [7, 3]])
    assert dtype == np.float32 or np.any((stored.astype(np.float32) * scale).astype(BFLOAT16) != expected)


def _part(**parts: Any) -> Callable[[Tree], None]:
    """Sets parts of one quantised kernel; None removes one."""

    def change(tree: Tree) -> None:
        array = tree[KERNEL]["array"]
        for key, value in parts.items():
            array[key] = value(array) if callable(value) else value
            if array[key] is None:
                del array[key]

    return change


def _frozen(place: str) -> Callable[[Tree], None]:
    """Moves one quantised kernel to a place of AQT."""

    def change(tree: Tree) -> None:
        tree[place] = tree.pop(KERNEL)["array"]

    return change


WRONG: dict[str, tuple[Callable[[Tree], None], type[JaxconvError], str]] = {
    "no scale": (_part(scale=None), SourceError, r"qvalue has no scale beside it; expected .*array\.scale"),
    "scale of another rank": (_part(scale=lambda a: a["scale"][0]), SourceError, r"scale has shape \[.*divide"),
    "scale that divides nothing": (_part(scale=lambda a: a["scale"][:, :5]), SourceError, r"shape \[1, 5\].*divide"),
    "scale of integers": (_part(scale=lambda a: a["scale"].astype(np.int32)), RefusedError, r"scale is I32.*not certain"),
    "codes of bytes": (_part(qvalue=lambda a: a["qvalue"].view(np.uint8)), RefusedError, r"qvalue is U8.*expected codes"),
    "zero point of another dtype": (_part(zero_point=lambda a: a["scale"]), RefusedError, r"zero_point is F32.*dtype of"),
    "a mask": (_part(sparsity_mask=lambda a: a["qvalue"]), RefusedError, r"sparsity_mask is I8.*none of codes, scale"),
    "two scales": (_part(**{"scale.1": lambda a: a["scale"]}), RefusedError, r"scale\.1 is F32.*none of codes, scale"),
    "codes and numbers": (lambda t: t.update({f"{KERNEL}.array": t[KERNEL]["array"], KERNEL: t[KERNEL]["array"]["scale"]}),
        RefusedError, r"up_proj\.kernel twice, as codes and as numbers"),
    "AQT's older tree": (_frozen(f"aqt.decoder.layers.mlp.wi_0.{FROZEN}"), RefusedError, r"quantised by AQT.*not certain"),
    "AQT's einsum": (_frozen("decoder.layers_0.moe.AqtEinsum_0.qrhs.frozen"), RefusedError, r"AQT.*beside the place"),
    "AQT's left side": (_frozen("decoder.layers_0.mlp.wi_0.AqtDotGeneral_0.qlhs.frozen"), RefusedError, r"AQT.*AqtDotG"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_certain_is_refused(tmp_path: Path, tied: Path, name: str) -> None:
    """The array is named with what it is, what was expected and what to do; nothing is written."""
    change, error, message = WRONG[name]
    tree = nnx_tree(tied)
    change(tree)
    with pytest.raises(error, match=message):
        convert(tree, tmp_path / "out", tied)
    assert not (tmp_path / "out").exists()


def test_the_option_is_for_such_trees_alone(tmp_path: Path, tied: Path) -> None:
    """On a plain source it would promise what does not happen; an adapter would be rounded into the sum."""
    with pytest.raises(UsageError, match=r"--dequantize is for trees that AQT or Qwix quantised.*Leave it out"):
        jaxconv.convert(tied, tmp_path / "out", token_ids=[5, 6], dequantize=True)
    with pytest.raises(RefusedError, match=r"--adapter cannot be merged into a tree that is quantised \(Qwix"):
        convert(nnx_tree(tied), tmp_path / "out", tied, adapter=tmp_path)


def test_memory_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    """Weights are dequantised one by one: four times the layers take no more memory beside the tree."""
    peaks = {}
    for layers in (1, 2, 8):  # the first imports what is needed
        sizes = {"num_hidden_layers": layers, "hidden_size": 256, "intermediate_size": 4096}
        base = tiny_checkpoint(tmp_path / f"base-{layers}", "qwen3", tie_word_embeddings=True, **sizes)
        tree = nnx_tree(base)
        tracemalloc.start()
        convert(tree, tmp_path / f"out-{layers}", base)
        peaks[layers] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    weight = 256 * 4096
    assert peaks[8] < peaks[2] + weight
    assert peaks[8] < 9 * weight
