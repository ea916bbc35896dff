"""`verify --against-vllm` with servers that are right, wrong or not vLLM; tests/vllm asks a real one."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import UsageError, VerificationError
from jaxconv.verification import vllm
from jaxconv.verification.scores import Scores
from jaxconv.verification.vllm import compare_served
from tests.support.answering import answering
from tests.verification.test_verify import converted

PAIRS = [(f"is it {'the ' * (n % 5)}{n}", "that this " * (n % 7)) for n in range(vllm.BATCH + 3)]
Change = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Proved:
    """A good output of `source`, and its local scores."""

    source: Path
    output: Path
    scores: Scores

    def models(self, **changes: Any) -> dict[str, Any]:
        """What vLLM lists when it serves the output."""
        return {"data": [{"id": "some-name", "root": str(self.output), "parent": None, "max_model_len": 512, **changes}]}

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """What vLLM answers to a request for raw scores."""
        assert (body["model"], body["use_activation"]) == ("some-name", False)
        asked = [self.scores.scored.index(pair) for pair in zip(body["queries"], body["documents"], strict=True)]
        data = [{"index": i, "object": "score", "score": self.scores.output[row][0]} for i, row in enumerate(asked)]
        return {"data": data, "usage": {"prompt_tokens": sum(self.scores.lengths[row] for row in asked)}}

    def changed(self, change: Callable[[float], Any]) -> Change:
        """A server that changes every score."""

        def answer(body: dict[str, Any]) -> dict[str, Any]:
            found = self.answer(body)
            return found | {"data": [entry | {"score": change(entry["score"])} for entry in found["data"]]}

        return answer


@pytest.fixture(scope="module")
def proved(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Proved:
    """Scores far from zero, so that a sigmoid is not mistaken for rounding."""
    output = converted(qwen3, tmp_path_factory.mktemp("served"), scale=20.0)
    report = jaxconv.verify(qwen3, output, pairs=PAIRS, backend="jax")
    assert report.passed and report.scores is not None and report.vllm is None
    assert max(row[0] for row in report.scores.output) > 1
    return Proved(qwen3, output, report.scores)


def test_command_asks_in_batches(
    proved: Proved, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's name is found, every pair asked for once with the key; JSON, page and exit code say that it agrees."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": query, "document": document}) + "\n" for query, document in PAIRS))
    arguments = ["verify", str(proved.source), str(proved.output), "--pairs", str(pairs), "--backend", "jax", "--json"]
    with answering(proved.models(), proved.changed(lambda score: score + 1e-6)) as (url, asked):
        assert main([*arguments, "--against-vllm", f"{url}/v1/", "--report", str(tmp_path / "report")]) == 0
    found = json.loads(capsys.readouterr().out)["vllm"]
    assert (found["url"], found["pairs"], found["rank_agreement"]) == (url, len(PAIRS), 1.0)
    assert found["max_abs_error"] == pytest.approx(1e-6, rel=0.1) and found["tolerance"] >= 1e-4
    assert [len(body["queries"]) for body in asked] == [vllm.BATCH, 3]
    assert {body["authorization"] for body in asked} == {"Bearer secret"}
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["pairs"]
    assert all(row["vllm_error"] == pytest.approx(1e-6, rel=0.1) for row in rows) and len(rows) == len(PAIRS)
    assert "vLLM against classifier" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda score: 1 / (1 + math.exp(-score)), "ignores use_activation"),
        (lambda score: score * 1.01, "bfloat16 keeps two to three digits.*--dtype float32.*--tolerance"),
        (lambda score: -score, "raw scores differ.*It serves "),
        (lambda score: math.nan, "raw scores differ by nan"),
    ],
    ids=["activation", "rounded", "negated", "NaN"],
)
def test_other_scores_are_findings(change: Callable[[float], float], says: str, proved: Proved) -> None:
    """Each way to be wrong is told apart; an order that is lost is a finding of its own."""
    with answering(proved.models(), proved.changed(change)) as (url, _):
        served = compare_served(url, proved.output, proved.scores, None)
    assert any(re.search(says, finding) for finding in served.findings), served.findings


def test_tolerance_is_the_servers(proved: Proved) -> None:
    """A looser --tolerance lets a bfloat16 server pass and leaves the local comparison as strict as it is."""
    with answering(proved.models(), proved.changed(lambda score: score * 1.01)) as (url, _):
        report = jaxconv.verify(
            proved.source, proved.output, pairs=PAIRS, backend="jax", against_vllm=url, tolerance=0.5
        )  # fmt: skip
    assert report.passed and report.scores is not None and report.vllm is not None
    assert (report.vllm.tolerance, report.vllm.tolerance_reason) == (0.5, "given")
    assert report.vllm.max_abs_error > 1e-3 > report.scores.tolerance == proved.scores.tolerance


def test_other_prompts_are_seen(proved: Proved) -> None:
    """A server without the template reads another number of tokens; that is said even where scores are alike."""

    def fewer(body: dict[str, Any]) -> dict[str, Any]:
        return proved.answer(body) | {"usage": {"prompt_tokens": 7}}

    with answering(proved.models(), fewer) as (url, _):
        served = compare_served(url, proved.output, proved.scores, None)
    assert len(served.findings) == 1 and "started without the template" in served.findings[0]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda found: found | {"data": found["data"][:-1]}, "gave 31 scores for 32 pairs"),
        (lambda found: found | {"data": found["data"][::-1]}, "in the order asked"),
        (lambda found: found | {"data": [{"index": 0, "score": None}]}, "expected a number"),
        (lambda found: [], "gave 0 scores for 32 pairs"),
        (lambda found: (400, json.dumps({"error": {"message": "no such route"}})), "answers 400 .*no such route"),
        (lambda found: (500, "oh"), "answers 500 .*oh"),
        (lambda found: (200, "<html>"), "does not answer with JSON"),
    ],
    ids=["fewer", "reversed", "null", "list", "400", "500", "html"],
)
def test_wrong_answers_are_errors(answer: Change, says: str, proved: Proved) -> None:
    """A wrong count, order or type, and every error of the server, are named."""
    wrong = answering(proved.models(), lambda body: answer(proved.answer(body)))
    with wrong as (url, _), pytest.raises(VerificationError, match=says):
        compare_served(url, proved.output, proved.scores, None)


def test_another_model_is_an_error(proved: Proved, tmp_path: Path) -> None:
    """Another folder here, several models, none, prompts that are too long; a copy of the folder is no other model."""
    copy = tmp_path / "copy"
    shutil.copytree(proved.output, copy)
    other = converted(proved.source, tmp_path, scale=3.0)
    two = {"data": [{"id": "a", "root": "/x/a"}, {"id": "b", "root": "/x/b"}]}
    for models, says in (
        (proved.models(root=str(other)), f"serves {other}; expected {proved.output}"),
        (two, "serves /x/a, /x/b"),
        ({"data": [{"id": "adapter", "parent": "some-name"}]}, "names no model"),
        ({"object": "error"}, "names no model"),
        (proved.models(max_model_len=5), "takes 5. Serve with --max-model-len"),
        ((404, "nothing"), "answers 404"),
    ):
        with answering(models, proved.answer) as (url, asked), pytest.raises(VerificationError, match=says):
            compare_served(url, proved.output, proved.scores, None)
        assert not asked
    for models in (
        proved.models(root=str(copy)),
        proved.models(root="/on/another/machine"),
        {"data": [*two["data"], *proved.models()["data"]]},
    ):
        with answering(models, proved.answer) as (url, _):
            assert compare_served(url, proved.output, proved.scores, None).findings == ()


def test_no_server_is_a_finding_and_the_rest_is_reported(proved: Proved, tmp_path: Path) -> None:
    """Nothing listens, or something that never answers: the local proof stands in the report beside the finding."""
    with answering(proved.models(), proved.answer) as (url, _):
        pass
    report = jaxconv.verify(
        proved.source, proved.output, pairs=PAIRS[:2], backend="jax", against_vllm=url, report=tmp_path / "report"
    )
    assert report.vllm is None and report.scores is not None and len(report.findings) == 1
    assert "vLLM was not compared: no vLLM server answers at" in report.findings[0]
    assert json.loads((tmp_path / "report" / "report.json").read_text())["findings"] == list(report.findings)


def test_a_server_that_hangs_is_given_up(proved: Proved, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come is an error after the time limit."""
    monkeypatch.setattr(vllm, "LIST_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(VerificationError, match=r"gave no answer in 0\.2 s"),
    ):
        compare_served(f"http://127.0.0.1:{silent.getsockname()[1]}", proved.output, proved.scores, None)


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://x", "http://", "http://x:port", "http://u:p@x:1", "http://x?key=1"]
)
def test_wrong_addresses_are_usage_errors(address: str, proved: Proved) -> None:
    """What is no address, or would put a password into the report, is refused before any work."""
    with pytest.raises(UsageError, match="--against-vllm"):
        jaxconv.verify(proved.source, proved.output, against_vllm=address)


