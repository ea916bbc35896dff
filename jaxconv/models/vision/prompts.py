"""What the decoder gets of a batch of prompts with pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import UsageError
from jaxconv.json_files import JsonObject
from jaxconv.models.batching import Batcher
from jaxconv.models.decoder import Decoder, last_hidden
from jaxconv.models.picture_tokens import PictureTokens
from jaxconv.models.token_ids import check_token_ids
from jaxconv.models.vision.config import VisionConfig, vision_config
from jaxconv.models.vision.grid import Grid, stream_of_frequency, token_positions
from jaxconv.models.vision.tower import VisionTower
from jaxconv.pictures import PictureArrays

PIXELS, GRIDS = "pixel_values", "image_grid_thw"


class Pictured(NamedTuple):
    """A prompt with its pictures looked at: features [K, tokens, D], and the three positions of every token."""

    features: NDArray[np.float32]
    positions: NDArray[np.int32]


def look_at(token_ids: Sequence[int], pictures: PictureArrays, tower: VisionTower) -> Pictured:
    """Runs the tower on the pictures of a prompt.

    Args:
        token_ids: Its token ids.
        pictures: What the processor made of its pictures; empty without any.
        tower: The tower.

    Raises:
        UsageError: The arrays are not those of still pictures, or the prompt has other image tokens.
    """
    grids, pixels = _grids(pictures), np.asarray(pictures.get(PIXELS, ()))
    positions = token_positions(token_ids, grids, tower.config)
    ends = np.cumsum([height * width for height, width in grids]).astype(int)
    parts = [
        tower.features(pixels[end - height * width : end], (height, width))
        for end, (height, width) in zip(ends, grids, strict=True)
    ]
    layers = 1 + len(tower.config.deepstack)
    features = np.concatenate(parts, axis=1) if parts else np.zeros((layers, 0, 0), np.float32)
    return Pictured(features, positions)


def _grids(pictures: PictureArrays) -> list[Grid]:
    """Patches in height and width of each picture."""
    grids = np.asarray(pictures.get(GRIDS, np.zeros((0, 3), int)))
    if (grids[:, 0] != 1).any() or (pictures.keys() - {PIXELS, GRIDS, "mm_token_type_ids"}):
        raise UsageError(f"JAX scores still pictures; the processor gave {', '.join(sorted(pictures))}. Use --backend torch.")
    return [(int(height), int(width)) for _, height, width in grids]


def picture_tokens(
    rows: Sequence[Pictured], ids_BT: NDArray[np.int32], width: int, frequencies: int, config: VisionConfig
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """The arrays of `jaxconv.models.picture_tokens.PictureTokens` for a padded batch, on the host.

    Args:
        rows: The prompts of its first rows.
        ids_BT: Its token ids, padded on the right.
        width: The decoder's hidden size.
        frequencies: Half of the features of a head that are rotated.
        config: The tower.
    """
    batch, length = ids_BT.shape
    features = np.zeros((1 + len(config.deepstack), 1 + batch * length, width), np.float32)
    index, positions = np.zeros((batch, length), np.int32), np.zeros((batch, length, frequencies), np.int32)
    streams, filled = stream_of_frequency(config, frequencies), 1
    for number, row in enumerate(rows):
        count, tokens = row.features.shape[1], row.positions.shape[1]
        features[:, filled : filled + count] = row.features if count else 0
        index[number, :tokens][ids_BT[number, :tokens] == config.image_token] = np.arange(filled, filled + count)
        positions[number, :tokens] = row.positions[streams].T
        filled += count
    return features, index, positions


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """A padded batch of prompts on the devices.

    Attributes:
        rows: The indices of its prompts; further rows only fill the shape.
        ids_BT: Token ids.
        mask_BT: 1 where there is a token.
        tokens: Its pictures; None for a batch of text.
    """

    rows: tuple[int, ...]
    ids_BT: jax.Array
    mask_BT: jax.Array
    tokens: PictureTokens | None


def load_tower(checkpoint: Checkpoint, config: JsonObject, decoder: Decoder, dtype: str) -> VisionTower:
    """The vision tower of a checkpoint, on the decoder's devices.

    Args:
        checkpoint: The tensors, under the names of transformers' class.
        config: The config.json.
        decoder: The decoder that it belongs to.
        dtype: The dtype that it runs in.

    Raises:
        SourceError: Tensors of the tower are missing.
        UsageError: The model's pictures cannot be run.
    """
    return VisionTower(checkpoint, vision_config(config), dtype, decoder.place)


def prompt_batches(
    token_ids: Sequence[Sequence[int]],
    pictures: Sequence[PictureArrays],
    tower: Callable[[], VisionTower],
    decoder: Decoder,
    batcher: Batcher,
) -> Iterator[PromptBatch]:
    """Prompts in padded batches, those with pictures apart from those without.

    Args:
        token_ids: The token ids of each prompt.
        pictures: What the processor made of the pictures of each prompt; empty if no prompt has any.
        tower: Gives what looks at pictures; called if there are any.
        decoder: The decoder that reads the batches.
        batcher: Chooses their shapes.

    Raises:
        SourceError: Tensors of the tower are missing.
        UsageError: The pictures are not still ones, or a prompt has other image tokens.
    """
    pictured = [row for row, arrays in enumerate(pictures) if arrays]
    text = sorted(set(range(len(token_ids))) - set(pictured))
    place = decoder.place
    for batch in batcher.batches([token_ids[row] for row in text]):
        yield PromptBatch(tuple(text[row] for row in batch.rows), place(batch.ids), place(batch.mask), None)
    if not pictured:
        return
    opened, frequencies = tower(), decoder.config.ropes[0].dim // 2
    for batch in batcher.batches([token_ids[row] for row in pictured]):
        rows = tuple(pictured[row] for row in batch.rows)
        prompts = [look_at(token_ids[row], pictures[row], opened) for row in rows]
        arrays = picture_tokens(prompts, batch.ids, decoder.config.hidden_size, frequencies, opened.config)
        yield PromptBatch(rows, place(batch.ids), place(batch.mask), PictureTokens(*map(place, arrays)))


def pictured_hidden_last(
    decoder: Decoder, tower: VisionTower, token_ids: Sequence[Sequence[int]], pictures: Sequence[PictureArrays]
) -> NDArray[np.float32]:
    """Final hidden states at the last token of each prompt, as `Decoder.hidden_last` gives them of text.

    Args:
        decoder: The decoder.
        tower: The vision tower.
        token_ids: The token ids of each prompt, without padding.
        pictures: What the processor made of the pictures of each prompt.

    Returns:
        float32 [len(token_ids), hidden_size], in the order of the prompts.

    Raises:
        UsageError: A prompt is empty, a token id has no embedding row, or the pictures are not those of the prompts.
    """
    check_token_ids(token_ids, decoder.vocabulary_size)
    graph, state = nnx.split(decoder)
    result = np.zeros((len(token_ids), decoder.config.hidden_size), np.float32)
    for batch in prompt_batches(token_ids, pictures, lambda: tower, decoder, Batcher()):
        hidden = last_hidden(graph, state, batch.ids_BT, batch.mask_BT, batch.tokens)
        result[list(batch.rows)] = np.asarray(hidden)[: len(batch.rows)]
    return result
