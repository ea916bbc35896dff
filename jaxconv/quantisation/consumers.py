"""Who reads a quantised output, and what they do to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Consumer:
    """A library that may load the output.

    Attributes:
        name: The library.
        reads: Whether it gives the right scores.
        caveat: One or two sentences to print beside the name; empty where nothing needs saying.
    """

    name: Literal["vllm", "transformers", "sentence-transformers"]
    reads: bool
    caveat: str = ""


def consumers(
    *,
    vllm: str = "",
    transformers: str = "",
    sentence_transformers: str | None = None,
    vllm_reads: bool = True,
    transformers_reads: bool = True,
    sentence_transformers_reads: bool | None = None,
) -> tuple[Consumer, Consumer, Consumer]:
    """The three consumers of an output.

    Args:
        vllm: What to know before serving it.
        transformers: What to know before loading it with transformers.
        sentence_transformers: The same of CrossEncoder; by default what holds for transformers.
        vllm_reads: Whether vLLM gives the right scores.
        transformers_reads: Whether transformers gives the right scores.
        sentence_transformers_reads: The same of CrossEncoder; by default as transformers.
    """
    if sentence_transformers is None:
        sentence_transformers = transformers
    if sentence_transformers_reads is None:
        sentence_transformers_reads = transformers_reads
    return (
        Consumer("vllm", vllm_reads, vllm),
        Consumer("transformers", transformers_reads, transformers),
        Consumer("sentence-transformers", sentence_transformers_reads, sentence_transformers),
    )
