"""The faults by what they spoil: layouts, weights, head, models, text, config."""

from __future__ import annotations

import dataclasses

import jaxconv.bundle
import jaxconv.conversion
import jaxconv.layouts._leaves as leaves
import jaxconv.layouts._rules as rules
import jaxconv.merge
import jaxconv.readers.safetensors
import jaxconv.text.prompt_fit
import jaxconv.writer.shards
from tests.verification.sabotages import (
    Sabotage,
    attribute,
    decoder,
    exchange_key_and_value,
    exchanged,
    in_config,
    in_file,
    in_plan,
    layers_reversed,
    left_out,
    negated,
    norm_without_weight,
    not_transposed,
    off_by_one_row,
    pad_with_end,
    truncated,
    twice_rounded,
    two_bytes_late,
    unchanged,
    without_alpha,
    without_scale,
)

LAYOUTS = {
    "MaxText's scaled queries are taken as they are": Sabotage(
        "maxtext/llama31_scanned", unchanged("times sqrt(H)"), r"self_attn\.q_proj\.weight differs"
    ),
    "MaxText's norms keep their one": Sabotage(
        "maxtext/gemma2_scanned", unchanged("minus one"), r"input_layernorm\.weight differs"
    ),
    "MaxText's embedding keeps its factor": Sabotage(
        "maxtext/gemma2_scanned", unchanged("over sqrt(D)"), r"embed_tokens\.weight differs"
    ),
    "MaxText's rotary pairs stay side by side": Sabotage(
        "maxtext/llama31_scanned", unchanged("rope in halves"), r"self_attn\.k_proj\.weight differs"
    ),
    "stacked layers are reversed": Sabotage(
        "maxtext/qwen3_scanned_tied", attribute(rules, "_parts", layers_reversed), r"layers\.0\..* differs"
    ),
    "keys are taken for values": Sabotage("tunix/gemma", exchange_key_and_value, r"self_attn\.k_proj\.weight differs"),
    "square kernels are not transposed": Sabotage(
        "flax", attribute(leaves, "transposed", not_transposed), r"self_attn\.q_proj\.weight differs"
    ),
}  # fmt: skip
WEIGHTS = {
    "a tensor is read two bytes late": Sabotage(
        "untied", attribute(jaxconv.readers.safetensors, "file_tensor", two_bytes_late), r"model\.norm\.weight differs",
        {"max_shard_size": "100KB", "dtype": "bfloat16"},
    ),
    "a cast cuts instead of rounding": Sabotage(
        "float32", attribute(jaxconv.writer.shards, "cast", truncated), "differs from the source", {"dtype": "bfloat16"}
    ),
    "an adapter is merged without its scaling": Sabotage(
        "adapter", attribute(jaxconv.merge, "_merged", without_alpha), r"q_proj\.weight differs"
    ),
    "an adapter is merged into some of its modules only": Sabotage(
        "adapter", attribute(jaxconv.merge, "_merged", left_out), r"v_proj\.weight differs"
    ),
    "an adapter's sum is rounded twice": Sabotage(
        "adapter", attribute(jaxconv.merge, "_merged", twice_rounded), r"q_proj\.weight differs"
    ),
}  # fmt: skip
HEAD = {
    "the head is false minus true": Sabotage(
        "qwen3", attribute(jaxconv.conversion, "compute_head", negated), "opposite sign"
    ),
    "rows of other tokens are taken": Sabotage(
        "untied", attribute(jaxconv.readers.safetensors, "file_tensor", off_by_one_row), "read other rows of the tokens"
    ),
}  # fmt: skip
MODEL = {
    "the family's factor on logits is forgotten": Sabotage(
        "granite", attribute(jaxconv.conversion, "read_model", without_scale), "score.weight differs"
    ),
    "the decoder has no rotary embedding": Sabotage(
        "qwen3", decoder("rotate", lambda x, cos, sin: x), "raw scores differ", needs_transformers=True
    ),
    "the decoder's norms have no weight": Sabotage(
        "qwen3", decoder("rms_norm", norm_without_weight), "raw scores differ", needs_transformers=True
    ),
}
PROMPT = "Query: {{ query }}\nDocument: {{ document }}\nRelevant:\n\n"
TEXT = {
    "the template loses the newlines at its end": Sabotage(
        "qwen3",
        in_plan(lambda plan: dataclasses.replace(
            plan, prompt=dataclasses.replace(plan.prompt, template=plan.prompt.template.replace("\\n", ""))
        )),
        "gives another prompt than the template that jaxconv.json records", {"template": PROMPT},
    ),
    "query and document are exchanged": Sabotage(
        "qwen3",
        in_plan(lambda plan: dataclasses.replace(
            plan, prompt=dataclasses.replace(plan.prompt, template=exchanged(plan.prompt.template))
        )),
        "gives another prompt than the template that jaxconv.json records", {"template": PROMPT},
    ),
    "CrossEncoder's template leaves out what the tokenizer adds": Sabotage(
        "llama",
        in_plan(lambda plan: dataclasses.replace(plan, named_template=plan.prompt.template)),
        "CrossEncoder is given other token ids", needs_transformers=True,
    ),
    "tokenizer.json is rewritten": Sabotage(
        "qwen3", in_file("tokenizer.json", lambda raw: raw.replace(b'"<unk>"', b'"<unk2>"')), "tokenizer.json differs"
    ),
    "special tokens get lost": Sabotage(
        "qwen3", in_file("tokenizer_config.json", lambda raw: None), "tokenizer_config.json"
    ),
    "prompts end in the pad token": Sabotage(
        "qwen3", attribute(jaxconv.text.prompt_fit, "choose_pad_token", lambda choose: pad_with_end),
        "prompts end in the pad token", {"template": "{{ query }} {{ document }}</s>"},
    ),
}  # fmt: skip
CONFIG = {
    "rope_theta is lost": Sabotage(
        "llama", attribute(jaxconv.bundle, "output_config", in_config(lambda c: c.pop("rope_parameters"))),
        "no rope_parameters",
    ),
    "the norms' epsilon is another": Sabotage(
        "qwen3", attribute(jaxconv.bundle, "output_config", in_config(lambda c: c.update(rms_norm_eps=1e-3))), "rms_norm_eps"
    ),
    "the activation is another": Sabotage(
        "qwen3", attribute(jaxconv.bundle, "output_config", in_config(lambda c: c.pop("sentence_transformers"))),
        "has the activation None",
    ),
    "several labels keep one activation": Sabotage(
        "qwen3", attribute(jaxconv.bundle, "output_config", in_config(lambda c: c.pop("problem_type"))), "no problem_type",
        {"method": "no_post_processing", "activation": "sigmoid"},
    ),
    "the pad token is another": Sabotage(
        "qwen3", attribute(jaxconv.bundle, "output_config", in_config(lambda c: c.update(pad_token_id=5))), "pad_token_id 5"
    ),
}  # fmt: skip
SABOTAGES = {**LAYOUTS, **WEIGHTS, **HEAD, **MODEL, **TEXT, **CONFIG}
