"""What `verify` says of its own proof: who computed what, what it takes for granted; and reports of what cannot be read."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxconv
import jaxconv.verification.proof as proof
from jaxconv.cli import main
from jaxconv.errors import JaxconvError, SourceError, UsageError
from jaxconv.verification.adapter import read_adapter_files
from jaxconv.verification.rank_agreement import rank_agreement
from jaxconv.verification.rounding import unit_in_last_place
from tests.support.tiny import tiny_checkpoint
from tests.test_adapter import trained
from tests.verification.test_verify import TOKENS, converted

PAIRS = [("is it", "the that"), ("no", "this yes")]
PROMPT = "Q: {{ query }}\nD: {{ document }}\nRelevant:\n"


@pytest.mark.parametrize(
    ("backend", "kind", "by"),
    [("auto", "independent", "torch and jax"), ("jax", "consistency", "jax"), ("torch", "consistency", "torch")],
)
def test_scores_say_who_computed_them(backend: str, kind: str, by: str, qwen3: Path, tmp_path: Path) -> None:
    """Two implementations by default; a backend that is named computes both sides, and a note says what that leaves open."""
    report = jaxconv.verify(qwen3, converted(qwen3, tmp_path), pairs=PAIRS, backend=backend)
    assert report.passed and report.scores is not None, report.findings
    assert (report.scores.kind, report.scores.backend) == (kind, by)
    assert report.to_json()["scores"]["kind"] == kind
    assert any("both sides" in note for note in report.notes) is (kind == "consistency")


def test_report_is_short_in_a_session(qwen3: Path, tmp_path: Path) -> None:
    """The representation of a report fits a line."""
    output = converted(qwen3, tmp_path)
    assert repr(jaxconv.verify(qwen3, output, structure_only=True)) == (
        "Report(passed: 24 of 24 tensors identical, scores not compared)"
    )
    (output / "score_template.jinja").unlink()
    assert repr(jaxconv.verify(qwen3, output, structure_only=True)).startswith("Report(FAILED, 1 findings: 24 of 24")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pairs": []}, "pairs is empty"),
        ({"pairs": [("query",)]}, "pairs"),
        ({"pairs": [("query", 3)]}, "pairs"),
        ({"tolerance": "1"}, "tolerance is '1'"),
        ({"classifier_from_tokens": "no"}, "classifier_from_tokens is 'no'"),
        ({"structure": True}, "unexpected keyword"),
        ({"backend": "numpy", "pairs": PAIRS}, "numpy"),
    ],
    ids=str,
)
def test_wrong_arguments_are_usage_errors(arguments: dict[str, Any], says: str, qwen3: Path, tmp_path: Path) -> None:
    """No pairs, wrong types, unknown names and a backend without models are errors before anything is compared."""
    with pytest.raises(UsageError, match=says):
        jaxconv.verify(qwen3, converted(qwen3, tmp_path), **arguments)


def test_adapter_beside_the_weights_is_not_applied(qwen3: Path, tmp_path: Path) -> None:
    """transformers' from_pretrained would apply an adapter that lies beside the weights; neither backend does."""
    source = tmp_path / "source"
    shutil.copytree(qwen3, source)
    trained(qwen3, tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, source)
    output = converted(source, tmp_path)
    for backend in ("auto", "torch", "jax"):
        report = jaxconv.verify(source, output, pairs=PAIRS, backend=backend)
        assert report.passed, report.findings


def test_named_template_is_held_against_the_outputs(qwen3: Path, tmp_path: Path) -> None:
    """--template wins over what the output records; an output without a record, as older ones are, gets a note."""
    for name, text in (("prompt", PROMPT), ("other", PROMPT.replace("Q:", "Query:"))):
        (tmp_path / f"{name}.jinja").write_text(text)
    output = converted(qwen3, tmp_path, template=tmp_path / "prompt.jinja")
    right, other = (
        jaxconv.verify(qwen3, output, pairs=PAIRS, backend="jax", template=tmp_path / f"{name}.jinja")
        for name in ("prompt", "other")
    )
    assert right.passed and not any("--template" in note for note in right.notes)
    assert any("another prompt than the template that was named" in finding for finding in other.findings)
    record = json.loads((output / "jaxconv.json").read_text())
    del record["prompt"]
    (output / "jaxconv.json").write_text(json.dumps(record))
    older = jaxconv.verify(qwen3, output, pairs=PAIRS, backend="jax")
    assert older.passed and any("pass --template or --preset" in note for note in older.notes)


