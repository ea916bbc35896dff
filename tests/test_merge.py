"""The merge of an adapter: the same bytes whatever is read together, and adapters of every spelling that PEFT reads."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxconv
from jaxconv import merge
from jaxconv.adapter import Factors, read_adapter
from jaxconv.checkpoint import TensorRef
from jaxconv.errors import RefusedError, SourceError
from tests.support.refs import array_ref
from tests.support.tiny import tiny_checkpoint
from tests.test_adapter import TOKENS, tensors, trained

BASE, HEAD, EMBEDDING = "base_model.model.", "lm_head.weight", "model.embed_tokens.weight"


def merged_matrix(transposed: bool = False) -> TensorRef:
    """A matrix of 300 x 70 with a change of rank 5."""
    generator = np.random.default_rng(0)
    rows, columns, rank = 300, 70, 5
    a = array_ref("a", generator.standard_normal((rank, rows if transposed else columns)).astype(np.float32))
    b = array_ref("b", generator.standard_normal((columns if transposed else rows, rank)).astype(np.float32))
    base = array_ref("w", generator.standard_normal((rows, columns)).astype(np.float32))
    return merge._merged(base, Factors(a, b, transposed, 0.3))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_value_depends_on_nothing_but_its_factors(monkeypatch: pytest.MonkeyPatch, transposed: bool) -> None:
    """Rows read alone, columns read alone, other strips and other numbers of threads give the same bits."""
    whole = merged_matrix(transposed).read()
    assert np.array_equal(merged_matrix(transposed).take([299, 0, 17], 0), whole[[299, 0, 17]])
    assert np.array_equal(merged_matrix(transposed).take([69, 3], 1), whole[:, [69, 3]])
    for strip, threads in ((1, 1), (1000, 4), (1 << 30, 2)):
        monkeypatch.setattr(merge, "STRIP", strip)
        monkeypatch.setattr(merge, "THREADS", threads)
        assert np.array_equal(merged_matrix(transposed).read(), whole)


def test_the_product_is_right() -> None:
    """Against float64, to float32 rounding."""
    generator = np.random.default_rng(1)
    a, b, w = (generator.standard_normal(shape).astype(np.float32) for shape in ((64, 50), (40, 64), (40, 50)))
    ours = merge._merged(array_ref("w", w), Factors(array_ref("a", a), array_ref("b", b), False, 0.5)).read()
    exact = w.astype(np.float64) + 0.5 * (b.astype(np.float64) @ a.astype(np.float64))
    assert np.abs(ours - exact).max() < 1e-5


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base whose down_proj has 48 MB, and an adapter of it."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 4096, "intermediate_size": 6144, "num_hidden_layers": 1}
    source = tiny_checkpoint(folder / "source", "llama", **sizes)
    assert load_file(source / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].nbytes == 48 << 20
    return source, trained(source, folder / "adapter", r=16)


@pytest.mark.slow
def test_a_large_tensor_has_the_same_bytes_with_any_number_of_threads(tmp_path: Path, large: tuple[Path, Path]) -> None:
    """1, 2 and 4 threads of BLAS write the same file, and `convert --adapter --verify` passes."""
    source, adapter = large
    hashes = set()
    for threads in (1, 2, 4):
        output = tmp_path / f"out{threads}"
        environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP", "MKL")}
        options = ["--classifier-from-tokens", '["no","yes"]', "--backend", "jax", *(["--verify"] if threads == 2 else [])]
        command = [sys.executable, "-m", "jaxconv", "convert", str(source), str(output), "--adapter", str(adapter), *options]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        hashes.add(hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest())
    assert len(hashes) == 1


def rename(adapter: Path, change: Callable[[str], str]) -> None:
    """Changes the names in an adapter's file."""
    path = adapter / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        lambda name: name.replace("model.layers", "model.language_model.layers"),
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
    ],
    ids=["default", "language_model", "bare"],
)
def test_other_names_are_the_same_adapter(tmp_path: Path, change: Callable[[str], str]) -> None:
    """The adapter's own name, a composite's names and a backbone's names give the same output."""
    source = tiny_checkpoint(tmp_path / "source", "llama")
    adapter = trained(source, tmp_path / "adapter")
    outputs = []
    for number in range(2):
        if number:
            rename(adapter, change)
        output = tmp_path / f"out{number}"
        jaxconv.convert(source, output, adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")
        outputs.append((output / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1]


def add(adapter: Path, **extra: torch.Tensor) -> None:
    """Adds whole tensors to an adapter's file, `head` and `embedding`."""
    path = adapter / "adapter_model.safetensors"
    names = {"head": BASE + HEAD, "embedding": BASE + EMBEDDING}
    save_file({**load_file(path), **{names[key]: tensor for key, tensor in extra.items()}}, path)


@pytest.mark.parametrize("ends", [("head", "embedding"), ("embedding",), ("head",)])
def test_equal_head_and_embedding_of_a_tied_base_change_nothing(tmp_path: Path, ends: tuple[str, ...]) -> None:
    """PEFT saves both when it thinks that the vocabulary grew; equal to the base's they are left out."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=True)
    adapter = trained(source, tmp_path / "adapter")
    options = {"adapter": adapter, "classifier_from_tokens": TOKENS, "backend": "numpy"}
    jaxconv.convert(source, tmp_path / "without", **options)
    embedding = load_file(source / "model.safetensors")[EMBEDDING].float()
    add(adapter, **{end: embedding.clone() for end in ends})
    jaxconv.convert(source, tmp_path / "with", **options)
    assert (tmp_path / "with/model.safetensors").read_bytes() == (tmp_path / "without/model.safetensors").read_bytes()


def test_a_tied_pair_that_was_trained_replaces_the_embedding(tmp_path: Path) -> None:
    """Equal to each other they keep the base tied; unequal, or one alone, they are refused."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=True)
    adapter = trained(source, tmp_path / "adapter")
    options = {"adapter": adapter, "classifier_from_tokens": TOKENS, "backend": "numpy"}
    new = torch.randn_like(load_file(source / "model.safetensors")[EMBEDDING])
    add(adapter, head=new, embedding=new.clone())
    jaxconv.convert(source, tmp_path / "out", **options)
    written = tensors(tmp_path / "out")
    assert written[EMBEDDING].tobytes() == new.view(torch.uint8).numpy().tobytes()
    row = (new[TOKENS_IDS[1]].float() - new[TOKENS_IDS[0]].float()).numpy()
    assert np.array_equal(written["score.weight"][0], row)
    add(adapter, head=new + 1)
    with pytest.raises(RefusedError, match="merged they would differ"):
        jaxconv.convert(source, tmp_path / "out2", **options)


def _token_ids() -> list[int]:
    from tests.support.tiny import tokenizer

    return tokenizer(True).convert_tokens_to_ids(TOKENS)


TOKENS_IDS = _token_ids()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"alpha_pattern": {"(": 3}}, "not a regular expression"),
        ({"lora_alpha": True}, "lora_alpha True"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"r": [4]}, r"r \[4\]"),
        ({"use_dora": {}}, "use_dora"),
    ],
)
def test_config_values_of_a_wrong_type(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A damaged adapter_config.json is an error that names the key."""
    source = tiny_checkpoint(tmp_path / "source", "llama")
    adapter = trained(source, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises((RefusedError, SourceError), match=message):
        read_adapter(adapter)


def test_factors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """NaN in a factor would make a tensor of NaN."""
    source = tiny_checkpoint(tmp_path / "source", "llama")
    adapter = trained(source, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    factors = load_file(path)
    next(iter(factors.values()))[0, 0] = float("nan")
    save_file(factors, path)
    with pytest.raises(SourceError, match="NaN"):
        jaxconv.convert(source, tmp_path / "out", adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")
    assert not (tmp_path / "out").exists()
