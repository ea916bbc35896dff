"""Prompts that begin alike: what is grouped, and that scores do not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxconv
from benchmarks.scoring import smollm2 as converted_smollm2
from examples.demo import QUESTIONS
from jaxconv.models import head
from jaxconv.models.config import decoder_config
from jaxconv.models.prefixes import Group, prefix_groups
from tests.support.tiny import tiny_checkpoint

# Families whose masks, caps, norms, ropes or experts differ; windows end inside the prefix, and after it.
slow = pytest.mark.slow
CASES = [
    pytest.param("gemma2", {"sliding_window": 30, "attn_logit_softcapping": 2.0}),
    pytest.param("llama", {}, marks=slow),
    pytest.param("mistral", {"sliding_window": 24}, marks=slow),
    pytest.param("mixtral", {"sliding_window": 90}, marks=slow),
    pytest.param("qwen3", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}, marks=slow),
    pytest.param("gemma3_text", {"sliding_window": 7, "num_hidden_layers": 7}, marks=slow),
    pytest.param("qwen3_moe", {"mlp_only_layers": [0]}, marks=slow),
]


def prompts(shared: int, count: int, seed: int = 0) -> list[list[int]]:
    """Token ids of `count` prompts that share their first tokens and have 25 to 32 of their own."""
    rng = np.random.default_rng(seed)
    beginning = rng.integers(4, 300, shared).tolist()
    return [beginning + rng.integers(4, 300, rng.integers(25, 33)).tolist() for _ in range(count)]


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes every prompt whole."""
    monkeypatch.setattr(head, "prefix_groups", lambda ids, compiled=(): [Group(tuple(range(len(ids))), 0)])


def test_prompts_are_grouped_where_they_save_most() -> None:
    """Prompts of one query share its tokens, single prompts those of the template, and what shares little is left alone."""
    template = list(range(60))
    one, other = ([*template, *range(start, start + 100)] for start in (100, 300))
    sequences = [[*one, 7, n] for n in range(20)] + [[*other, 8, n] for n in range(20)]
    sequences += [[*template, 1000 + n, 9] for n in range(20)] + [[2000 + n] for n in range(5)]
    assert sorted((group.rows, group.length) for group in prefix_groups(sequences)) == [
        ((*range(20),), 161), ((*range(20, 40),), 161), ((*range(40, 60),), 60), ((*range(60, 65),), 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([], []),
        ([[5]], [Group((0,), 0)]),
        ([[*range(300), 7], [*range(300), 8]], [Group((0, 1), 0)]),  # two prompts save 300 tokens, less than a compilation
        ([[*range(200)]] * 10, [Group(tuple(range(10)), 199)]),  # equal prompts keep their last token
    ],
)
def test_groups_of_few_or_equal_prompts(sequences: list[list[int]], expected: list[Group]) -> None:
    """A prefix that saves little is not used, and no prompt is left without a token of its own."""
    assert prefix_groups(sequences) == expected


def test_a_long_ladder_of_beginnings_is_grouped() -> None:
    """Five thousand prompts, each one token longer than the last, are grouped without deep recursion."""
    groups = prefix_groups([list(range(20 + n)) for n in range(5000)])
    assert sorted(row for group in groups for row in group.rows) == list(range(5000))


@pytest.mark.parametrize(("family", "settings"), CASES)
def test_scores_of_a_shared_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, settings: dict[str, Any]
) -> None:
    """Scores agree to 1e-5 with those of prompts that are computed whole."""
    source = tiny_checkpoint(tmp_path / "source", family, **settings)
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    token_ids = prompts(75, 8)
    assert prefix_groups(token_ids) == [Group(tuple(range(8)), 75)]
    shared = jaxconv.load(tmp_path / "out", backend="jax").token_logits(token_ids)
    whole(monkeypatch)
    apart = jaxconv.load(tmp_path / "out", backend="jax").token_logits(token_ids)
    assert np.abs(np.subtract(shared, apart)).max() <= 1e-5
    assert np.std(apart) > 1e-3


@slow
def test_scores_of_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2's raw scores of two queries with ten documents each agree to 1e-5 of their size, prefixes shared or not."""
    output = converted_smollm2(tmp_path)
    pairs = [(item["query"], text) for item in QUESTIONS[:2] for text in [*item["documents"]] * 2]
    shared = jaxconv.load(output, backend="jax")
    assert any(group.length for group in prefix_groups([shared.encode(*pair) for pair in pairs]))
    got = shared.score_pairs(pairs, raw=True)
    whole(monkeypatch)
    want = np.array(jaxconv.load(output, backend="jax").score_pairs(pairs, raw=True))
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rope_that_depends_on_the_length_shares_nothing(kind: str) -> None:
    """Where a token's keys depend on the length of its prompt, a prefix's keys serve no other prompt."""
    rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 1e4}
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    assert not decoder_config({"model_type": "llama", **sizes, "rope_parameters": rope}).prefix_is_reusable
    assert decoder_config({"model_type": "llama", **sizes}).prefix_is_reusable
