"""LoRA adapters, written by PEFT itself, merged on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import jaxconv
from jaxconv.errors import RefusedError, SourceError
from tests.support.scores import causal_logits, classifier_logits
from tests.support.tiny import tiny_checkpoint, tokenizer

TOKENS = ["no", "yes"]
PROMPTS = ["yes it is", "no\nthat the this", "the other thing"]
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]


def trained(source: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter of the source whose factors are random, as after training, saved by PEFT."""
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def merged(source: Path, adapter: Path, folder: Path, dtype: str = "float32") -> Path:
    """What PEFT makes of source and adapter."""
    base = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    tokenizer(False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("tie", "shards", "settings"),
    [
        (True, 1, {}),
        (False, 3, {"use_rslora": True}),
        (False, 1, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}}),
        (False, 1, {"target_modules": [*PROJECTIONS, "lm_head", "embed_tokens"]}),
        (False, 2, {"modules_to_save": ["lm_head", "norm"]}),
    ],
    ids=["tied", "rslora", "patterns", "head and embedding", "replaced"],
)
def test_scores_are_those_of_pefts_merge(tmp_path: Path, tie: bool, shards: int, settings: dict[str, Any]) -> None:
    """At float32 tensors equal PEFT's to float32 rounding, raw scores to 1e-4, and verify passes with the adapter."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=tie, shards=shards)
    adapter = trained(source, tmp_path / "adapter", **settings)
    options: dict[str, Any] = {"classifier_from_tokens": TOKENS, "dtype": "float32", "backend": "jax"}
    whole = merged(source, adapter, tmp_path / "merged")
    jaxconv.convert(whole, tmp_path / "expected", **options)
    wide = tmp_path / "wide"
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).save_pretrained(wide)
    tokenizer(False).save_pretrained(wide)
    jaxconv.convert(wide, tmp_path / "out", adapter=adapter, copy_mode="link", **options)
    ours, theirs = tensors(tmp_path / "out"), tensors(tmp_path / "expected")
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-6)
    scores, _ = classifier_logits(tmp_path / "out", PROMPTS)
    logits = causal_logits(whole, PROMPTS, tokenizer(False).convert_tokens_to_ids(TOKENS))
    assert (scores[:, 0] - (logits[:, 1] - logits[:, 0])).abs().max() <= 1e-4
    assert jaxconv.verify(wide, tmp_path / "out", adapter=adapter, backend="jax").passed


def tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder."""
    from safetensors.numpy import load_file

    return {name: array for path in folder.glob("*.safetensors") for name, array in load_file(path).items()}


def test_a_bfloat16_base_is_rounded_once(tmp_path: Path) -> None:
    """The merged tensor is the float32 sum rounded to the base's dtype; tensors without factors are untouched."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3")
    adapter = trained(source, tmp_path / "adapter")
    jaxconv.convert(source, tmp_path / "out", adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")
    before, after, factors = (tensors(folder) for folder in (source, tmp_path / "out", adapter))
    changed = {name for name in before if name in after and not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if any(f".{kind}." in name for kind in PROJECTIONS)}
    for name in changed:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        delta = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"] * np.float32(2)
        expected = before[name].astype(np.float32) + delta
        error = np.abs(after[name].astype(np.float32) - expected)
        assert (error <= np.abs(expected) * 2.0**-8 + 1e-6).all()


def test_verify_without_the_adapter_says_so(tmp_path: Path) -> None:
    """An output with an adapter in it is not its base: tensors differ, and the finding names the flag."""
    source = tiny_checkpoint(tmp_path / "source", "llama")
    adapter = trained(source, tmp_path / "adapter")
    jaxconv.convert(source, tmp_path / "out", adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")
    report = jaxconv.verify(source, tmp_path / "out", structure_only=True)
    assert any("pass --adapter" in finding for finding in report.findings) and report.structure.mismatched
    record = json.loads((tmp_path / "out/jaxconv.json").read_text())
    assert record["adapter"]["name"] == "adapter" and len(record["adapter"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"task_type": "SEQ_CLS"}, "score head of its own"),
        ({"r": 5}, "has rank 4"),
        ({"lora_alpha": None}, "lora_alpha None"),
    ],
)
def test_what_is_no_plain_lora_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Another kind of adapter, or a config that contradicts the factors, is an error by name."""
    source = tiny_checkpoint(tmp_path / "source", "llama")
    adapter = trained(source, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises((RefusedError, SourceError), match=says):
        jaxconv.convert(source, tmp_path / "out", adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_unties_is_refused(tmp_path: Path) -> None:
    """With head and embedding in one tensor an adapter on either makes two of them."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=True)
    adapter = trained(source, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(RefusedError, match=r"embed_tokens\.weight"):
        jaxconv.convert(source, tmp_path / "out", adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")


def test_an_adapter_of_another_model_is_an_error(tmp_path: Path) -> None:
    """Factors of layers or shapes that the base lacks are named, with the base that the adapter records."""
    deep = tiny_checkpoint(tmp_path / "deep", "llama", num_hidden_layers=3)
    source = tiny_checkpoint(tmp_path / "source", "llama")
    wide = tiny_checkpoint(tmp_path / "wide", "llama", intermediate_size=128)
    for other, says in ((deep, r"layers\.2\..*deep"), (wide, "make")):
        adapter = trained(other, tmp_path / f"adapter-{other.name}")
        with pytest.raises(SourceError, match=says):
            jaxconv.convert(source, tmp_path / "out", adapter=adapter, classifier_from_tokens=TOKENS, backend="numpy")
