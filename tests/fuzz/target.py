"""What is damaged and who reads it: one target of the fuzzing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutations import MUTATIONS

Damage = Callable[[bytes, random.Random], bytes]
Reading = Callable[[Path, Path], object]  # of the folder, and of the file in it that was damaged


def damaged_bytes(raw: bytes, dice: random.Random) -> bytes:
    """A file that went wrong in one place or in several."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if raw:
            raw = dice.choice(MUTATIONS)(bytearray(raw), dice)
    return raw


@dataclass(frozen=True, slots=True)
class Target:
    """A function that reads files which somebody else wrote.

    Attributes:
        seed: The folder of good files, by its name in `seeds.SEEDS` or `documents.DOCUMENTS`.
        read: Reads a folder; it accepts by returning, and refuses by an error of jaxconv's own.
        share: How many of a thousand inputs, about, are this target's.
        files: The patterns of the files that are damaged.
        damage: What is done to a file.
        limited: Reads in a process of its own with limits, as jaxconv itself does; asked about an input that this process
            does not survive. None where no input may do that.
    """

    seed: str
    read: Reading
    share: int
    files: tuple[str, ...] = ("**/*",)
    damage: Damage = damaged_bytes
    limited: Reading | None = None
