"""The causal LM's logits of the source against the classifier's of the output, on rendered prompts."""

from __future__ import annotations

import dataclasses
import gc
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jaxconv.backends import Backend, get_backend
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import UsageError
from jaxconv.json_files import JsonObject
from jaxconv.model import Model
from jaxconv.pairs import parse_rows, read_rows
from jaxconv.scoring import load
from jaxconv.verification.bundle import render
from jaxconv.verification.by_proof import proven_logits
from jaxconv.verification.claims import Expected
from jaxconv.verification.head import combine
from jaxconv.verification.output import Output, read_object

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

Pairs = tuple[tuple[str, str], ...]
FLOOR = 1e-4  # what the project promises of raw float32 scores
FLOAT32_EPSILON = 2.0**-24


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw scores of both sides. `rank_agreement` is over pairs further apart than the tolerance allows to swap."""

    pairs: int
    max_abs_error: float
    rank_agreement: float
    tolerance: float
    tolerance_reason: str
    backend: str
    findings: tuple[str, ...]
    asked: Pairs  # documents cut where the model takes no more
    lengths: tuple[int, ...]  # tokens of the prompts
    expected: tuple[tuple[float, ...], ...]  # of the source [pairs][labels]
    found: tuple[tuple[float, ...], ...]  # of the output


def read_pairs(path: str | Path | None) -> Pairs:
    """The pairs of a JSONL file ("-": standard input), or the built-in ones. Raises `UsageError` naming the line."""
    if path is None:
        rows = parse_rows((files(__package__) / "pairs.jsonl").read_text("utf-8").split("\n"), "pairs.jsonl")
    else:
        rows = read_rows(str(path))
    return tuple((row["query"], row["document"]) for row in rows)


def compare_scores(
    model: Model, output: Output, expected: Expected, pairs: Pairs, *, backend: str, device: str, tolerance: float | None
) -> Scores:
    """Scores all pairs with both. The source's logits: final hidden state times the token rows, in float32 weights.

    Where the source caps its logits the uncapped ones are compared: that is what the output is.
    """
    import numpy as np

    runner = get_backend("torch" if model.family.by_proof else backend, device, config=model.config)
    findings: list[str] = []
    pairs, token_ids = encode(model, output, pairs)
    if model.family.by_proof:
        wanted, magnitude, found, differences = proven_logits(model, output, expected, token_ids, runner.device)
        findings += differences
    else:
        wanted, magnitude = _source_logits(model, expected, runner, token_ids)
        gc.collect()
        scorer = load(output.folder, backend=runner.name, device=device)
        if [scorer.encode(query, document) for query, document in pairs] != token_ids:
            findings.append("jaxconv.load gives other token ids than the template and the source's tokenizer.")
        found = np.asarray(scorer.token_logits(token_ids), np.float64)
    scale, bias = expected.calibration.scale, expected.calibration.bias
    truth = combine(wanted.T, expected.method).T * scale + bias
    limit, reason = _tolerance(model.lm_head.weight.shape[1], magnitude * abs(scale * model.transform.scale), tolerance)
    error = np.abs(found - truth)
    worst = float(error.max())
    if not worst <= limit:
        query, document = pairs[int(np.argmax(np.where(np.isfinite(error), error, np.inf).max(axis=1)))]
        findings.append(
            f"raw scores differ by {worst:.3g}, more than the tolerance {limit:.3g}; the worst pair is "
            f"{query!r:.80} and {document!r:.80}."
        )
    agreement = rank_agreement(truth, found, 2 * limit)
    if agreement < 1:
        findings.append(f"only {agreement:.1%} of the pairs that are apart keep their order.")
    return Scores(
        len(pairs), worst, agreement, limit, reason, runner.name, tuple(findings), pairs, tuple(map(len, token_ids)),
        _rows(truth), _rows(found),
    )  # fmt: skip


def _rows(array: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(x) for x in row) for row in array)


def _tolerance(width: int, magnitude: float, given: float | None) -> tuple[float, str]:
    """How far float32 may be off. `magnitude` is the largest sum |hidden| . |row| of a prompt and token."""
    if given is not None:
        return given, "given"
    rounding = 4 * FLOAT32_EPSILON * width**0.5 * magnitude
    if rounding <= FLOOR:
        return FLOOR, "1e-4, the project's promise for raw float32 scores"
    return rounding, f"four times the expected float32 rounding of a dot product of {width} terms of this size"


def rank_agreement(truth: Array, found: Array, gap: float) -> float:
    """The share of pairs, more than `gap` apart in `truth` [N, labels], that `found` orders alike; 1 without any."""
    import numpy as np

    before, after = truth[:, None] - truth[None], found[:, None] - found[None]
    apart = np.abs(before) > gap
    return float((np.sign(before) == np.sign(after))[apart].mean()) if apart.any() else 1.0


def encode(model: Model, output: Output, pairs: Pairs) -> tuple[Pairs, list[list[int]]]:
    """The pairs and the token ids of their prompts: the output's template, the source's tokenizer, its special tokens.

    A document whose prompt is too long is cut. Raises `UsageError` for a query that is too long by itself.
    """
    from tokenizers import Tokenizer

    template = (output.folder / "score_template.jinja").read_text("utf-8")
    tokenizer = Tokenizer.from_file(str(model.source.assets / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_object(output.folder / "tokenizer_config.json") or {}
    limit = model.config.get("max_position_embeddings") or 32768
    limit = int(min(limit, settings.get("model_max_length") or limit))
    kept, found = [], []
    for query, text in pairs:
        document = text
        while not len(ids := tokenizer.encode(render(template, query, document), add_special_tokens=True).ids) <= limit:
            if not document:
                raise UsageError(f"the prompt of {query!r:.80} alone has {len(ids)} tokens; at most {limit} fit. Shorten it.")
            document = document[: len(document) // 2]
        kept.append((query, document))
        found.append(list(ids))
    return tuple(kept), found


def _source_logits(model: Model, expected: Expected, backend: Backend, token_ids: list[list[int]]) -> tuple[Array, float]:
    """Logits [N, tokens] of the source, and the largest sum of |hidden| . |row| of a prompt and token.

    PyTorch has the causal LM's own logits; otherwise they are float64 products of float32 hidden states.
    """
    import numpy as np

    hidden = backend.hidden_states(model.checkpoint, model.config, token_ids).astype(np.float64)
    logits, magnitude = _project(model, expected, hidden)
    if backend.name == "torch":
        config = _without_softcap(model)
        logits = backend.causal_logits(_with_head(model), config, token_ids, expected.token_ids).astype(np.float64)
    return logits, magnitude


def _with_head(model: Model) -> Checkpoint:
    """The model's tensors with its head."""
    head = {ref.name: ref for ref in (model.lm_head.weight, model.lm_head.bias) if ref is not None}
    return dataclasses.replace(model.checkpoint, tensors={**model.checkpoint.tensors, **head})


def _without_softcap(model: Model) -> JsonObject:
    """The config whose causal LM gives uncapped logits; a family's default cap counts as well."""
    if model.transform.softcap is None:
        return model.config
    none, text = {"final_logit_softcapping": None}, model.config.get("text_config")
    return {**model.config, **none, **({"text_config": {**text, **none}} if isinstance(text, dict) else {})}


def _project(model: Model, expected: Expected, hidden: Array) -> tuple[Array, float]:
    import numpy as np

    ids = list(expected.token_ids)
    rows = model.lm_head.weight.read_rows(ids).astype(np.float32).astype(np.float64)
    logits = hidden @ rows.T * model.transform.scale
    if model.lm_head.bias is not None:
        logits = logits + model.lm_head.bias.read()[ids].astype(np.float64) * model.transform.scale
    return logits, float((np.abs(hidden) @ np.abs(rows).T).max())
