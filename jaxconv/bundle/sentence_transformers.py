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
from jaxconv.head import ScoreHead
from jaxconv.json_files import JsonDict, dump_json
from jaxconv.plan import Plan
from jaxconv.safetensors_header import header_bytes
from jaxconv.text.chat_templates import file_of

NAME = "jaxconv_score"
NAMED_TEMPLATE = file_of(NAME)  # where transformers looks for named templates
MODULES: list[JsonDict] = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
]
HIDDEN_STATES = {"method": "forward", "method_output_name": "last_hidden_state"}
POOLING = "sentence_transformers.sentence_transformer.modules.Pooling"
OWN_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
DENSE = "sentence_transformers.base.modules.dense.Dense"
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


def sentence_transformers_files(plan: Plan, head: ScoreHead) -> dict[str, bytes]:
    """The settings and the named template of a plan.

    Where transformers has no classifier of the family, CrossEncoder gets the backbone, a pooling and the row as modules, if
    the output is for it at all; else there are no files.

    Args:
        plan: The plan of the conversion.
        head: The score head.
    """
    if plan.named_template is None:
        return {}
    settings: JsonDict = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    if plan.activation in TORCH_CLASSES:
        settings["activation_fn"] = TORCH_CLASSES[plan.activation]
    if plan.stacked:
        settings["keep_in_fp32_modules"] = ["2.linear"]  # the row stays F32 where the backbone runs in bfloat16
    transformer = _backbone(plan) if plan.stacked else copy.deepcopy(TRANSFORMER)
    if plan.special_tokens != ("", ""):
        transformer["processing_kwargs"]["chat_template"] |= GUARD
    length = longest_prompt(plan)
    if length is not None:
        transformer["processor_kwargs"] = {"model_max_length": length}
    return {
        **plan.chat_templates,
        "modules.json": dump_json(_modules(plan)),
        "sentence_bert_config.json": dump_json(transformer),
        "config_sentence_transformers.json": dump_json(settings),
        NAMED_TEMPLATE: plan.named_template.encode(),
        **(_stack(plan, head) if plan.stacked else {}),
    }


def _modules(plan: Plan) -> list[JsonDict]:
    """modules.json.

    vLLM 0.32 leaves the activation out where it finds a pooling under a name that it knows. An output that is for vLLM too
    names it by its package.
    """
    if not plan.stacked:
        return MODULES
    pooling = POOLING if "vllm" in plan.consumers else OWN_POOLING
    types = {"": MODULES[0]["type"], "1_Pooling": pooling, "2_Dense": DENSE}
    return [{"idx": idx, "name": str(idx), "path": path, "type": name} for idx, (path, name) in enumerate(types.items())]


def _backbone(plan: Plan) -> JsonDict:
    """The settings of the first of three modules: hidden states of the backbone, pictures included where it reads them."""
    pictures = plan.model.family.composite is not None
    message = {**HIDDEN_STATES, "format": "structured" if pictures else "flat"}
    modalities: JsonDict = {"text": HIDDEN_STATES, "message": message}
    kwargs: JsonDict = {"chat_template": {"add_generation_prompt": True, "chat_template": NAME}}
    if plan.pixels is not None:
        kwargs["image"] = {"size": dict(zip(("shortest_edge", "longest_edge"), plan.pixels, strict=True))}
    return {
        "transformer_task": "feature-extraction",
        "modality_config": modalities | ({"image": HIDDEN_STATES} if pictures else {}),
        "module_output_name": "token_embeddings",
        "processing_kwargs": kwargs,
    }


def _stack(plan: Plan, head: ScoreHead) -> dict[str, bytes]:
    """The other two modules: the last token's hidden state, and the row as a linear layer."""
    dense = {
        "in_features": plan.hidden_size, "out_features": plan.num_labels, "bias": head.bias is not None,
        "activation_function": TORCH_CLASSES["identity"], "module_input_name": "sentence_embedding",
        "module_output_name": "scores",
    }  # fmt: skip
    tensors = head.tensors("linear")
    header = header_bytes({ref.name: (ref.dtype, ref.shape, ref.nbytes) for ref in tensors}, {"format": "pt"})
    return {
        "1_Pooling/config.json": dump_json({"embedding_dimension": plan.hidden_size, "pooling_mode": "lasttoken"}),
        "2_Dense/config.json": dump_json(dense),
        "2_Dense/model.safetensors": b"".join([header, *(ref.read().tobytes() for ref in tensors)]),
    }


def longest_prompt(plan: Plan) -> int | None:
    """The longest prompt of the plan's reranker in tokens, as its authors' code has it; None if that is not known.

    It is never longer than the model has positions.
    """
    if plan.prompt.max_length is None:
        return None
    positions = text_config(plan.model.config).get("max_position_embeddings")
    return min(plan.prompt.max_length, positions) if isinstance(positions, int) else plan.prompt.max_length
