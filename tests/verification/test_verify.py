"""What `verify` lets pass: every kind of good conversion; and its report, flags and exit codes."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import jaxconv
import jaxconv.verification
from jaxconv.cli import main
from jaxconv.errors import SourceError, UsageError
from jaxconv.verification.pairs import read_pairs
from jaxconv.verification.rank_agreement import rank_agreement
from tests.layouts.test_hf_flax import as_flax
from tests.support.tiny import FAMILIES, tiny_checkpoint

TOKENS = ["no", "yes"]


def converted(source: Path, folder: Path, **options: object) -> Path:
    """The source converted into `folder`/out with the usual tokens."""
    jaxconv.convert(source, folder / "out", **{"classifier_from_tokens": TOKENS, "backend": "numpy", **options})  # type: ignore[arg-type]
    return folder / "out"


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_every_family_passes(model_type: str, tmp_path: Path) -> None:
    """Whatever the family, with its logit scale or head bias, the output is the source's."""
    source = tiny_checkpoint(tmp_path / "source", model_type)
    report = jaxconv.verify(source, converted(source, tmp_path), structure_only=True)
    assert report.passed, report.findings
    assert report.structure.tensors == report.structure.identical > 10 and report.head.exact and report.scores is None


@pytest.mark.parametrize(
    "options",
    [
        {"copy_mode": "link"},
        {"dtype": "bfloat16"},
        {"dtype": "float32"},
        {"dtype": "float16"},
        {"scale": 0.3, "bias": -4.5},
        {"scale": -1 / 3},
        {"method": "no_post_processing"},
        {"method": "no_post_processing", "classifier_from_tokens": ["Yes", "No", "0"], "scale": 0.7},
        {"activation": "identity", "use_sep_token": True},
        {"max_shard_size": "100KB", "dtype": "float32"},
    ],
    ids=str,
)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_option_passes(shards: int, options: dict[str, object], qwen3: Path, untied: Path, tmp_path: Path) -> None:
    """Single and sharded sources, copied and linked, cast, scaled, with several labels."""
    source = qwen3 if shards == 1 else untied
    report = jaxconv.verify(source, converted(source, tmp_path, **options), structure_only=True)
    assert report.passed, report.findings


def test_pytorch_bin_and_flax_sources_pass(qwen3: Path, tmp_path: Path) -> None:
    """Tensors that had to be rewritten or transposed are compared value by value, in one block and in several."""
    llama = tiny_checkpoint(tmp_path / "llama", "llama", tie=False)
    flax = as_flax(llama, tmp_path / "flax")
    binary = tmp_path / "bin"
    shutil.copytree(qwen3, binary)
    torch.save(load_file(binary / "model.safetensors"), binary / "pytorch_model.bin")
    (binary / "model.safetensors").unlink()
    for source in (flax, binary):
        output = converted(source, tmp_path / f"of-{source.name}")
        report = jaxconv.verify(source, output, structure_only=True)
        assert report.passed and report.structure.identical > 10, report.findings


