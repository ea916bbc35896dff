"""The pad token of an output: the tokenizer's own, or one that the prompt cannot end with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxconv.errors import RefusedError
from jaxconv.json_files import JsonObject, read_optional_object
from jaxconv.tokenizer import Vocabulary

# Pieces that serve as padding where the tokenizer names none, best first.
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>", "<|im_end|>", "</s>", "<eos>")


@dataclass(frozen=True, slots=True)
class PadToken:
    """The pad token of the output. `added` if the tokenizer itself names none."""

    text: str
    id: int
    added: bool


def choose_pad_token(assets: Path, vocabulary: Vocabulary, last_id: int | None) -> PadToken | None:
    """The tokenizer's own pad token, else one that the prompt cannot end with.

    transformers reads the score at the last token that is not padding, so a prompt must not end with it.

    Args:
        assets: The directory of the tokenizer.
        vocabulary: The tokenizer.
        last_id: The last token id of the prompt; None if the prompt is not known.

    Raises:
        RefusedError: The prompt ends with the tokenizer's own pad token.
    """
    path = assets / "tokenizer_config.json"
    text = _text(read_optional_object(path) or {}, "pad_token")
    index = vocabulary.id(text) if text is not None else None
    if text is not None and index is not None:
        if index == last_id:
            raise RefusedError(
                f"the prompt ends in {text!r} ({index}), which is the tokenizer's pad token; transformers would read the "
                f"score before it. Name another pad_token in {path}, or pass --template with another ending."
            )
        return PadToken(text, index, added=False)
    for candidate in PAD_CANDIDATES:
        index = vocabulary.id(candidate)
        if index is not None and index != last_id:
            return PadToken(candidate, index, added=True)
    return None


def _text(settings: JsonObject, key: str) -> str | None:
    """The text of a special token, which is stored as a string or as an object with `content`."""
    value = settings.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
