"""What a model is called with: token ids, and the numbers of pictures where a prompt has them; alone and in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from torch_backend.packed import Array

ROWS = 32  # sequences in a batch
TOKENS = 8192  # tokens in a batch, padding included
# Numbers that there is one of for each token; all others are stacked picture by picture.
PER_TOKEN = ("mm_token_type_ids", "token_type_ids")

Pictures = Sequence[Mapping[str, Array]]  # of each prompt, by the names that transformers' models have; empty for text


def model_inputs(
    token_ids: Sequence[Sequence[int]], pictures: Pictures, rows: Sequence[int], model: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The inputs of a batch that is padded on the right, and the number of tokens of each of its sequences.

    Args:
        token_ids: The token ids of all sequences.
        pictures: The numbers of their pictures; empty if no sequence has any.
        rows: The sequences of the batch.
        model: The model, for its device and dtype.
    """
    lengths = torch.tensor([len(token_ids[row]) for row in rows])
    inputs = {"input_ids": _padded([torch.tensor(list(token_ids[row])) for row in rows])}
    if len(rows) > 1:
        inputs["attention_mask"] = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
    arrays = [pictures[row] for row in rows] if pictures else [{}]
    for name in arrays[0]:
        tensors = [torch.tensor(entry[name]) for entry in arrays]
        joined = _padded([tensor[0] for tensor in tensors]) if name in PER_TOKEN else torch.cat(tensors)
        inputs[name] = joined.to(model.dtype) if joined.is_floating_point() else joined
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}, lengths


def _padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def batches(token_ids: Sequence[Sequence[int]], pictures: Pictures = ()) -> Iterator[list[int]]:
    """The indices of the sequences of each batch, short ones first; sequences with other kinds of pictures lie apart.

    Args:
        token_ids: The token ids of all sequences.
        pictures: The numbers of their pictures; empty if no sequence has any.
    """
    kinds: dict[tuple[object, ...], list[int]] = {}
    for row in sorted(range(len(token_ids)), key=lambda row: len(token_ids[row])):
        kinds.setdefault(_kind(pictures[row]) if pictures else (), []).append(row)
    for rows in kinds.values():
        batch: list[int] = []
        for row in rows:
            if batch and (len(batch) == ROWS or (len(batch) + 1) * len(token_ids[row]) > TOKENS):
                yield batch
                batch = []
            batch.append(row)
        yield batch


def _kind(arrays: Mapping[str, Array]) -> tuple[object, ...]:
    """What two prompts must have in common for their pictures to be stacked."""
    return tuple(sorted((name, None if name in PER_TOKEN else array.shape[1:]) for name, array in arrays.items()))