def test_large_tensors_go_through_in_pieces(qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pieces smaller than a tensor the result is the same, and a difference is found where it is."""
    from jaxconv.verification import array_comparison, byte_comparison

    monkeypatch.setattr(byte_comparison, "CHUNK", 96)
    monkeypatch.setattr(array_comparison, "BLOCK", 250)
    source = as_flax(tiny_checkpoint(tmp_path / "llama", "llama", tie=False), tmp_path / "flax")
    for origin in (source, qwen3):
        output = converted(origin, tmp_path / origin.parent.name, dtype="float32")
        assert jaxconv.verify(origin, output, structure_only=True).passed
        header = int.from_bytes((output / "model.safetensors").read_bytes()[:8], "little")
        entry = json.loads((output / "model.safetensors").read_bytes()[8 : 8 + header])["model.embed_tokens.weight"]
        with (output / "model.safetensors").open("r+b") as file:
            file.seek(8 + header + entry["data_offsets"][0] + 4 * 1234 + 1)
            file.write(b"\x55")
        report = jaxconv.verify(origin, output, structure_only=True)
        assert not report.passed and report.structure.mismatched == ("model.embed_tokens.weight",)
        assert "1 of 20480 elements, first in element 1234" in report.findings[0]


def test_a_pad_token_may_be_added(tmp_path: Path) -> None:
    """A tokenizer without a pad token gets one; that change alone is allowed in its files."""
    source = tiny_checkpoint(tmp_path / "source", "llama", tie=True)
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    output = converted(source, tmp_path)
    assert (output / "tokenizer_config.json").read_bytes() != (source / "tokenizer_config.json").read_bytes()
    report = jaxconv.verify(source, output, structure_only=True)
    assert report.passed, report.findings


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_scores_agree(backend: str, untied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command compares raw scores with either backend; the JSON has the documented keys and the exit code is 0."""
    output = converted(untied, tmp_path, scale=0.5, bias=-1.0)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": q, "document": "the that " * n}) + "\n" for n, q in enumerate("abcd")))
    code = main(["verify", str(untied), str(output), "--json", "--backend", backend, "--pairs", str(pairs)])
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and report["passed"] and report["findings"] == []
    assert set(report) == {"passed", "structure", "head", "scores", "vllm", "findings", "notes"} and report["vllm"] is None
    assert report["structure"] == {"tensors": 20, "identical": 20, "mismatched": []}
    assert report["head"]["exact"] is True and report["head"]["max_abs_error"] < 1e-7
    scores = report["scores"]
    assert (scores["pairs"], scores["backend"], scores["rank_agreement"]) == (4, backend, 1.0)
    assert 0 < scores["max_abs_error"] <= 1e-5 < scores["tolerance"]


def test_a_tolerance_that_is_too_small_fails(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--tolerance 0` fails with exit code 1 and names the worst pair."""
    output = converted(qwen3, tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"query": "is it", "document": "the that"}\n')
    pairs = str(tmp_path / "pairs.jsonl")
    assert main(["verify", str(qwen3), str(output), "--pairs", pairs, "--tolerance", "0"]) == 1
    said = capsys.readouterr().out
    assert "FAILED" in said and "more than the tolerance" in said and "'is it'" in said


def test_one_framework_only(qwen3: Path, tmp_path: Path) -> None:
    """With JAX torch is never imported, and a comparison of bytes imports neither."""
    from tests.test_public_api import FRAMEWORKS, run

    output = converted(qwen3, tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"query": "is it", "document": "the that"}\n')
    common = ["verify", str(qwen3), str(output)]
    for arguments, forbidden, absent in (
        ([*common, "--structure-only"], FRAMEWORKS, ()),
        ([*common, "--backend", "jax", "--pairs", str(tmp_path / "pairs.jsonl")], (), ("torch", "transformers")),
    ):
        code = f"from jaxconv.cli import main; assert main({arguments!r}) == 0; assert not set({absent!r}) & set(sys.modules)"
        found = run(forbidden, code)
        assert found.returncode == 0, found.stdout + found.stderr


def test_no_code_is_shared_with_convert() -> None:
    """No module of the verification imports a stage that writes outputs."""
    forbidden = ("conversion", "head", "writer", "bundle", "plan", "merge")
    modules = sorted(Path(jaxconv.verification.__file__).parent.rglob("*.py"))
    assert len(modules) > 5
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
            wrong = [n for n in names for stage in forbidden if f"{n}.".startswith(f"jaxconv.{stage}.")]
            assert not wrong, f"{module.name}: {wrong}"


def test_built_in_pairs_are_varied() -> None:
    """At least sixteen different pairs, of several scripts, one without a document."""
    pairs = read_pairs(None)
    assert len(set(pairs)) == len(pairs) >= 16
    assert any(not document for _, document in pairs) and any(not query.isascii() for query, _ in pairs)


@pytest.mark.parametrize(
    ("text", "says"), [("", "no pairs"), ("{}\n", "line 1"), ('{"query": "a", "document": "b"}\nx\n', "line 2")]
)
def test_wrong_pairs_are_named(text: str, says: str, tmp_path: Path) -> None:
    """An empty file, and lines that are no pair, are usage errors with the line."""
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_pairs(tmp_path / "pairs.jsonl")


def test_rank_agreement_counts_what_is_apart() -> None:
    """Pairs closer than the gap do not count; a swap of others does."""
    truth = np.array([[0.0], [1.0], [1.001], [3.0]])
    assert rank_agreement(truth, np.array([[0.0], [1.0], [0.99], [3.0]]), 0.01) == 1.0
    assert rank_agreement(truth, np.array([[0.0], [1.0], [1.0], [0.5]]), 0.01) == pytest.approx(3 / 5)


def test_what_is_no_output_is_an_error(qwen3: Path, tmp_path: Path) -> None:
    """A folder that is absent or no model is an error, not a report; so is a wrong tolerance."""
    with pytest.raises(SourceError, match="is not a directory"):
        jaxconv.verify(qwen3, tmp_path / "absent")
    with pytest.raises(SourceError, match=r"config\.json"):
        jaxconv.verify(qwen3, tmp_path)
    with pytest.raises(UsageError, match="tolerance"):
        jaxconv.verify(qwen3, qwen3, tolerance=-1.0)


def test_convert_verifies_before_it_publishes(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`convert --verify` says what was compared."""
    arguments = ["convert", str(qwen3), str(tmp_path / "out"), "--token-ids", "[5,6]", "--verify", "--backend", "jax"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["verification"]
    assert report["passed"] and report["scores"]["pairs"] >= 16 and report["scores"]["backend"] == "jax"


@pytest.mark.slow
def test_smollm2_scores_are_torchs(tmp_path: Path) -> None:
    """64 short pairs on a real model: raw scores of the output by JAX are torch's causal logits to 1e-4."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from examples.smollm2 import checkpoint

    source = checkpoint()
    (tmp_path / "prompt.jinja").write_text("Q: {{ query }}\nA: {{ document }}\nRelevant:")
    output = converted(
        source, tmp_path, classifier_from_tokens=["ĠNo", "ĠYes"], template=tmp_path / "prompt.jinja", copy_mode="link"
    )
    subjects = ["cats", "tides", "bread", "Paris", "rust", "snow", "chess", "gold"]
    pairs = [(query, f"{document} again") for query in subjects for document in subjects]
    report = jaxconv.verify(source, output, pairs=pairs, backend="jax")
    assert report.passed and report.scores is not None and report.scores.pairs == 64
    assert report.scores.max_abs_error <= 1e-4 and report.scores.rank_agreement == 1.0
    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="right")
    batch = tokenizer([f"Q: {q}\nA: {d}\nRelevant:" for q, d in pairs], return_tensors="pt", padding=True)
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()(**batch).logits
    last = logits[torch.arange(len(pairs)), batch["attention_mask"].sum(1) - 1].numpy()
    truth = last[:, 9230] - last[:, 2838]
    assert np.abs(np.array(report.scores.output)[:, 0] - truth).max() <= 1e-4
    assert np.ptp(truth) > 0.1
