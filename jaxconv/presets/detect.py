"""Which preset a source has: the flag, else its hub id, else what its sentence-transformers files record.

Never a guess from the architecture.
"""

from __future__ import annotations

import re
from typing import Any

from jaxconv.activation import Activation, activation_of_class
from jaxconv.errors import RefusedError, SourceError, TokenError
from jaxconv.json_files import JsonObject, read_json
from jaxconv.presets import Preset, for_hub_id, get
from jaxconv.presets.recorded_prompt import logit_score
from jaxconv.sources import Source
from jaxconv.sources.card import read_base_model
from jaxconv.text.tokenizer import Vocabulary

SCORE = "1_LogitScore/config.json"
PATH = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", re.ASCII)  # within the source


def detect(source: Source, preset: str | None, *, derived: bool = False) -> tuple[Preset | None, str | None]:
    """The preset of a source, and how it was identified; None and None if there is none.

    Args:
        source: The source, with its hub id and that of its base model.
        preset: The name that the caller gave; it wins over the hub id.
        derived: Whether the source holds the weights of another model in another form, as a quantised one does. Then the
            `base_model` in the header of its card names the reranker.

    Raises:
        UsageError: No preset has that name.
        RefusedError: The preset is known not to convert.
    """
    if preset is not None:
        entry, origin = get(preset), "--preset"
    else:
        hub_id = source.hub_id or source.base_id
        by_id = for_hub_id(hub_id) if hub_id else None
        origin = f"hub id {hub_id}"
        base = read_base_model(source.assets) if derived and by_id is None else None
        if base is not None:
            by_id, origin = for_hub_id(base), f"base_model {base} of the source's card"
        if by_id is None:
            return None, None
        entry = by_id
    if entry.refusal:
        raise RefusedError(f"{source.name} ({entry.name}) cannot be converted: {entry.refusal} {entry.alternative or ''}")
    return entry, origin


def recorded(source: Source, vocabulary: Vocabulary) -> tuple[Preset | None, str | None]:
    """Ids, method and activation that `modules.json` and `1_LogitScore/config.json` of a source record, or None.

    Keys: sentence_transformers 6.2.0, cross_encoder/modules/logit_score.py; without `false_token_id` the score is
    the logit of one token.

    Args:
        source: The source.
        vocabulary: Its tokenizer.

    Returns:
        A preset without a name and the file that it comes from; None and None if the source records nothing.

    Raises:
        TokenError: The tokenizer lacks an id; such files were published.
        SourceError: A file is missing or cannot be read, or the activation is neither sigmoid nor identity.
    """
    entry = logit_score(source)
    if entry is None:
        return None, None
    config, origin = _score_config(source, entry)
    values = config if isinstance(config, dict) else {}
    true, false = values.get("true_token_id"), values.get("false_token_id")
    ids: tuple[Any, ...] = (true,) if false is None else (false, true)
    for index in ids:
        if type(index) is not int or vocabulary.piece(index) is None:
            raise TokenError(
                f"{origin} of {source.name} names the token id {index!r}, which is not in its tokenizer; "
                "pass --classifier-from-tokens or --token-ids, false first."
            )
    preset = Preset(
        name="",
        hub_ids=(),
        evidence="recorded by the source",
        sources=(origin,),
        token_ids=ids,
        method="no_post_processing" if false is None else "from_2_way_softmax",
        activation=_activation(source),
    )
    return preset, origin


def _score_config(source: Source, entry: JsonObject) -> tuple[object, str]:
    """The config of a LogitScore and where it lies; a path of modules.json that leads nowhere is said.

    Qwen3-VL-Reranker-8B was published with one.
    """
    path = str(entry.get("path", "1_LogitScore")).strip("/")
    named = f"{path}/config.json"
    config = read_json(source.assets / named) if PATH.fullmatch(path) else None
    if config is not None:
        return config, named
    config = read_json(source.assets / SCORE)
    if config is None:
        raise SourceError(
            f"modules.json of {source.name} has a LogitScore in {path!r}, and there is no {named}. Download it again, "
            "correct the path, or pass --classifier-from-tokens or --token-ids, false first."
        )
    return config, f"{SCORE} (modules.json names {named}, which does not exist)"


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
