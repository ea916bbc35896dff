"""Batches: every sequence once, little padding, few shapes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.models.batching import ROWS, TOKENS, Batcher, bucket


@given(st.lists(st.lists(st.integers(1, 5000), max_size=80), max_size=3))
def test_every_sequence_is_in_one_batch(calls: list[list[int]]) -> None:
    """Whatever was batched before, ids and mask are the sequence's, and no batch has too many tokens."""
    batcher = Batcher()
    for lengths in calls:
        sequences = [[n + 1] * length for n, length in enumerate(lengths)]
        seen: list[int] = []
        for batch in batcher.batches(sequences):
            height, width = batch.ids.shape
            assert len(batch.rows) <= height <= ROWS and (height == 1 or height * width <= TOKENS)
            assert (height, width) in batcher.shapes
            for i, row in enumerate(batch.rows):
                assert batch.ids[i].tolist() == sequences[row] + [0] * (width - lengths[row])
                assert batch.mask[i].tolist() == [1] * lengths[row] + [0] * (width - lengths[row])
            assert (batch.mask[len(batch.rows) :].sum(axis=1) == 1).all()
            seen += batch.rows
        assert sorted(seen) == list(range(len(lengths)))


def test_a_stream_of_mixed_lengths_takes_few_shapes() -> None:
    """Twenty chunks of 256 prompts of 10 to 120 tokens: at most 8 shapes, and less than half of it is padding."""
    rng, batcher = np.random.default_rng(0), Batcher()
    tokens, padded = 0, 0
    for _ in range(20):
        lengths = rng.integers(10, 121, 256)
        tokens += int(lengths.sum())
        padded += sum(batch.ids.size for batch in batcher.batches([[1] * length for length in lengths]))
    assert len(batcher.shapes) <= 8 and tokens > padded / 2


def test_a_last_small_batch_reuses_a_shape() -> None:
    """After a full batch of 100 tokens, 7 and then 20 sequences up to that length add no shape."""
    batcher = Batcher()
    list(batcher.batches([[1] * 100] * 32))
    assert batcher.shapes == {(32, 128)}
    for count, length in ((20, 100), (7, 120)):
        assert [batch.ids.shape for batch in batcher.batches([[1] * length] * count)] == [(32, 128)]
    assert batcher.shapes == {(32, 128)}


def test_padding_is_limited_to_one_full_batch() -> None:
    """One short sequence after another: the first takes the large shape, then a small shape pays."""
    batcher = Batcher()
    list(batcher.batches([[1] * 100] * 32))
    shapes = [batch.ids.shape for _ in range(4) for batch in batcher.batches([[1] * 10])]
    assert shapes == [(32, bucket(100)), (1, 16), (1, 16), (1, 16)]
