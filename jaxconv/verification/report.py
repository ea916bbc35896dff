"""What a verification found: one value, its JSON, and its numbers pair by pair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxconv.verification.head import Head
from jaxconv.verification.scores import Scores
from jaxconv.verification.structure import Structure
from jaxconv.verification.vllm import Served


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `findings` has a sentence for everything that is wrong; `passed` is that there is none."""

    structure: Structure
    head: Head
    scores: Scores | None
    vllm: Served | None
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """The report as `jaxconv verify --json` prints it; a number that is not finite is null."""
        scores, vllm = self.scores, self.vllm
        return {
            "passed": self.passed,
            "structure": {
                "tensors": self.structure.tensors,
                "identical": self.structure.identical,
                "mismatched": list(self.structure.mismatched),
            },
            "head": {"exact": self.head.exact, "max_abs_error": finite(self.head.max_abs_error)},
            "scores": None if scores is None else _measured(scores) | {"backend": scores.backend},
            "vllm": None if vllm is None else {"url": vllm.url} | _measured(vllm),
            "findings": list(self.findings),
        }  # fmt: skip

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each pair and label: query, document, label, raw scores of source and output, their difference.

        With a vLLM server also its raw score and its difference from the output's. Numbers that are not finite are None.
        """
        if self.scores is None:
            return
        scores = self.scores
        for number, (query, document) in enumerate(scores.asked):
            for label, (wanted, found) in enumerate(zip(scores.expected[number], scores.found[number], strict=True)):
                row = {"query": query, "document": document, "label": label, "source": finite(wanted)}
                row |= {"output": finite(found), "error": finite(found - wanted)}
                if self.vllm is not None:
                    served = self.vllm.found[number]
                    row |= {"vllm": finite(served), "vllm_error": finite(served - found)}
                yield row


def _measured(scores: Scores | Served) -> dict[str, Any]:
    return {
        "pairs": scores.pairs,
        "max_abs_error": finite(scores.max_abs_error),
        "rank_agreement": finite(scores.rank_agreement),
        "tolerance": scores.tolerance,
        "tolerance_reason": scores.tolerance_reason,
    }


def finite(value: float | None) -> float | None:
    """The number, None for NaN and infinities, which JSON has not."""
    return value if value is not None and math.isfinite(value) else None
