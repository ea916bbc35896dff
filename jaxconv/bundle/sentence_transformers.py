"""The files that make `CrossEncoder(output)` of sentence-transformers 6 use the prompt and the activation.

sentence-transformers renders the pair as messages of the roles "query" and "document" and tokenizes the text
without adding special tokens, vLLM's `--chat-template` adds them. So this template is a named one beside the
tokenizer's chat template and carries what the tokenizer would add; the tokenizer's own files stay as they are.
Keys: sentence_transformers 6.2.0, base/modules/transformer.py and cross_encoder/model.py. The same three files
are what vLLM 0.33 asks for (transformers_utils/config.py). The source's own files are never copied.
"""

from __future__ import annotations

import copy

from jaxconv.activation import TORCH_CLASSES
from jaxconv.families import text_config
from jaxconv.json_files import JsonDict, dump_json
from jaxconv.plan import Plan
from jaxconv.text.chat_templates import file_of

NAME = "jaxconv_score"
NAMED_TEMPLATE = file_of(NAME)  # where transformers looks for named templates
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
LOGITS = {"method": "forward", "method_output_name": "logits"}
TRANSFORMER: JsonDict = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": LOGITS, "message": {**LOGITS, "format": "flat"}},
    "module_output_name": "scores",
    "processing_kwargs": {"chat_template": {"add_generation_prompt": True, "chat_template": NAME}},
}

# vLLM 0.33 renders the named template too, but then adds the special tokens once more. It refuses settings with this key,
# unless it was started with --chat-template, which is right; to sentence-transformers None is the default.
GUARD = {"tools": None}


def sentence_transformers_files(plan: Plan) -> dict[str, bytes]:
    """The settings and the named template of a plan.

    There are none if transformers has no class of the family, which CrossEncoder needs.

    Args:
        plan: The plan of the conversion.
    """
    if plan.named_template is None:
        return {}
    settings: JsonDict = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    if plan.activation in TORCH_CLASSES:
        settings["activation_fn"] = TORCH_CLASSES[plan.activation]
    transformer = copy.deepcopy(TRANSFORMER)
    if plan.special_tokens != ("", ""):
        transformer["processing_kwargs"]["chat_template"] |= GUARD
    length = longest_prompt(plan)
    if length is not None:
        transformer["processor_kwargs"] = {"model_max_length": length}
    return {
        **plan.chat_templates,
        "modules.json": dump_json(MODULES),
        "sentence_bert_config.json": dump_json(transformer),
        "config_sentence_transformers.json": dump_json(settings),
        NAMED_TEMPLATE: plan.named_template.encode(),
    }


def longest_prompt(plan: Plan) -> int | None:
    """The longest prompt of the plan's reranker in tokens, as its authors' code has it; None if that is not known.

    It is never longer than the model has positions.
    """
    if plan.prompt.max_length is None:
        return None
    positions = text_config(plan.model.config).get("max_position_embeddings")
    return min(plan.prompt.max_length, positions) if isinstance(positions, int) else plan.prompt.max_length
