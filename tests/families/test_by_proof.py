"""Families without a table: converted if transformers proves it, else refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import RefusedError, SourceError, VerificationError
from jaxconv.families import by_proof, family_for, recognition
from tests.support.any_family import random_model, write
from tests.support.scores import PROMPTS, causal_logits, classifier_logits
from tests.support.tiny import tokenizer
from tests.test_public_api import run

# Tied and not, with and without a class of transformers, attention, state spaces, mixtures, a bias in the head.
SAMPLE = (
    "arcee", "bloom", "exaone4", "falcon", "falcon_mamba", "glm", "gptj", "gpt_neox", "jamba", "lfm2", "olmoe", "opt",
)  # fmt: skip


def tiny(folder: Path, model_type: str, **settings: object) -> Path:
    """A tiny checkpoint of a family, all parameters away from their initial values."""
    return write(folder, random_model(model_type, **settings))


def convert(source: Path, output: Path, **options: object) -> jaxconv.ConversionResult:
    """A conversion with the test tokenizer's answers."""
    return jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], backend="numpy", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GLM, which no table describes."""
    return tiny(tmp_path_factory.mktemp("glm") / "source", "glm")


@pytest.mark.parametrize("model_type", SAMPLE)
def test_output_is_the_causal_lm(tmp_path: Path, model_type: str) -> None:
    """The backbone has the source's bits under its own names; transformers' class gives the causal LM's difference."""
    source = tiny(tmp_path / "source", model_type)
    result = convert(source, tmp_path / "output")
    model = result.plan.model
    assert model.family.by_proof
    assert result.report is not None and result.report.passed
    assert result.report.scores is not None and result.report.scores.backend == "torch"
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "output" / "model.safetensors")
    kept = {name for name in after if not name.startswith("score.")}
    assert before.keys() - kept <= {model.family.head.weight, model.family.head.bias}
    assert all(torch.equal(before[name], after[name]) for name in kept)
    if model.family.transformers_seq_cls:
        no, yes = tokenizer(False).convert_tokens_to_ids(["no", "yes"])
        logits = causal_logits(source, PROMPTS, [no, yes])
        scores, report = classifier_logits(tmp_path / "output", PROMPTS[:1])
        bias = after.get("score.bias", torch.zeros(1))
        assert not report["missing_keys"]
        assert torch.allclose(scores[0] + bias, logits[0, 1:] - logits[0, :1], atol=1e-4)


def test_card_and_record_say_by_proof(tmp_path: Path, glm: Path, qwen3: Path) -> None:
    """jaxconv.json has `family` only for such an output, and the card says what was proven."""
    convert(glm, tmp_path / "glm")
    convert(qwen3, tmp_path / "qwen3")
    record = json.loads((tmp_path / "glm" / "jaxconv.json").read_text())
    assert record["family"] == "by proof" and {"torch", "transformers"} <= record["libraries"].keys()
    assert "by proof" in (tmp_path / "glm" / "README.md").read_text()
    assert "family" not in json.loads((tmp_path / "qwen3" / "jaxconv.json").read_text())
    assert "by proof" not in (tmp_path / "qwen3" / "README.md").read_text()


