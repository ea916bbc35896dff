"""What a verification found: one value, its JSON, and its numbers pair by pair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from jaxconv.json_files import JsonDict
from jaxconv.verification.head import Head
from jaxconv.verification.scores import Scores
from jaxconv.verification.structure import Structure
from jaxconv.verification.vllm import Served


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What a verification found.

    Attributes:
        structure: The backbone's tensors against the source's own arrays.
        head: The score head, recomputed in float64.
        scores: Raw scores of both sides; None if they were not compared.
        vllm: Raw scores of a vLLM server; None if none was asked.
        findings: A sentence for everything that is wrong. `passed` is true when it is empty.
        notes: What the proof takes from jaxconv's own reading, or leaves out, a sentence each.
    """

    structure: Structure
    head: Head
    scores: Scores | None
    vllm: Served | None
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong: true when `findings` is empty."""
        return not self.findings

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED, {len(self.findings)} findings"
        scores = "scores not compared"
        if self.scores is not None:
            pictures = "" if self.scores.pictures is None else f", {self.scores.pictures.pairs} with pictures,"
            scores = f"{self.scores.pairs} pairs{pictures} within {self.scores.max_abs_error:.2g} ({self.scores.kind})"
        return f"Report({verdict}: {self.structure.identical} of {self.structure.tensors} tensors identical, {scores})"

    def to_json(self) -> JsonDict:
        """The report as `jaxconv verify --json` prints it; a number that is not finite is None.

        Keys:
            passed: Whether nothing is wrong.
            structure: `tensors` (of the source's backbone), `identical` (how many of them the output has) and `mismatched`
                (the names of the others).
            head: `exact` (whether the stored head is the recomputed one) and `max_abs_error` of an element.
            scores: None, or `pairs`, `max_abs_error`, `rank_agreement`, `tolerance`, `tolerance_reason`, `backend` and `kind`
                ("independent": two implementations computed the two sides; "consistency": one did), and `pictures`: None,
                or of the pairs with pictures `pairs` (how many), `max_abs_error`, `backend` and `kind`.
            vllm: None, or `url`, `dtype` (of the server), `pairs`, `max_abs_error`, `rank_agreement`, `tolerance` and
                `tolerance_reason`.
            findings: A sentence for everything that is wrong.
            notes: What the proof takes from jaxconv's own reading, or leaves out.
        """
        scores, vllm = self.scores, self.vllm
        return {
            "passed": self.passed,
            "structure": {
                "tensors": self.structure.tensors,
                "identical": self.structure.identical,
                "mismatched": list(self.structure.mismatched),
            },
            "head": {"exact": self.head.exact, "max_abs_error": finite(self.head.max_abs_error)},
            "scores": None if scores is None else _measured(scores) | _computed(scores),
            "vllm": None if vllm is None else {"url": vllm.url, "dtype": vllm.dtype} | _measured(vllm),
            "findings": list(self.findings),
            "notes": list(self.notes),
        }  # fmt: skip

    def rows(self) -> Iterator[JsonDict]:
        """One row for each pair and label: query, document, label, raw scores of source and output, their difference.

        A picture is its name in brackets.
        With a vLLM server also its raw score and its difference from the output's. Numbers that are not finite are None.
        """
        if self.scores is None:
            return
        scores = self.scores
        for number, (query, document) in enumerate(scores.scored):
            for label, (source, output) in enumerate(zip(scores.source[number], scores.output[number], strict=True)):
                row = {"query": str(query), "document": str(document), "label": label, "source": finite(source)}
                row |= {"output": finite(output), "error": finite(output - source)}
                if self.vllm is not None:
                    served = self.vllm.scores[number]
                    row |= {"vllm": finite(served), "vllm_error": finite(served - output)}
                yield row


def unreadable(reason: str) -> Report:
    """The report of a source or output that cannot be read at all, with `reason` as its finding."""
    return Report(Structure(0, 0, (), ()), Head(False, None, ()), None, None, (reason,))


def _measured(scores: Scores | Served) -> JsonDict:
    return {
        "pairs": scores.pairs,
        "max_abs_error": finite(scores.max_abs_error),
        "rank_agreement": finite(scores.rank_agreement),
        "tolerance": scores.tolerance,
        "tolerance_reason": scores.tolerance_reason,
    }


def _computed(scores: Scores) -> JsonDict:
    """What computed the scores, and those of pictures apart."""
    pictures = scores.pictures
    described = None if pictures is None else asdict(pictures) | {"max_abs_error": finite(pictures.max_abs_error)}
    return {"backend": scores.backend, "kind": scores.kind, "pictures": described}


def finite(value: float | None) -> float | None:
    """The number `value`; None for NaN and infinities, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None
