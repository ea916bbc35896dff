"""The prompts of the pairs as the output's template and the source's tokenizer make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxconv.errors import UsageError
from jaxconv.families import text_config
from jaxconv.model import Model
from jaxconv.pictures import PictureArrays, SideEncoder
from jaxconv.text.encoding import PairEncoder
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.verification.output import Output, read_object
from jaxconv.verification.pairs import Pairs

LONGEST = 32768  # tokens of a prompt where config.json has no max_position_embeddings


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is scored.

    Attributes:
        pairs: The pairs, documents cut where the prompt would be too long.
        token_ids: The token ids of each prompt.
        pictures: The numbers of the pictures of each prompt.
    """

    pairs: Pairs
    token_ids: tuple[tuple[int, ...], ...]
    pictures: tuple[PictureArrays, ...]

    @property
    def pictured(self) -> tuple[bool, ...]:
        """Whether each prompt has pictures."""
        return tuple(map(bool, self.pictures))

    def of(self, rows: Sequence[int]) -> Prompts:
        """The prompts in the places `rows`."""
        picked = zip(*((self.pairs[row], self.token_ids[row], self.pictures[row]) for row in rows), strict=True)
        return Prompts(*picked) if rows else Prompts((), (), ())

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.token_ids))


def encode(model: Model, output: Output, pairs: Pairs) -> Prompts:
    """The prompts of pairs: the output's template, the source's tokenizer, its special tokens.

    Args:
        model: The source.
        output: The output.
        pairs: The (query, document) pairs.

    Returns:
        The pairs, with long documents shortened, and the token ids of their prompts.

    Raises:
        UsageError: The prompt of a query alone is too long, or a picture cannot be used.
    """
    template = (output.folder / "score_template.jinja").read_text("utf-8")
    encoder = PairEncoder(template, Vocabulary(model.source.assets), _longest(model, output))
    encoder.special_tokens = Vocabulary(output.folder).special_tokens  # a pad token may have been added
    sides = SideEncoder(encoder, model.source.assets, model.config, output.record)
    encoded = [sides.encode(query, document) for query, document in pairs]
    kept = tuple((query, one.document) for (query, _), one in zip(pairs, encoded, strict=True))
    return Prompts(kept, tuple(tuple(one.ids) for one in encoded), tuple(one.pictures for one in encoded))


def _longest(model: Model, output: Output) -> int:
    """The longest prompt in tokens: the smallest limit of the model, the tokenizer and the record."""
    settings = read_object(output.folder / "tokenizer_config.json") or {}
    limits = [
        text_config(model.config).get("max_position_embeddings") or LONGEST,
        settings.get("model_max_length"),
        (output.record or {}).get("max_length"),
    ]
    return int(min(limit for limit in limits if isinstance(limit, int | float) and limit >= 1))


def check_ends(prompts: Prompts, output: Output) -> list[str]:
    """Whether every prompt ends where transformers reads the score: at the last token that is not padding.

    Args:
        prompts: The prompts.
        output: The output, whose config.json names the pad token.

    Returns:
        At most one finding.

    Raises:
        UsageError: A prompt has no tokens.
    """
    pad = output.config.get("pad_token_id")
    for (query, document), ids in zip(prompts.pairs, prompts.token_ids, strict=True):
        if not ids:
            raise UsageError(
                f"the prompt of {str(query)!r:.80} and {str(document)!r:.80} has no tokens; expected at least one."
            )
        if ids[-1] == pad:
            return [f"prompts end in the pad token ({pad}), before which transformers reads the score."]
    return []
