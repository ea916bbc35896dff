"""Where patches and tokens lie: positions of a picture's patches in its tower, and of a prompt's tokens in the decoder.

Patches come in blocks of `merge` x `merge`, which become one token each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from jaxconv.errors import UsageError
from jaxconv.models.vision.config import VisionConfig

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Grid = tuple[int, int]  # patches in height and width


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The patches of a picture, in their order.

    Attributes:
        positions: Row and column of each patch, [P, 2].
        taps: Rows of the position table that a patch's embedding is made of, [P, 4].
        weights: Their weights, [P, 4].
    """

    positions: Ints
    taps: Ints
    weights: Floats


def patch_grid(grid: Grid, config: VisionConfig) -> PatchGrid:
    """The patches of a picture: a table of `side` x `side` positions, interpolated bilinearly between its corners.

    Args:
        grid: Patches in height and width, multiples of `config.merge`.
        config: The tower.
    """
    height, width = grid
    blocks = (height // config.merge, config.merge, width // config.merge, config.merge)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    row, column = (index.reshape(blocks).transpose(0, 2, 1, 3).ravel() for index in (rows, columns))
    row_taps, row_weights = _taps(row, height, config.side)
    column_taps, column_weights = _taps(column, width, config.side)
    taps = (row_taps[:, :, None] * config.side + column_taps[:, None, :]).reshape(-1, 4)
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).reshape(-1, 4)
    return PatchGrid(np.stack([row, column], axis=1).astype(np.int32), taps.astype(np.int32), weights)


def _taps(index: NDArray[np.int64], size: int, side: int) -> tuple[NDArray[np.int64], Floats]:
    """The two positions of a table's axis beside each index, and their weights; first and last index lie on its ends."""
    place = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    low = np.minimum(np.floor(place).astype(np.int64), side - 1)
    high = np.minimum(low + 1, side - 1)
    share = (place - low).astype(np.float32)
    return np.stack([low, high], axis=1), np.stack([1 - share, share], axis=1)


def token_positions(token_ids: Sequence[int], grids: Sequence[Grid], config: VisionConfig) -> Ints:
    """Time, height and width of each token of a prompt; equal outside of pictures.

    A picture's tokens have the time of its first one, and rows and columns from there on. What follows goes on after its
    longer side.

    Args:
        token_ids: The ids, with a run of image tokens for each picture.
        grids: The grids of its pictures, in their order.
        config: The tower.

    Returns:
        [3, T].

    Raises:
        UsageError: The image tokens are not those of these pictures.
    """
    pieces: list[NDArray[np.int64]] = []
    start, pictures = 0, iter(grids)
    for is_picture, run in groupby(token_ids, key=lambda token: token == config.image_token):
        length = len(list(run))
        if not is_picture:
            pieces.append(np.broadcast_to(np.arange(start, start + length), (3, length)))
            start += length
            continue
        height, width = (patches // config.merge for patches in next(pictures, (0, 0)))
        if height * width != length:
            raise _other_pictures(length, height * width)
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        pieces.append(start + np.stack([np.zeros_like(rows), rows, columns]).reshape(3, -1))
        start += max(height, width)
    if next(pictures, None) is not None:
        raise _other_pictures(0, 1)
    return np.concatenate(pieces, axis=1).astype(np.int32)


def _other_pictures(length: int, expected: int) -> UsageError:
    return UsageError(
        f"a prompt has a run of {length} image tokens where its picture gives {expected}. Leave the model's own marks for "
        "pictures out of the text."
    )


def stream_of_frequency(config: VisionConfig, frequencies: int) -> NDArray[np.int64]:
    """Which of time, height and width (0, 1, 2) each frequency of the decoder's rotations follows: interleaved.

    Args:
        config: The tower.
        frequencies: How many there are: half of a head.
    """
    index = np.arange(frequencies)
    stream = index % 3
    limits = np.asarray([0, config.sections[1] * 3, config.sections[2] * 3])
    return np.where(index < limits[stream], stream, 0)