def test_inspect_says_what_the_proof_needs(glm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Convertible, with a warning that PyTorch is needed."""
    assert main(["inspect", str(glm), "--classifier-from-tokens", '["no","yes"]', "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["convertible"] is True
    assert description["target_architecture"] == "GlmForSequenceClassification"
    assert [w for w in description["warnings"] if w.startswith("by proof: ") and "needs PyTorch" in w]


def test_verify_and_load_take_the_output(tmp_path: Path, glm: Path) -> None:
    """`verify` runs the same proof again, and fails for a changed row; `load` scores with the output."""
    convert(glm, tmp_path / "output")
    report = jaxconv.verify(glm, tmp_path / "output")
    assert report.passed and report.scores is not None
    query, document = report.scores.scored[0]
    score = jaxconv.load(tmp_path / "output", backend="torch").score(query, [document], raw=True)[0]
    assert abs(score - report.scores.source[0][0]) <= 1e-4
    tensors = load_file(tmp_path / "output" / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, tmp_path / "output" / "model.safetensors", {"format": "pt"})
    assert not jaxconv.verify(glm, tmp_path / "output").passed


@pytest.mark.parametrize(
    ("model_type", "settings", "key"),
    [
        ("minicpm3", {"dim_model_base": 16}, "dim_model_base"),
        ("inkling_text", {}, "logits_mup_width_multiplier"),
        ("granitemoe", {"logits_scaling": 4.0}, "logits_scaling"),
        ("falcon_h1", {"lm_head_multiplier": 0.5}, "lm_head_multiplier"),
        ("nanochat", {"final_logit_softcapping": 1.0}, "final_logit_softcapping"),
    ],
)
def test_scaling_that_no_list_names_fails_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, settings: dict[str, object], key: str
) -> None:
    """Refused by the name of the key; with every list emptied the proof finds it, and nothing is published."""
    source = tiny(tmp_path / "source", model_type, **settings)
    monkeypatch.setattr(recognition, "REFUSED", {})
    with pytest.raises(RefusedError, match=key):
        convert(source, tmp_path / "output")
    monkeypatch.setattr(by_proof, "suspicious_keys", lambda config: ())
    with pytest.raises(VerificationError, match="something scales or caps them") as failure:
        convert(source, tmp_path / "output")
    assert "raw scores differ" in str(failure.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_minicpm_is_refused_by_name(tmp_path: Path) -> None:
    """A family that is known to scale before the head never comes to a proof."""
    with pytest.raises(RefusedError, match="loaders differ on where"):
        convert(tiny(tmp_path / "source", "minicpm3"), tmp_path / "output")


def test_logits_that_are_too_small_prove_nothing(tmp_path: Path, glm: Path) -> None:
    """A head near zero would agree with any factor, so the proof does not count."""
    source = shutil.copytree(glm, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 1e-6
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(VerificationError, match="the largest logit of the source is"):
        convert(source, tmp_path / "output")


@pytest.mark.parametrize("change", ["remove", "add", "reshape"])
def test_a_wrong_tensor_is_named(tmp_path: Path, glm: Path, change: str) -> None:
    """A missing, unexpected or misshaped tensor is an error that names it."""
    source = shutil.copytree(glm, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    if change == "remove":
        del tensors[name]
    elif change == "add":
        name = "model.layers.1.mlp.extra.weight"
        tensors[name] = torch.ones(3)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=name):
        convert(source, tmp_path / "output")


def test_both_names_of_a_head_are_read(tmp_path: Path) -> None:
    """GPT-NeoX files say embed_out, transformers' model says lm_head; either converts."""
    source = tiny(tmp_path / "source", "gpt_neox")
    tensors = load_file(source / "model.safetensors")
    assert "embed_out.weight" in tensors
    renamed = {name.replace("embed_out", "lm_head"): tensor for name, tensor in tensors.items()}
    first = convert(source, tmp_path / "first")
    save_file(renamed, source / "model.safetensors", {"format": "pt"})
    second = convert(source, tmp_path / "second")
    assert [r.plan.model.lm_head.weight.name for r in (first, second)] == ["embed_out.weight", "lm_head.weight"]
    outputs = [load_file(tmp_path / name / "model.safetensors")["score.weight"] for name in ("first", "second")]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("model_type", "settings", "reason"),
    [
        ("roberta", {}, "between its backbone and its head"),
        ("bart", {}, "beside what the causal LM has"),
        ("rwkv", {}, "has head.weight as its head"),
        ("phi4_multimodal", {}, "takes more than text"),
        ("cohere2_moe", {}, "logit_scale 0.0625"),
        ("xlstm", {}, "output_logit_soft_cap 30.0"),
        ("glm", {"unembedding_scale": 2.0}, "unembedding_scale 2.0"),
        ("glm", {"tie_word_embeddings": True, "architectures": ["GlmXForCausalLM"]}, "expected GlmForCausalLM"),
        ("glm", {"hidden_size": "wide"}, "cannot build it"),
    ],
)
def test_structures_are_refused_with_the_reason(model_type: str, settings: dict[str, object], reason: str) -> None:
    """What is not a linear head over the backbone is refused from the config alone."""
    with pytest.raises(RefusedError, match=reason):
        family_for({"model_type": model_type, **settings})


def test_a_size_without_end_is_refused_before_anything_is_built() -> None:
    """Millions of layers would take hours to build."""
    with pytest.raises(SourceError, match="num_hidden_layers"):
        family_for({"model_type": "glm", "num_hidden_layers": 10**9})


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"adapter": "anywhere"}, "this source has an adapter"), ({"dtype": "float16"}, "--dtype would make them differ")],
)
def test_what_cannot_be_proven_is_refused_first(tmp_path: Path, glm: Path, options: dict[str, str], reason: str) -> None:
    """Before anything is written."""
    with pytest.raises(RefusedError, match=reason):
        convert(glm, tmp_path / "output", **options)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_torch_the_way_is_named(glm: Path, missing: str) -> None:
    """convert and inspect say what to install, and inspect refuses what convert refuses."""
    hide = f"""
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == {missing!r} else find_spec(name, *package)
"""
    arguments = ["convert", str(glm), "output", "--classifier-from-tokens", '["no","yes"]', "--backend", "numpy"]
    code = f"""
from jaxconv.cli import main
code = main({arguments!r})
assert not {{"torch", "transformers"}} & set(sys.modules)
sys.exit(code)
"""
    result = run((), hide + code)
    assert result.returncode == 1
    assert "by proof" in result.stderr and "pip install 'jaxconv[torch]'" in result.stderr
    inspected = run((), f"{hide}import jaxconv; print(jaxconv.inspect({str(glm)!r}, token_ids=[5, 6])['refusals'])")
    assert "pip install 'jaxconv[torch]'" in inspected.stdout
