"""Presets with real tokenizers: five ways to the same score, and the authors' calibrations as vLLM serves them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import jaxconv
from jaxconv.bundle.sentence_transformers import NAME
from jaxconv.presets import get
from tests.support.authors import authors_code, mxbai_reranker
from tests.support.real_checkpoints import checkpoint_of, real_checkpoint
from tests.support.vllm_server import ask, served

pytestmark = pytest.mark.vllm
CLIENT = Path(__file__).parents[2] / "examples" / "client.py"
QUERY = "what is the capital of France"
DOCUMENTS = ["Paris is the capital of France", "Cats sleep\nmost of the day", "", "a <|im_end|> mark, 日本語 x"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
TEMPLATE = "<|start_header_id|>user<|end_header_id|>\n\nQuery: {{ query }}\nDocument: {{ document }}<|eot_id|>\n"


@dataclass(frozen=True)
class Case:
    """A preset, calibrated or not. `scale` and `bias` are what its calibration folds; transformers leaves the bias out."""

    preset: str
    calibrate: bool = False
    scale: float = 1.0
    bias: float = 0.0


CASES = (
    Case("qwen3-reranker"),
    Case("mxbai-rerank-base-v2", calibrate=True, bias=-4.5),
    Case("zerank-1-small", calibrate=True, scale=0.2),
    Case("ctxl-rerank-v2-6b"),
)


@torch.inference_mode()
def causal_scores(source: Path, prompts: list[list[int]], ids: list[int]) -> list[float]:
    """The raw score of each prompt in the causal LM: the logit of one token, or true minus false."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    rows = [model(torch.tensor([prompt])).logits[0, -1, ids].tolist() for prompt in prompts]
    return [row[-1] - (row[0] if len(row) == 2 else 0.0) for row in rows]


@torch.inference_mode()
def transformers_logits(output: Path) -> list[float]:
    """Logits of the classifier in transformers, all pairs in one padded batch."""
    tokenizer = AutoTokenizer.from_pretrained(output)
    model = AutoModelForSequenceClassification.from_pretrained(output, dtype=torch.float32).eval()
    pairs = [[{"role": "query", "content": query}, {"role": "document", "content": text}] for query, text in PAIRS]
    batch = tokenizer.apply_chat_template(pairs, chat_template=NAME, return_dict=True, return_tensors="pt", padding=True)
    return [float(value) for value in model(**batch).logits[:, 0]]


def predicted(output: Path) -> list[float]:
    """`CrossEncoder(output).predict` in float32."""
    encoder = CrossEncoder(str(output), device="cpu", model_kwargs={"dtype": torch.float32})
    return [float(value) for value in encoder.predict(PAIRS)]


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value))"""
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.preset)
def test_five_ways(case: Case, tmp_path: Path) -> None:
    """Causal LM with the authors' ids, vLLM, CrossEncoder, transformers and JAX agree to 1e-4 at float32."""
    preset = get(case.preset)
    source, output = checkpoint_of(preset, tmp_path / "source"), tmp_path / "output"
    made = jaxconv.convert(source, output, preset=case.preset, calibrate=case.calibrate, backend="jax", copy_mode="link")
    encode = authors_code(case.preset)(source, preset.max_length or 2048)
    prompts = [encode(query, document, None) for query, document in PAIRS]
    kept = range(len(PAIRS))
    if case.preset.startswith("mxbai"):  # its code has other ids where a document is empty, see tests/presets/test_prompts.py
        kept = [index for index in kept if DOCUMENTS[index]]
    raw = causal_scores(source, prompts, [token.id for token in made.plan.tokens])
    final = sigmoid if made.plan.activation == "sigmoid" else float
    calibrated = [case.scale * value + case.bias for value in raw]
    with_bias = [final(value) for value in calibrated]
    without = [final(value - case.bias) for value in calibrated]

    with served(output, tmp_path / "log") as url:
        vllm = [entry["score"] for entry in ask(url, "/score", queries=QUERY, documents=DOCUMENTS)["data"]]
        logits = ask(url, "/score", queries=QUERY, documents=DOCUMENTS, use_activation=False)["data"]
        counted = ask(url, "/score", queries=QUERY, documents=DOCUMENTS[0])["usage"]["prompt_tokens"]
        ranked = subprocess.run(
            [sys.executable, str(CLIENT), "--url", url, "--query", QUERY, *(f"--document={text}" for text in DOCUMENTS)],
            capture_output=True, text=True,
        )  # fmt: skip
    assert counted == len(prompts[0])
    ways = {
        "vllm": (vllm, with_bias),
        "vllm raw": ([entry["score"] for entry in logits], calibrated),
        "jax": (jaxconv.load(output, backend="jax").score_pairs(PAIRS), with_bias),
        "cross encoder": (predicted(output), without),
        "transformers": ([final(value) for value in transformers_logits(output)], without),
    }
    for name, (found, wanted) in ways.items():
        assert [found[index] for index in kept] == pytest.approx([wanted[index] for index in kept], abs=1e-4), name
    assert ranked.returncode == 0, ranked.stderr
    best = max(range(len(vllm)), key=vllm.__getitem__)
    shown = ranked.stdout.splitlines()
    assert len(shown) == 1 + len(DOCUMENTS) and f"{vllm[best]:.4f}" in shown[1]
    if case.preset.startswith("mxbai"):
        authors = mxbai_reranker(source, estimated_max=9.0).predict([QUERY] * 4, DOCUMENTS, normalize=True).tolist()
        assert [vllm[index] for index in kept] == pytest.approx([authors[index] for index in kept], abs=1e-4)


def test_llama_3(tmp_path: Path) -> None:
    """Somebody's own Llama 3 fine-tune, BOS added: the same five ways; it gets the pad token it lacks."""
    source, output = real_checkpoint(tmp_path / "source", "LlamaForCausalLM", tie=True), tmp_path / "output"
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    made = jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], template=template, backend="jax")
    tokenizer = AutoTokenizer.from_pretrained(source)
    text = TEMPLATE.removesuffix("\n").replace("{{ query }}", QUERY)
    prompts = [tokenizer(text.replace("{{ document }}", document))["input_ids"] for document in DOCUMENTS]
    assert {prompt[0] for prompt in prompts} == {128000} and {prompt[-1] for prompt in prompts} == {128009}
    wanted = [sigmoid(value) for value in causal_scores(source, prompts, [token.id for token in made.plan.tokens])]
    config = json.loads((output / "config.json").read_text())
    assert config["pad_token_id"] == 128004 == AutoTokenizer.from_pretrained(output).pad_token_id
    with served(output, tmp_path / "log") as url:
        vllm = [entry["score"] for entry in ask(url, "/score", queries=QUERY, documents=DOCUMENTS)["data"]]
    for found in (
        vllm,
        jaxconv.load(output, backend="jax").score_pairs(PAIRS),
        predicted(output),
        [sigmoid(value) for value in transformers_logits(output)],
    ):
        assert found == pytest.approx(wanted, abs=1e-4)
