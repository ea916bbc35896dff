"""Quantised outputs in a real vLLM, against its own conversion of the same source while it loads it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import jaxconv
from tests.support.quantised import OPTIONS, TOKENS, quantised_source
from tests.support.vllm_server import VLLM, ask, running

pytestmark = pytest.mark.vllm
QUERY = "is it"
DOCUMENTS = ["the that this yes", "this", "that that the no this", "what is the yes"]
# The form whose products vLLM's CPU build has, untied with the head in the file and tied in shards.
NATIVE = ["llmcompressor/int8_qwen3", "llmcompressor/int8_gemma_tied_shards"]


def scores(model: Path, template: Path, log: Path, *flags: str) -> list[float]:
    """Raw scores of a server of `model`."""
    command = [str(VLLM), "serve", str(model), "--runner", "pooling", "--enforce-eager", "--max-model-len", "256"]
    command += ["--served-model-name", "model", "--chat-template", str(template), *flags]
    with running(command, log) as url:
        answer = ask(url, "/score", queries=QUERY, documents=DOCUMENTS, use_activation=False)
    # JSON has no NaN and no infinity: vLLM sends null for them.
    return [math.nan if entry["score"] is None else float(entry["score"]) for entry in answer["data"]]


@pytest.mark.parametrize("name", NATIVE)
def test_served_scores_are_those_of_the_servers_own_conversion(tmp_path: Path, name: str) -> None:
    """Bit for bit the same numbers, and not all the same number."""
    source, output = quantised_source(name, tmp_path).folder, tmp_path / "out"
    jaxconv.convert(source, output, **OPTIONS)
    template = output / "score_template.jinja"
    target = json.loads((output / "config.json").read_text())["architectures"]
    overrides = {"architectures": target, "classifier_from_token": TOKENS, "method": "from_2_way_softmax"}
    served = scores(output, template, tmp_path / "log")
    own = scores(source, template, tmp_path / "own.log", "--hf-overrides", json.dumps(overrides))
    assert served == own
    assert all(map(math.isfinite, served)) and len(set(served)) > 1 and 0.0 not in served


def test_without_the_entry_every_score_is_wrong(tmp_path: Path) -> None:
    """The one edit removed: no error, the server is up, and the scores are 0.0, NaN or infinite."""
    source, output = quantised_source(NATIVE[0], tmp_path).folder, tmp_path / "out"
    jaxconv.convert(source, output, **OPTIONS)
    shutil.copytree(output, tmp_path / "broken")
    path = tmp_path / "broken" / "config.json"
    before = json.loads((source / "config.json").read_text())["quantization_config"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": before}))
    try:
        broken = scores(tmp_path / "broken", output / "score_template.jinja", tmp_path / "log")
    except AssertionError:
        assert "score" in (tmp_path / "log").read_text()  # the server did not start
        return
    assert all(score == 0.0 or not math.isfinite(score) for score in broken), broken
