"""Batches: every sequence once, padded little, in few shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.models.batching import CLIMB, ROWS, TOKENS, batches, bucket


@given(st.lists(st.integers(1, 5000), max_size=120))
def test_every_sequence_is_in_one_batch(lengths: list[int]) -> None:
    """Ids and mask are the sequence's, no batch is too large, none is padded beyond twice its bucket."""
    sequences = [[n + 1] * length for n, length in enumerate(lengths)]
    seen = []
    for batch in batches(sequences):
        height, width = batch.ids.shape
        assert len(batch.rows) <= height <= ROWS and (height == 1 or height * width <= TOKENS)
        for i, row in enumerate(batch.rows):
            assert batch.ids[i].tolist() == sequences[row] + [0] * (width - lengths[row])
            assert batch.mask[i].sum() == lengths[row] and width <= CLIMB * bucket(lengths[row])
        assert (batch.mask[len(batch.rows) :].sum(axis=1) == 1).all()
        seen += batch.rows
    assert sorted(seen) == list(range(len(lengths)))


def test_a_stream_of_mixed_lengths_takes_few_shapes() -> None:
    """Twenty chunks of 256 prompts of 10 to 120 tokens: at most a dozen shapes, and less than half of it is padding."""
    rng = np.random.default_rng(0)
    shapes, real, padded = set(), 0, 0
    for _ in range(20):
        lengths = rng.integers(10, 121, 256)
        real += int(lengths.sum())
        for batch in batches([[1] * length for length in lengths]):
            shapes.add(batch.ids.shape)
            padded += batch.ids.size
    assert len(shapes) <= 12 and real > padded / 2