def test_the_servers_dtype_is_named_or_float32(proved: Proved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of plain weights float32 is expected; a server that is said to run bfloat16 may round. The report says which."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": query, "document": document}) + "\n" for query, document in PAIRS))
    arguments = ["verify", str(proved.source), str(proved.output), "--pairs", str(pairs), "--backend", "jax"]
    with answering(proved.models(), proved.changed(lambda score: score * 1.01)) as (url, _):
        assert main([*arguments, "--against-vllm", url]) == 1
        assert "the server runs float32 (expected of a proof; --server-dtype names another)" in capsys.readouterr().out
        assert main([*arguments, "--against-vllm", url, "--server-dtype", "bfloat16"]) == 0
        said = capsys.readouterr().out
        assert "the server runs bfloat16 (--server-dtype): 3.12% of the largest score, what it rounds over 2 layers" in said
        assert main([*arguments, "--against-vllm", url, "--server-dtype", "float16"]) == 1


def test_contradictions_are_usage_errors(proved: Proved, tmp_path: Path) -> None:
    """Without scores, or with several labels, there is nothing that /score could be compared with."""
    with pytest.raises(UsageError, match="--structure-only"):
        jaxconv.verify(proved.source, proved.output, structure_only=True, against_vllm="http://x")
    with pytest.raises(UsageError, match="--server-dtype 'half' is unknown; expected one of: float32, bfloat16, float16"):
        jaxconv.verify(proved.source, proved.output, against_vllm="http://x", server_dtype="half")
    with pytest.raises(UsageError, match="--against-vllm"):
        jaxconv.verify(proved.source, proved.output, server_dtype="float32")
    labels = converted(proved.source, tmp_path, method="no_post_processing")
    with pytest.raises(UsageError, match="has 2, which /score"):
        jaxconv.verify(proved.source, labels, against_vllm="http://x")
