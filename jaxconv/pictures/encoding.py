"""Prompts of pairs whose sides may have pictures: token ids, the numbers of the pictures, and what is cut."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from jaxconv.errors import UsageError
from jaxconv.families import composite_of
from jaxconv.json_files import JsonObject
from jaxconv.pictures.processor import PictureArrays, PictureProcessor, recorded_limits
from jaxconv.pictures.side import Side, SideText, text_of
from jaxconv.text.encoding import PairEncoder
from jaxconv.text.pictures import picture_mark

ROUNDS = 4  # of shortening: what stands beside a picture may become other tokens with it


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt that fits.

    Attributes:
        document: The document, perhaps without the end of its text.
        ids: The token ids of the prompt.
        pictures: The numbers of its pictures.
    """

    document: SideText
    ids: list[int]
    pictures: PictureArrays = field(default_factory=dict)


class SideEncoder:
    """Encodes pairs as vLLM does, with pictures where the model reads them.

    Args:
        texts: Encodes pairs of text.
        folder: The output, whose processor's files are used.
        config: Its config.json.
        record: Its jaxconv.json; None without one.
    """

    def __init__(self, texts: PairEncoder, folder: Path, config: JsonObject, record: JsonObject | None) -> None:
        self.texts = texts
        self.mark = picture_mark(composite_of(config), config, texts.vocabulary)
        self._processor = PictureProcessor(folder, recorded_limits(record))

    def encode(self, query: SideText, document: SideText, instruction: str | None = None) -> EncodedPrompt:
        """The token ids of a pair's prompt, and the numbers of its pictures.

        A prompt that is too long loses the end of its document's text, never a picture or the end of the prompt.

        Args:
            query: The query.
            document: The document.
            instruction: Replaces the template's own instruction.

        Raises:
            UsageError: The prompt does not fit, a picture is damaged, or the model reads none.
            BackendUnavailable: Packages that pictures need are missing.
            SourceError: The processor's files are damaged.
        """
        query_text, text = text_of(query, self.mark), text_of(document, self.mark)
        pictures = tuple(picture for side in (query, document) if isinstance(side, Side) for picture in side.pictures)
        if not pictures:
            pair = self.texts.encode(query_text, text, instruction)
            return EncodedPrompt(pair.document, pair.ids)
        assert self.mark is not None  # text_of has refused pictures without
        kept = text[: text.rfind(self.mark) + len(self.mark)] if self.mark in text else ""
        prompt = self.texts.render(query_text, text, instruction)
        inputs = self._processor.inputs(prompt, pictures)
        for _ in range(ROUNDS):
            if len(inputs.ids) <= self.texts.max_length:
                return EncodedPrompt(_with_text(document, text, self.mark), inputs.ids, inputs.arrays)
            grown = len(inputs.ids) - len(self.texts.vocabulary.ids(prompt))
            text = self.texts.encode(query_text, text, instruction, kept=kept, reserved=grown).document
            prompt = self.texts.render(query_text, text, instruction)
            inputs = self._processor.inputs(prompt, pictures)
        raise UsageError(f"{str(document)!r:.80} cannot be cut to {self.texts.max_length} tokens. Shorten it.")


def _with_text(document: SideText, text: str, mark: str) -> SideText:
    """A document whose string has become another."""
    if isinstance(document, str):
        return text
    return dataclasses.replace(document, text=text.removeprefix(document.marks(mark)))
