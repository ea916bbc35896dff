"""Token ids of a pair's prompt, and the one way in which a pair is shortened to a length: `score`, `verify`, the card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxconv.errors import SourceError, UsageError
from jaxconv.text.prompt import PLAIN, TEMPLATE_NAME, render, vllm_template
from jaxconv.text.tokenizer import Encoded, Vocabulary

# Rounds of shortening a document that the template does not hold as it is, so that tokens cannot be told apart.
ROUNDS = 40


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair that fits.

    Attributes:
        document: The document, perhaps without its end.
        ids: The token ids of the prompt.
    """

    document: str
    ids: list[int]


class PairEncoder:
    """Renders and tokenises pairs as vLLM does, with a folder's tokenizer and a stored template.

    Args:
        template: The template over messages.
        vocabulary: The tokenizer.
        max_length: The most tokens that a prompt may have; a longer one loses the end of its document.
        rows: How many tokens the model has an embedding of; None if not known.
    """

    def __init__(self, template: str, vocabulary: Vocabulary, max_length: int, rows: int | None = None) -> None:
        self.template, self.vocabulary, self.max_length, self.rows = template, vocabulary, max_length, rows
        self.special_tokens: Mapping[str, str] = vocabulary.special_tokens

    def render(self, query: str, document: str, instruction: str | None = None) -> str:
        """The prompt of a pair, with nothing shortened.

        Args:
            query: The query.
            document: The document.
            instruction: Replaces the template's default.

        Raises:
            UsageError: The template cannot be rendered.
        """
        return render(self.template, query, document, instruction, self.special_tokens)

    def encode(
        self, query: str, document: str, instruction: str | None = None, *, kept: str = "", reserved: int = 0
    ) -> EncodedPair:
        """The token ids of a pair's prompt, special tokens added as vLLM adds them.

        A prompt that is too long loses the end of its document, never the template's suffix, which the score is read
        after. A long document is tokenised three times at most where the template holds it as it is.

        Args:
            query: The query.
            document: The document.
            instruction: Replaces the template's own instruction.
            kept: The start of the document that is never cut, such as marks of pictures.
            reserved: How many tokens of the longest prompt are left free, for what such marks become.

        Raises:
            UsageError: Even without the rest of the document it does not fit, or the prompt has a token without an embedding.
        """
        prompt = self.render(query, document, instruction)
        encoded = self.vocabulary.tokenize(prompt)
        if len(encoded.ids) <= self.max_length - reserved:
            return EncodedPair(document, self._checked(encoded))
        shortest = self.vocabulary.tokenize(self.render(query, kept, instruction))
        if len(shortest.ids) > self.max_length - reserved:
            raise UsageError(
                f"The query{' and the pictures' if reserved else ''} alone take{'' if reserved else 's'} "
                f"{len(shortest.ids) + reserved} tokens; at most {self.max_length} fit. Shorten it."
            )
        for _ in range(ROUNDS):
            excess = len(encoded.ids) + reserved - self.max_length
            document = document[: max(_kept(document, prompt, encoded, excess, len(shortest.ids)), len(kept))]
            if len(document) == len(kept):
                break
            prompt = self.render(query, document, instruction)
            encoded = self.vocabulary.tokenize(prompt)
            if len(encoded.ids) <= self.max_length - reserved:
                return EncodedPair(document, self._checked(encoded))
        return EncodedPair(kept, self._checked(shortest))

    def _checked(self, encoded: Encoded) -> list[int]:
        if self.rows is not None:
            for index, piece in zip(encoded.ids, encoded.tokens, strict=True):
                if index >= self.rows:
                    raise UsageError(
                        f"the prompt holds the token {piece!r} ({index}), which has no row in the model's embedding of "
                        f"{self.rows} rows; expected texts without it."
                    )
        return encoded.ids


def folder_encoder(folder: Path, max_length: int, rows: int | None = None) -> PairEncoder:
    """The encoder of a converted folder: its score_template.jinja, else the plain pair, and its tokenizer.

    Args:
        folder: The output directory.
        max_length: The most tokens that a prompt may have; a longer one loses the end of its document.
        rows: How many tokens the model has an embedding of; None if not known.

    Raises:
        SourceError: A file of the folder is missing or damaged.
    """
    path = folder / TEMPLATE_NAME
    try:
        template = path.read_text("utf-8") if path.is_file() else vllm_template(PLAIN)
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path} cannot be read ({error}); expected a template in UTF-8. Convert the source again."
        ) from None
    return PairEncoder(template, Vocabulary(folder), max_length, rows)


def _kept(document: str, prompt: str, encoded: Encoded, excess: int, shortest: int) -> int:
    """How many characters of a document stay.

    Args:
        document: The document as it was rendered.
        prompt: The prompt.
        encoded: The prompt's tokens.
        excess: How many tokens of it are too many.
        shortest: How many tokens the prompt has without a document.
    """
    start = prompt.find(document)
    if start < 0 or prompt.find(document, start + 1) >= 0:  # changed by the template, or there twice
        of_document = len(encoded.ids) - shortest
        share = max(of_document - excess, 0) / of_document if of_document > 0 else 0.0
        return min(int(len(document) * share), len(document) - 1)
    end = start + len(document)
    ends = [last for first, last in encoded.offsets if last > first >= start and last <= end]
    if len(ends) <= excess:
        return 0
    return min(ends[len(ends) - excess - 1] - start, len(document) - 1)
