"""Who is to load an output, where one set of files cannot be right for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxconv.errors import UsageError

Consumer = Literal["vllm", "sentence-transformers"]
CONSUMERS: tuple[Consumer, ...] = ("vllm", "sentence-transformers")


def consumers_of(names: Sequence[str]) -> tuple[Consumer, ...]:
    """The consumers of these names, in the order of `CONSUMERS`.

    Args:
        names: What the caller wrote.

    Raises:
        UsageError: There is none, or one is unknown.
    """
    unknown = [name for name in names if name not in CONSUMERS]
    if unknown or not names:
        raise UsageError(
            f"--consumers {','.join(unknown) or 'is empty'}{' is unknown' if unknown else ''}; expected vllm, "
            "sentence-transformers, or both with a comma between them."
        )
    return tuple(name for name in CONSUMERS if name in names)