def test_without_transformers_notes_name_what_is_own_reading(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says which lines rest on jaxconv's own reading."""
    monkeypatch.setattr("jaxconv.verification.text.is_installed", lambda: False)
    report = jaxconv.verify(qwen3, converted(qwen3, tmp_path), pairs=PAIRS, backend="jax")
    assert report.passed and any("the token ids" in note and "own reading" in note for note in report.notes)


def test_report_of_a_damaged_source_is_written(qwen3: Path, tmp_path: Path) -> None:
    """The error is raised, and the page and the JSON say it."""
    output = converted(qwen3, tmp_path)
    source = tmp_path / "source"
    shutil.copytree(qwen3, source)
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(SourceError):
        jaxconv.verify(source, output, report=tmp_path / "report")
    numbers = json.loads((tmp_path / "report/report.json").read_text())
    assert numbers["passed"] is False and "model.safetensors" in numbers["findings"][0] and numbers["scores"] is None
    page = (tmp_path / "report/report.html").read_text()
    assert "Failed" in page and "not compared" in page
    assert main(["verify", str(source), str(output), "--report", str(tmp_path / "again")]) == 1
    assert (tmp_path / "again/report.html").is_file()


def test_report_of_a_missing_output_is_written(qwen3: Path, tmp_path: Path) -> None:
    """An output that is not there is a finding of the page too."""
    with pytest.raises(JaxconvError, match="is not a directory"):
        jaxconv.verify(qwen3, tmp_path / "absent", report=tmp_path / "report")
    assert "is not a directory" in (tmp_path / "report/report.html").read_text()


def test_scores_that_crash_leave_the_rest_of_the_report(qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a framework raises becomes a finding; tensors and head stand in the report."""

    def crash(*arguments: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(proof, "compare_scores", crash)
    report = jaxconv.verify(qwen3, converted(qwen3, tmp_path), pairs=PAIRS, report=tmp_path / "report")
    assert report.findings == ("scores were not compared: MemoryError: out of memory",)
    assert report.structure.identical == report.structure.tensors > 10 and report.head.exact
    assert json.loads((tmp_path / "report/report.json").read_text())["structure"]["tensors"] > 10


def test_ten_thousand_pairs_fit_in_little_memory() -> None:
    """The order of 10,000 pairs is compared in a few megabytes."""
    scores = np.random.default_rng(0).standard_normal((10_000, 1))
    tracemalloc.start()
    agreement = rank_agreement(scores, scores + 1e-3 * scores[::-1], 1e-4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 < agreement < 1 and peak < 20e6


def test_rank_agreement_equals_the_plain_count() -> None:
    """Ties, gaps, NaN and infinities count as they do when every pair is compared with every other."""
    random = np.random.default_rng(1)
    for number in range(100):
        expected = random.integers(0, 8, (int(random.integers(1, 30)), 2)).astype(float)
        actual = expected + random.integers(-2, 3, expected.shape)
        actual[0] = np.nan if number % 3 == 0 else np.inf
        expected[-1] = np.nan if number % 5 == 0 else expected[-1]
        before, after = expected[:, None] - expected[None], actual[:, None] - actual[None]
        apart = np.abs(before) > 1
        plain = float((np.sign(before) == np.sign(after))[apart].mean()) if apart.any() else 1.0
        assert rank_agreement(expected, actual, 1.0) == pytest.approx(plain)


@pytest.mark.parametrize(("dtype", "kind"), [("F32", np.float32), ("F16", np.float16), ("F64", np.float64)])
def test_units_in_the_last_place(dtype: str, kind: Any) -> None:
    """They are NumPy's, down to the smallest numbers."""
    values = np.concatenate([np.random.default_rng(0).standard_normal(50), [0, 1, 2, 6e-8, 1e-7]]).astype(kind)
    assert np.array_equal(unit_in_last_place(values.astype(np.float64), dtype), np.abs(np.spacing(np.abs(values))))


def test_adapter_names_that_belong_nowhere_are_findings(qwen3: Path, tmp_path: Path) -> None:
    """A factor of a module that the model lacks is named."""
    adapter = trained(qwen3, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    name, value = next(iter(tensors.items()))
    save_file({**tensors, name.replace("layers.0", "layers.99"): value}, adapter / "adapter_model.safetensors")
    names = load_file(qwen3 / "model.safetensors")
    assert any("layers.99" in finding for finding in read_adapter_files(adapter, names).findings)


@pytest.mark.parametrize("activation", ["auto", "sigmoid", "identity"])
def test_every_activation_of_several_labels_passes(activation: str, tmp_path: Path) -> None:
    """Softmax is written as nothing, sigmoid as a problem type, identity as itself; exactly that is accepted."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3")
    output = converted(source, tmp_path, method="no_post_processing", activation=activation)
    assert jaxconv.verify(source, output, structure_only=True, classifier_from_tokens=TOKENS).passed
    config = json.loads((output / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Tanh"}
    (output / "config.json").write_text(json.dumps(config))
    assert any("has the activation Tanh" in f for f in jaxconv.verify(source, output, structure_only=True).findings)
