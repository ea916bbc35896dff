"""The commands of generated cards, run as pasted against the server that the card's own `vllm serve` starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jaxconv
from jaxconv.presets import get
from tests.support.real_checkpoints import checkpoint_of, real_checkpoint
from tests.support.vllm_server import running

pytestmark = pytest.mark.vllm
PRINTED = "http://localhost:8000"
QUERY, DOCUMENTS = "what is the capital of France?", ["Paris is the capital of France.", "Cats sleep."]
TEMPLATE = "Query: {{ query }}\nDocument: {{ document }}\nRelevant: \n"


def blocks(output: Path) -> list[tuple[str, str]]:
    """(language, text) of each block of the card."""
    return re.findall(r"```(\w+)\n(.*?)```", (output / "README.md").read_text(), re.DOTALL)


def run(kind: str, text: str, folder: Path) -> str:
    """What a block prints, run in the output's folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-c", text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_card(output: Path, log: Path) -> dict[str, Any]:
    """Every block's output by what it is; only the port of the server is another than printed."""
    printed: dict[str, Any] = {}
    (serve,) = (text for _, text in blocks(output) if text.startswith("vllm serve"))
    with running(shlex.split(serve), log, output) as url:
        for kind, text in blocks(output):
            if text.startswith("curl"):
                endpoint = re.search(rf"{PRINTED}(/\w+)", text)
                assert endpoint is not None
                printed[endpoint.group(1)] = json.loads(run(kind, text.replace(PRINTED, url), output))
    for kind, text in blocks(output):
        if not text.startswith(("vllm", "curl")):
            name = next(name for name in ("CrossEncoder", "AutoModel", "jaxconv score") if name in text)
            printed[name] = run(kind, text, output)
    return printed


def number(text: str) -> float:
    """The first number with a point."""
    return float(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)[0])


def test_a_calibrated_preset(tmp_path: Path) -> None:
    """All blocks of mxbai's card run and print one score; CrossEncoder alone leaves the bias out."""
    preset = get("mxbai-rerank-base-v2")
    output = tmp_path / "output"
    jaxconv.convert(checkpoint_of(preset, tmp_path / "source"), output, preset=preset.name, calibrate=True, backend="jax")
    printed = run_card(output, tmp_path / "log")
    assert sorted(printed) == ["/rerank", "/score", "AutoModel", "CrossEncoder", "jaxconv score"]
    expected = jaxconv.load(output).score(QUERY, DOCUMENTS)
    assert 0 < expected[0] < 0.1  # sigmoid(x - 4.5) of a random model
    served = [entry["score"] for entry in printed["/score"]["data"]]
    ranked = {entry["index"]: entry["relevance_score"] for entry in printed["/rerank"]["results"]}
    assert served == pytest.approx(expected, abs=2e-3)  # the server runs in the model's bfloat16
    assert [ranked[0], ranked[1]] == pytest.approx(served, abs=1e-3)
    for name in ("AutoModel", "jaxconv score"):
        assert number(printed[name]) == pytest.approx(expected[0], abs=2e-3), name
    assert number(printed["CrossEncoder"]) > 5 * expected[0]
    assert "score.bias` (-4.5)" in (output / "README.md").read_text()


def test_several_labels(tmp_path: Path) -> None:
    """Three labels, BOS added: /classify prints their probabilities, /score and /rerank are not shown."""
    source, output = real_checkpoint(tmp_path / "source", "LlamaForCausalLM", tie=True), tmp_path / "output"
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    names = ["no", "yes", "maybe"]
    jaxconv.convert(
        source, output, classifier_from_tokens=names, method="no_post_processing", template=template, backend="jax"
    )
    printed = run_card(output, tmp_path / "log")
    assert sorted(printed) == ["/classify", "AutoModel", "CrossEncoder"]
    logits = jaxconv.load(output).logits([(QUERY, DOCUMENTS[0])])[0]
    (found,) = printed["/classify"]["data"]
    assert found["label"] == names[max(range(3), key=logits.__getitem__)]
    from jaxconv.activation import activate

    assert found["probs"] == pytest.approx(activate({}, logits), abs=1e-2)
    assert printed["/classify"]["usage"]["prompt_tokens"] == len(jaxconv.load(output).encode(QUERY, DOCUMENTS[0]))
    assert number(printed["AutoModel"]) == pytest.approx(logits[0], abs=2e-2)
