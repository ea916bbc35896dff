"""Rerankers of pictures and text in a real vLLM: raw logits of the causal LM, pairs of text and pairs with pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import jaxconv
from jaxconv.text.prompt import render
from tests.support.multimodal import composite_checkpoint, picture
from tests.support.vllm_server import VLLM, ask, running

pytestmark = pytest.mark.vllm
PYTHON = VLLM.parent / "python"
SCRIPT = Path(__file__).parents[1] / "support" / "picture_logits.py"
# Aligned to the patches, odd-sized, and under the least size.
SIZES = {"aligned": (256, 256), "odd": (301, 257), "small": (20, 31)}
# Query and document, each the names of its pictures and its text.
Side = tuple[tuple[str, ...], str]
PAIRS: list[tuple[Side, Side]] = [
    (((), "where do kestrels nest"), ((), "On cliffs, in towers and in old nests.")),
    (((), "a query"), ((), "a document\nof two lines")),
    (((), "a red square"), (("aligned",), "")),
    (((), "a red square"), (("odd",), "a caption of it")),
    (((), "what is this"), (("small",), "something small")),
    ((("aligned",), "like this one"), ((), "a document")),
    ((("odd",), "like this one"), (("small",), "and this")),
    (((), "two of them"), (("aligned", "odd"), "side by side")),
]


def content(side: Side, files: dict[str, Path]) -> Any:
    """A side as a request has it."""
    names, text = side
    if not names:
        return text
    urls = ["data:image/png;base64," + base64.b64encode(files[name].read_bytes()).decode() for name in names]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"content": [*parts, *([{"type": "text", "text": text}] if text else [])]}


def reference(
    source: Path, output: Path, mark: str, ids: list[int], files: dict[str, Path], size: dict[str, int] | None
) -> list[dict[str, Any]]:
    """The causal LM's logits and the length of each prompt, its sides strings as vLLM makes them."""
    template = (output / "score_template.jinja").read_text()
    prompts = []
    for query, document in PAIRS:
        sides = [mark * len(names) + text for names, text in (query, document)]
        pictures = [str(files[name]) for name in (*query[0], *document[0])]
        prompts.append({"text": render(template, *sides), "pictures": pictures})
    request = json.dumps({"answers": ids, "size": size, "prompts": prompts})
    done = subprocess.run([str(PYTHON), str(SCRIPT), str(source)], input=request, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def check_served(
    source: Path,
    output: Path,
    tmp_path: Path,
    *,
    mark: str,
    ids: list[int],
    size: dict[str, int] | None = None,
    exact: bool = True,
) -> None:
    """Serves the output by its card's own line at float32 and compares every pair, through /score and /rerank.

    Without `exact` pairs with pictures are compared by their numbers of tokens alone.
    """
    files = {name: tmp_path / f"{name}.png" for name in SIZES}
    for seed, (name, (width, height)) in enumerate(SIZES.items()):
        files[name].write_bytes(picture(width, height, seed))
    expected = reference(source, output, mark, ids, files, size)
    truth = [entry["logits"][1] - entry["logits"][0] for entry in expected]
    assert max(truth) - min(truth) > 0.01
    card = (output / "README.md").read_text()
    command = shlex.split(re.findall(r"^vllm serve .*$", card, re.MULTILINE)[0])
    command = [str(VLLM), *command[1:], "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    command += ["--served-model-name", "model", "--limit-mm-per-prompt", '{"image":2}', "--skip-mm-profiling"]
    with running(command, tmp_path / "log", output) as url:
        queries, documents = ([content(pair[side], files) for pair in PAIRS] for side in (0, 1))
        for number, (query, document) in enumerate(zip(queries, documents, strict=True)):
            raw = ask(url, "/score", queries=query, documents=document, use_activation=False)
            assert raw["usage"]["prompt_tokens"] == expected[number]["tokens"], PAIRS[number]
            if exact or not (PAIRS[number][0][0] or PAIRS[number][1][0]):
                assert abs(raw["data"][0]["score"] - truth[number]) <= 1e-4, PAIRS[number]
        check_ranked(url, queries[2], documents[2:5])
        if exact:
            with contextlib.chdir(output):  # the card's line serves the working directory
                report = jaxconv.verify(source, output, backend="torch", against_vllm=url)
            assert report.passed and report.vllm is not None and report.scores is not None, report.findings
            assert report.scores.pictures is not None and report.vllm.max_abs_error <= 1e-4
        for body in re.findall(r"-d '(\{.*\})'$", card, re.MULTILINE):
            path = "/rerank" if '"query"' in body else "/score"
            answer = ask(url, path, **json.loads(body))
            assert len(answer["results" if path == "/rerank" else "data"]) == 2


def check_ranked(url: str, query: Any, documents: list[Any]) -> None:
    """/rerank of documents with pictures has the sigmoids of /score's raw logits, best first."""
    raw = [entry["score"] for entry in ask(url, "/score", queries=query, documents=documents, use_activation=False)["data"]]
    ranked = ask(url, "/rerank", query=query, documents=documents)["results"]
    assert [entry["index"] for entry in ranked] == sorted(range(len(raw)), key=lambda index: -raw[index])
    for entry in ranked:
        assert entry["relevance_score"] == pytest.approx(1 / (1 + math.exp(-raw[entry["index"]])), abs=1e-4)


def test_qwen3_vl_reranker(tmp_path: Path) -> None:
    """The preset's prompt, and its limits of pictures, which the card's line hands to the server. It keeps the sigmoid beside
    the modules of sentence-transformers."""
    source, output = composite_checkpoint(tmp_path / "source", "qwen3_vl", real=True), tmp_path / "output"
    jaxconv.convert(source, output, preset="qwen3-vl-reranker", backend="numpy", consumers=["vllm", "sentence-transformers"])
    check_served(
        source, output, tmp_path, mark="<|vision_start|><|image_pad|><|vision_end|>", ids=[2152, 9693],
        size={"shortest_edge": 4096, "longest_edge": 1843200},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("qwen2_5_vl", "<|vision_start|><|image_pad|><|vision_end|>"),
        ("qwen2_vl", "<|vision_start|><|image_pad|><|vision_end|>"),
        ("internvl", "<IMG_CONTEXT>"),
        ("llava", "<image>"),
        ("gemma3", "<start_of_image>"),
        ("idefics3", "<image>"),
        ("smolvlm", "<image>"),
    ],
)
def test_other_families(tmp_path: Path, name: str, mark: str) -> None:
    """The row where vLLM looks for it, towers under the names that it reads; a template of one's own.

    On a CPU vLLM reads Gemma 3's pictures causally.
    """
    if name == "smolvlm" and not [*PYTHON.parents[1].glob("lib/*/site-packages/num2words")]:
        pytest.skip("SmolVLM's processor needs num2words in vLLM's environment: pip install -r requirements/vllm.txt")
    source, output = tmp_path / "source", tmp_path / "output"
    composite_checkpoint(source, name, real=True, tie=name == "gemma3", shards=2 if name.startswith("qwen") else 1)
    template = tmp_path / "prompt.jinja"
    template.write_text("Query: {{ query }} .\nPassage: {{ document }} .\nRelevant:")
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], template=template, backend="numpy")
    ids = [token["id"] for token in json.loads((output / "jaxconv.json").read_text())["tokens"]]
    check_served(source, output, tmp_path, mark=mark, ids=ids, exact=name != "gemma3")
