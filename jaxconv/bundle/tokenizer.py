"""The tokenizer's files, byte for byte, and a pad token for tokenizers that have none."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from jaxconv.errors import RefusedError
from jaxconv.tokens import Vocabulary

FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken", "spiece.model",
    "chat_template*", "LICENSE*", "NOTICE*",
)  # fmt: skip
# Pieces that serve as padding where the tokenizer names none, best first.
PAD_CANDIDATES = ("<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>", "<|im_end|>", "</s>", "<eos>")


@dataclass(frozen=True, slots=True)
class PadToken:
    """The pad token of the output. `added` when the tokenizer itself names none."""

    text: str
    id: int
    added: bool


def find_pad_token(assets: Path, vocabulary: Vocabulary, last_id: int | None) -> PadToken | None:
    """The tokenizer's own pad token, else one that the prompt cannot end with.

    transformers scores the last token that is not padding, so a prompt must not end with it. Raises `RefusedError` when it
    does end with the tokenizer's own, whose files stay as they are.
    """
    path = assets / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    named = settings.get("pad_token")
    text = named.get("content") if isinstance(named, dict) else named
    own = vocabulary.id(text) if isinstance(text, str) else None
    if isinstance(text, str) and own is not None:
        if own == last_id:
            raise RefusedError(
                f"the prompt ends in {text!r} ({own}), which is the tokenizer's pad token; transformers would read the score "
                f"before it. Name another pad_token in {path}, or pass --template with another ending."
            )
        return PadToken(text, own, added=False)
    for candidate in PAD_CANDIDATES:
        index = vocabulary.id(candidate)
        if index is not None and index != last_id:
            return PadToken(candidate, index, added=True)
    return None


def copy_tokenizer(assets: Path, target: Path, pad: PadToken | None) -> None:
    """Copies the tokenizer's files; adds `pad_token` to tokenizer_config.json where the tokenizer has none."""
    for entry in sorted(assets.iterdir()):
        if entry.is_file() and any(fnmatch(entry.name, pattern) for pattern in FILES):
            shutil.copyfile(entry, target / entry.name)
    if pad is not None and pad.added:
        path = target / "tokenizer_config.json"
        settings = json.loads(path.read_bytes()) if path.is_file() else {}
        settings["pad_token"] = pad.text
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
