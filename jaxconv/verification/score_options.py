"""What a caller says of how scores are compared, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.errors import UsageError
from jaxconv.pictures import SideLike
from jaxconv.verification.pairs import Pairs, read_pairs
from jaxconv.verification.server_dtype import check_server_dtype
from jaxconv.verification.vllm import server_url


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How scores are compared; the names are those of `verify`."""

    pairs: str | Path | Sequence[tuple[SideLike, SideLike]] | None = None
    backend: str = "auto"
    device: str = "auto"
    tolerance: float | None = None
    structure_only: bool = False
    against_vllm: str | None = None
    server_dtype: str | None = None
    allow_remote_images: bool = False


def check_options(scoring: ScoreOptions) -> tuple[Pairs, str | None]:
    """The pairs, and the address of the server if one is asked.

    Args:
        scoring: The options.

    Raises:
        UsageError: A value makes no sense, or two of them do not go together.
    """
    tolerance = scoring.tolerance
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance!r} is not usable; expected a finite number of zero or more.")
    if scoring.against_vllm is not None and scoring.structure_only:
        raise UsageError("--against-vllm compares scores, which --structure-only leaves out; give one of them.")
    check_server_dtype(scoring.server_dtype, scoring.against_vllm)
    url = None if scoring.against_vllm is None else server_url(scoring.against_vllm)
    return read_pairs(scoring.pairs, scoring.allow_remote_images), url
