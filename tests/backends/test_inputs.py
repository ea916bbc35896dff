"""What PyTorch's models are called with: batches of prompts with pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from torch_backend.inputs import TOKENS, batches, model_inputs

MODEL = SimpleNamespace(dtype=torch.bfloat16, device="cpu")


def arrays(tokens: int, height: int) -> dict[str, np.ndarray]:
    """The numbers of one picture."""
    return {
        "pixel_values": np.full((1, 3, height, 4), tokens, np.float32),
        "image_sizes": np.array([[height, 4]]),
        "token_type_ids": np.ones((1, tokens), np.int64),
    }


def test_pictures_of_another_size_lie_in_another_batch() -> None:
    """And prompts without pictures; each batch has short prompts first."""
    ids = [[1] * 5, [1] * 3, [1] * 4, [1] * 2]
    pictures = [arrays(5, 4), arrays(3, 4), arrays(4, 6), {}]
    assert sorted(batches(ids, pictures)) == [[1, 0], [2], [3]]
    assert list(batches(ids)) == [[3, 1, 2, 0]]
    assert len(list(batches([[1] * (TOKENS // 2 + 1)] * 2))) == 2


def test_pictures_are_stacked_and_tokens_padded() -> None:
    """Per token on the right, per picture one after the other; floats in the model's dtype."""
    inputs, lengths = model_inputs([[7, 8, 9], [7, 8]], [arrays(3, 4), arrays(2, 4)], [1, 0], MODEL)
    assert lengths.tolist() == [2, 3]
    assert inputs["input_ids"].tolist() == [[7, 8, 0], [7, 8, 9]]
    assert inputs["attention_mask"].tolist() == inputs["token_type_ids"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["pixel_values"][:, 0, 0, 0].tolist() == [2, 3]
    assert inputs["image_sizes"].tolist() == [[4, 4], [4, 4]]
