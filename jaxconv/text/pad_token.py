"""The pad token of an output: the tokenizer's own, or one that the prompt cannot end with."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from jaxconv.errors import RefusedError
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.text.tokenizer_settings import SPECIAL_TOKENS_MAP

# Pieces that serve as padding where the tokenizer names none, best first.
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>", "<|im_end|>", "</s>", "<eos>")


@dataclass(frozen=True, slots=True)
class PadToken:
    """The pad token of the output. `added` if the tokenizer itself names none."""

    text: str
    id: int
    added: bool


def choose_pad_token(vocabulary: Vocabulary, last_ids: Set[int], rows: int) -> PadToken | None:
    """The tokenizer's own pad token, else one that the prompt cannot end with.

    transformers reads the score at the last token that is not padding, so a prompt must not end with it.

    Args:
        vocabulary: The tokenizer.
        last_ids: The ids that the prompt ends with; empty if the prompt is not known.
        rows: How many tokens the model has an embedding of.

    Returns:
        The pad token, or None for a tokenizer without any special token that serves.

    Raises:
        RefusedError: The prompt ends with the tokenizer's own pad token, or that has no row and cannot be replaced.
    """
    text = vocabulary.special_tokens.get("pad_token")
    index = vocabulary.id(text) if text is not None else None
    file = vocabulary.assets / vocabulary.settings.pad_file
    if text is not None and index is not None and index < rows:
        if index in last_ids:
            raise RefusedError(
                f"the prompt ends in {text!r} ({index}), which is the tokenizer's pad token; transformers would read the "
                f"score before it. Name another pad_token in {file}, or pass --template with another ending."
            )
        return PadToken(text, index, added=False)
    for candidate in (*PAD_CANDIDATES, *_special_tokens(vocabulary)):
        index = vocabulary.id(candidate)
        if index is None or index in last_ids or index >= rows:
            continue
        if vocabulary.settings.pad_file == SPECIAL_TOKENS_MAP:
            raise RefusedError(
                f"pad_token in {file} is {text!r}, which has no row in the embedding of {rows} tokens; transformers would "
                f"pad with it. Name another there, such as {candidate!r}."
            )
        return PadToken(candidate, index, added=True)
    return None


def _special_tokens(vocabulary: Vocabulary) -> list[str]:
    """The special tokens of tokenizer.json, those that the tokenizer uses for something last."""
    used = set(vocabulary.special_tokens.values())
    return sorted((text for text, special in vocabulary.added.values() if special), key=lambda text: text in used)
