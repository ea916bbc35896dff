"""Pictures in a verification: the built-in ones, and the limits of pixels that an output records."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxconv.backends import pictures_unsupported
from jaxconv.errors import UsageError
from jaxconv.model import Model
from jaxconv.pictures import Picture, Side
from jaxconv.presets import get
from jaxconv.presets.pixel_limits import pixels_to_serve
from jaxconv.sources.assets import read_copied
from jaxconv.text.pictures import picture_mark
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.verification.output import Output
from jaxconv.verification.pairs import Pairs, has_pictures

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

# Aligned to the patches of most towers, odd-sized, and smaller than processors leave a picture.
SIZES = {"aligned": (256, 256), "odd": (301, 257), "small": (30, 41)}
# Query and document, each the names of its pictures and its text.
PAIRS = (
    (((), "a chart of coloured squares"), (("aligned",), "")),
    (((), "a chart of coloured squares"), (("odd",), "Figure 2: squares in rows.")),
    (((), "what is this"), (("small",), "an icon")),
    ((("aligned",), "more like this one"), ((), "Squares of many colours in a grid.")),
    ((("odd",), ""), (("small",), "the same, smaller")),
    (((), "two of them"), (("aligned", "odd"), "side by side")),
)


@dataclass(frozen=True, slots=True)
class Pictured:
    """What was scored of pairs with pictures.

    Attributes:
        pairs: How many there were.
        max_abs_error: The largest difference of a raw score.
        backend: What computed source and output: "torch and jax", or one name if it computed both.
        kind: Whether two implementations computed the two sides.
    """

    pairs: int
    max_abs_error: float
    backend: str
    kind: Literal["independent", "consistency"]


def built_in_pairs() -> Pairs:
    """Pairs with pictures in query, document and both."""
    pictures = {name: Picture(f"{name}.png", png(*size)) for name, size in SIZES.items()}

    def side(names: tuple[str, ...], text: str) -> Side | str:
        return Side(text, tuple(pictures[name] for name in names)) if names else text

    return tuple((side(*query), side(*document)) for query, document in PAIRS)


def png(width: int, height: int) -> bytes:
    """A PNG of blocks of many colours, so that resizing has edges to blur; the same bytes each time.

    Args:
        width: Its pixels in a row.
        height: Its rows.
    """
    import numpy as np

    coarse = np.random.default_rng(width * height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pixels: Array = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def check_pixels(model: Model, output: Output) -> Iterator[str]:
    """Whether the output records the limits of pixels that a server has to be told.

    Args:
        model: The source.
        output: The output.
    """
    if model.family.composite is None or output.record is None:
        return
    name = output.record.get("preset")
    try:
        preset = get(name) if isinstance(name, str) else None
    except UsageError:  # a finding already
        return
    expected = pixels_to_serve(preset, read_copied(model.source.assets))
    recorded = output.record.get("pixels")
    if recorded != (None if expected is None else list(expected)):
        yield (
            f"jaxconv.json records the pixels {recorded!r:.80}; expected {expected}, the least and most that the authors of "
            f"{name} leave a picture. Convert the source again."
        )


def mark_of(model: Model) -> str | None:
    """What stands for a picture in the prompts of `model`; None for a model of text."""
    return picture_mark(model.family.composite, model.config, Vocabulary(model.source.assets))


def with_pictures(model: Model, backend: str, pairs: Pairs, built_in: bool, notes: list[str]) -> Pairs:
    """The pairs that are scored: of a model that reads pictures the built-in ones with pictures too.

    Args:
        model: The source.
        backend: What computes the source's scores.
        pairs: The pairs.
        built_in: Whether they are the built-in ones of text.
        notes: Takes the reason where pictures are left out.

    Raises:
        UsageError: The caller's pairs have pictures that cannot be scored.
    """
    if model.family.composite is None:
        return pairs
    reason = pictures_unsupported(backend, model.config)
    if built_in and reason is None:
        return (*pairs, *built_in_pairs())
    if built_in:
        notes.append(str(reason))
    elif reason is not None and any(map(has_pictures, pairs)):
        raise UsageError(reason)
    return pairs


def notes_of(pictured: Pictured | None) -> Iterator[str]:
    """What is not proven of pictures.

    Args:
        pictured: What was scored of them.
    """
    if pictured is None:
        yield "no pictures were scored; the tensors that read these are copied and were compared by bits."
    elif pictured.kind == "consistency":
        yield f"{pictured.backend} computed the scores of pictures on both sides, so a mistake in it would not show."
