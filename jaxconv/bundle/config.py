"""config.json of the output: the source's JSON with only what must change, unknown keys kept.

What each key does in vLLM 0.32 and transformers 5.23: `use_sep_token` false (else vLLM puts a separator between query and
document), num_labels by `id2label`, `dtype` explicit (else vLLM takes float32 from the score row), the activation in
`sentence_transformers` or `problem_type`, no key that would make vLLM convert on the fly once more.
"""

from __future__ import annotations

import copy

from jaxconv.activation import TORCH_CLASSES
from jaxconv.bundle.quantisation import source_config
from jaxconv.json_files import JsonDict
from jaxconv.model_warnings import ON_THE_FLY
from jaxconv.plan import Plan

DROPPED = (*ON_THE_FLY, "auto_map", "num_labels", "problem_type", "head_dtype", "sbert_ce_default_activation_function")


def output_config(plan: Plan) -> JsonDict:
    """The classifier's config.json, from the source's config and the decisions of `plan`."""
    labels = [f"LABEL_{number}" for number in range(plan.num_labels)]
    if plan.method == "no_post_processing" and plan.num_labels > 1:
        labels = [token.text for token in plan.tokens]
    names: JsonDict = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    config = {key: value for key, value in source_config(plan).items() if key not in DROPPED}
    config.update(
        architectures=list(plan.model.family.architectures),
        **names,
        use_sep_token=plan.use_sep_token,
        use_pad_token=plan.use_sep_token,
        dtype=plan.output_dtype,
        torch_dtype=plan.output_dtype,
    )
    config.pop("sentence_transformers", None)
    if isinstance(config.get("text_config"), dict):  # vLLM looks for its own keys there too
        text = {key: value for key, value in config["text_config"].items() if key not in ON_THE_FLY}
        # and makes a row of the language model's by the number of labels that stand there
        config["text_config"] = text | (copy.deepcopy(names) if plan.model.family.head.score != "score" else {})
    if plan.activation in TORCH_CLASSES:
        config["sentence_transformers"] = {"activation_fn": TORCH_CLASSES[plan.activation]}
    if plan.num_labels > 1 and plan.activation == "sigmoid":
        config["problem_type"] = "multi_label_classification"  # the only way to a sigmoid per label in vLLM
    if plan.pad_token is not None:
        config["pad_token_id"] = plan.pad_token.id
    return config
