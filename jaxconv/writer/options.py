"""How an output is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from jaxconv.errors import UsageError

CopyMode = Literal["copy", "link", "reflink"]
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How an output is written.

    Attributes:
        copy_mode: What is done with shards that need no change.
        max_shard_size: The size of the shards of a source that must be rewritten ("5GB").
        hash: Whether the sha256 of every file is recorded.
        overwrite: Whether a former output is replaced.

    Raises:
        UsageError: `copy_mode` or `max_shard_size` is not usable.
    """

    copy_mode: str = "copy"
    max_shard_size: str = "5GB"
    hash: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.copy_mode not in get_args(CopyMode):
            raise UsageError(f"--copy-mode {self.copy_mode!r} is unknown; expected one of: {', '.join(get_args(CopyMode))}.")
        parse_size(self.max_shard_size)

    @property
    def max_shard_bytes(self) -> int:
        """The size of a shard in bytes."""
        return parse_size(self.max_shard_size)


def parse_size(text: str) -> int:
    """Bytes of a size like "5GB" or "500MB" (decimal, as on the hub).

    Raises:
        UsageError: The text is not a size above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    if size <= 0:
        raise UsageError(f"--max-shard-size {text!r} is not a size; expected one like 5GB or 500MB.")
    return size
