"""The prompts of the pairs as the output's template and the source's tokenizer make them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxconv.errors import UsageError
from jaxconv.model import Model
from jaxconv.prompt import render
from jaxconv.verification.output import Output, read_object
from jaxconv.verification.pairs import Pairs

LONGEST = 32768  # tokens of a prompt where config.json has no max_position_embeddings


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is scored.

    Attributes:
        pairs: The pairs, documents cut where the prompt would be too long.
        token_ids: The token ids of each prompt.
    """

    pairs: Pairs
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.token_ids))


def encode(model: Model, output: Output, pairs: Pairs) -> Prompts:
    """The prompts of pairs: the output's template, the source's tokenizer, its special tokens.

    Raises:
        UsageError: The prompt of a query alone is too long.
    """
    from tokenizers import Tokenizer

    template = (output.folder / "score_template.jinja").read_text("utf-8")
    tokenizer = Tokenizer.from_file(str(model.source.assets / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_object(output.folder / "tokenizer_config.json") or {}
    limit = model.config.get("max_position_embeddings") or LONGEST
    limit = int(min(limit, settings.get("model_max_length") or limit))
    kept, encoded = [], []
    for query, text in pairs:
        document = text
        while not len(ids := tokenizer.encode(render(template, query, document), add_special_tokens=True).ids) <= limit:
            if not document:
                raise UsageError(f"the prompt of {query!r:.80} alone has {len(ids)} tokens; at most {limit} fit. Shorten it.")
            document = document[: len(document) // 2]
        kept.append((query, document))
        encoded.append(tuple(ids))
    return Prompts(tuple(kept), tuple(encoded))
