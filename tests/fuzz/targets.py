"""All targets by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzz.containers import CONTAINERS
from tests.fuzz.documents import DOCUMENTS
from tests.fuzz.target import Target
from tests.fuzz.texts import TEXT_TARGETS

TARGETS: Mapping[str, Target] = {**CONTAINERS, **DOCUMENTS, **TEXT_TARGETS}


def shares(names: list[str], inputs: int) -> dict[str, int]:
    """How many of `inputs` each target gets; together at least as many."""
    total = sum(TARGETS[name].share for name in names)
    return {name: -(-inputs * TARGETS[name].share // total) for name in names}
