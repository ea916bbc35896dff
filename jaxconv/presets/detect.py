"""Which preset a source has: the flag, else its hub id, else what its sentence-transformers files record.

Never a guess from the architecture.
"""

from __future__ import annotations

from typing import Any

from jaxconv.activation import Activation, activation_of_class
from jaxconv.errors import RefusedError, SourceError, TokenError
from jaxconv.json_files import read_json
from jaxconv.presets import Preset, for_hub_id, get
from jaxconv.presets.recorded_prompt import has_logit_score
from jaxconv.sources import Source
from jaxconv.sources.card import read_base_model
from jaxconv.text.tokenizer import Vocabulary

SCORE = "1_LogitScore/config.json"


def detect(source: Source, preset: str | None, *, derived: bool = False) -> tuple[Preset | None, str | None]:
    """The preset and how it was found.

    Args:
        source: The source.
        preset: The preset that the caller names.
        derived: Whether the source holds the weights of another model in another form, as a quantised one does. Then the
            `base_model` in the header of its card names the reranker.

    Raises:
        RefusedError: The preset is known not to convert.
    """
    if preset is not None:
        found, origin = get(preset), "--preset"
    else:
        hub_id = source.hub_id or source.base_id
        by_id = for_hub_id(hub_id) if hub_id else None
        origin = f"hub id {hub_id}"
        base = read_base_model(source.assets) if derived and by_id is None else None
        if base is not None:
            by_id, origin = for_hub_id(base), f"base_model {base} of the source's card"
        if by_id is None:
            return None, None
        found = by_id
    if found.refusal:
        raise RefusedError(f"{source.name} ({found.name}) cannot be converted: {found.refusal} {found.alternative or ''}")
    return found, origin


def recorded(source: Source, vocabulary: Vocabulary) -> tuple[Preset | None, str | None]:
    """Ids, method and activation that `modules.json` and `1_LogitScore/config.json` of a source record, or None.

    Keys: sentence_transformers 6.2.0, cross_encoder/modules/logit_score.py; without `false_token_id` the score is
    the logit of one token. Raises `TokenError` for ids that the tokenizer lacks (such files were published) and
    `SourceError` for files that cannot be read or an activation that is neither sigmoid nor identity.
    """
    config = read_json(source.assets / SCORE)
    if not has_logit_score(source) or config is None:
        return None, None
    values = config if isinstance(config, dict) else {}
    true, false = values.get("true_token_id"), values.get("false_token_id")
    ids: tuple[Any, ...] = (true,) if false is None else (false, true)
    for index in ids:
        if type(index) is not int or vocabulary.piece(index) is None:
            raise TokenError(
                f"{SCORE} of {source.name} names the token id {index!r}, which is no entry of its tokenizer; "
                "pass --classifier-from-tokens or --token-ids, false first."
            )
    preset = Preset(
        name="",
        hub_ids=(),
        evidence="recorded by the source",
        sources=(SCORE,),
        token_ids=ids,
        method="no_post_processing" if false is None else "from_2_way_softmax",
        activation=_activation(source),
    )
    return preset, SCORE


def _activation(source: Source) -> Activation:
    settings = read_json(source.assets / "config_sentence_transformers.json")
    name = settings.get("activation_fn") if isinstance(settings, dict) else None
    activation = activation_of_class(str(name or "Sigmoid"))
    if activation is None:
        raise SourceError(
            f"config_sentence_transformers.json of {source.name} has the activation {name}; expected Sigmoid or Identity. "
            "Pass --classifier-from-tokens or --token-ids to set tokens, method and activation by hand."
        )
    return activation
