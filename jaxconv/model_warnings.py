"""What the caller should know of a source and its prompt, or why these cannot be converted exactly."""

from __future__ import annotations

from jaxconv.errors import RefusedError
from jaxconv.families import PROOF, text_config
from jaxconv.head import Method
from jaxconv.json_files import JsonObject
from jaxconv.model import Model
from jaxconv.text.prompt import Prompt

# Keys that would make vLLM convert a converted checkpoint once more.
ON_THE_FLY = ("classifier_from_token", "method", "is_original_qwen3_reranker")

NO_TEMPLATE = (
    "no prompt template is known: scores are near random unless the model was trained on the plain pair; "
    "pass --template or --preset."
)


def on_the_fly_keys(config: JsonObject) -> list[str]:
    """Keys of a `config` that would make vLLM convert a converted checkpoint again; it looks in `text_config` too."""
    return [key for key in ON_THE_FLY if key in config or key in text_config(config)]


def warnings_of(model: Model, prompt: Prompt, method: Method, *, allow_approximate: bool) -> tuple[str, ...]:
    """Sentences for the summary and the card.

    Args:
        model: The source.
        prompt: Its prompt.
        method: How rows become the head.
        allow_approximate: Whether a cap of the logits is left out.

    Raises:
        RefusedError: The source caps its logits, and that is not allowed to be left out.
    """
    warnings = [*model.checkpoint.notes, *([PROOF] if model.family.by_proof else [])]
    if not prompt.known:
        warnings.append(NO_TEMPLATE)
    if model.checkpoint.headers_only and model.lm_head.tied and model.lm_head.weight.name == model.family.head.weight:
        warnings.append(
            f"{model.family.head.weight} is stored beside the embedding that it is tied to; convert compares them, headers "
            "cannot."
        )
    if prompt.caveat:
        warnings.append(prompt.caveat)
    if model.transform.bias:
        warnings.append("the LM head has a bias: vLLM adds score.bias, transformers' classes leave it out.")
    if model.transform.softcap is not None:
        warnings.append(_softcap(model.transform.softcap, method, allow_approximate))
    if on_the_fly_keys(model.config):
        warnings.append(f"on-the-fly keys of config.json are left out: {', '.join(on_the_fly_keys(model.config))}.")
    trained_on = model.adapter.base if model.adapter is not None else None
    if trained_on and model.source.hub_id and trained_on.lower() != model.source.hub_id.lower():
        warnings.append(f"the adapter was trained on {trained_on}, the source is {model.source.hub_id}.")
    if "auto_map" in model.config:
        warnings.append("auto_map of config.json is left out: it would load the source's remote code.")
    return tuple(warnings)


def _softcap(cap: float, method: Method, allowed: bool) -> str:
    kept = "the order of scores is kept, their values are not" if method == "no_post_processing" else "order may change"
    if not allowed:
        raise RefusedError(
            f"the model caps its logits ({cap:g} x tanh(x / {cap:g})), which a linear head cannot: {kept}. "
            "Pass --allow-approximate to convert all the same; it will be recorded."
        )
    return f"approximate: the source caps its logits at {cap:g}, the classifier does not; {kept}."
