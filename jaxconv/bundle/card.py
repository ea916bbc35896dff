"""README.md of the output: what it was made from and the commands that serve it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from jaxconv.bundle.local_use import local_use
from jaxconv.bundle.pictures import processor_flag
from jaxconv.bundle.pictures import requests as picture_requests
from jaxconv.bundle.quantisation import ONLINE, readers
from jaxconv.bundle.sentence_transformers import longest_prompt
from jaxconv.plan import Plan
from jaxconv.text.prompt import TEMPLATE_NAME

CARD_NAME = "README.md"

CARD = """\
---
library_name: transformers
pipeline_tag: text-ranking
{base}{licence}---

# {title} as a sequence classifier

`{architecture}` made by jaxconv from `{source}`{revision}. The backbone's tensors are those of the source{cast}; the score
row was computed in float32 from the stored LM-head rows and is stored as F32.

- Method: `{method}`
- Tokens (false first, true second): {tokens}
- Activation: {activation}; score = {scale:g} x logit {bias:+g}
{notes}
## Serve with vLLM

```bash
{serve}
```

{requests}
vLLM reads the activation from `config.json`. Without the template the scores are near random.{serving}
{quantisation}{local}"""

# vLLM mounts /score and /rerank for heads of one label, /classify for all.
RANKING = """\
```bash
curl -s http://localhost:8000/score -H 'Content-Type: application/json' \\
  -d '{"queries": "what is the capital of France?", "documents": ["Paris is the capital of France.", "Cats sleep."]}'
```

```bash
curl -s http://localhost:8000/rerank -H 'Content-Type: application/json' \\
  -d '{"query": "what is the capital of France?", "documents": ["Paris is the capital of France.", "Cats sleep."]}'
```
"""
LABELS = """\
```bash
curl -s http://localhost:8000/classify -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "query", "content": "what is the capital of France?"},
                    {"role": "document", "content": "Paris is the capital of France."}], "add_special_tokens": true}'
```

A head of several labels has no `/score` and no `/rerank`: `/classify` gives one probability a label, in the order of
`id2label`.
"""
SAVED = """
From 0.33 on vLLM finds the prompt in this folder by itself and needs no `--chat-template`."""
SAVED_NOT = """
This tokenizer adds {marks}, and vLLM 0.33, which also finds the prompt in this folder by itself, would add it twice. So it
refuses to start without `--chat-template` ("Unsupported Sentence Transformers chat template settings")."""
LENGTH = """
The authors' code lets {length} tokens through at most, and so {readers} here, which {shorten} the
document; vLLM refuses longer prompts with `--max-model-len {length}`, and shortens documents with `max_tokens_per_doc` in a
request. Do not use `truncate_prompt_tokens`: it cuts the end of the prompt, which the score is read after."""


def card(plan: Plan) -> str:
    """The model card of the output that a plan describes.

    vLLM adds a `score.bias` and transformers ignores it, which the card says.

    Args:
        plan: The plan of the conversion.
    """
    source = plan.model.source.hub_id
    notes = [f"- Note: {_prose(warning)}\n" for warning in plan.warnings]
    if plan.model.packed is not None:
        notes.append(f"- Quantisation: {_prose(plan.model.packed.quantised.quantisation.summary)}\n")
        notes += [f"- Reader: {_prose(line)}\n" for line in readers(plan)]
    if plan.calibration.bias and plan.model.family.transformers_seq_cls:
        notes.append(
            f"- Note: vLLM and jaxconv add `score.bias` ({plan.calibration.bias:g}); transformers' classes and CrossEncoder "
            "leave it out, which keeps the order and shifts the values. The transformers block below adds it.\n"
        )
    return CARD.format(
        base=_yaml({"base_model": source}) if source else "",
        licence=_yaml(plan.licence),
        title=(source or plan.model.family.architecture).split("/")[-1],
        requests=(RANKING if plan.num_labels == 1 else LABELS) + picture_requests(plan),
        serve=serve_command(plan, "."),
        serving=_serving(plan),
        quantisation=f"\n{ONLINE}\n" if plan.model.packed is None else "",
        local=local_use(plan),
        architecture=plan.model.family.target_architecture,
        source=source or plan.model.source.address or "a local checkpoint",
        revision=f" at revision `{plan.model.source.revision}`" if plan.model.source.revision else "",
        cast=_kept(plan),
        method=plan.method,
        tokens=", ".join(f"{code_span(token.text)} ({token.id})" for token in plan.tokens),
        activation=plan.activation,
        scale=plan.calibration.scale,
        bias=plan.calibration.bias,
        notes="".join(notes),
    )


def serve_command(plan: Plan, folder: str) -> str:
    """The command that serves an output.

    vLLM would run a float32 checkpoint in float16 unless it is told not to; most quantised ones it runs in nothing else.

    Args:
        plan: The plan of the conversion.
        folder: The output directory; "." in its own card.
    """
    template = TEMPLATE_NAME if folder == "." else f"{folder}/{TEMPLATE_NAME}"
    packed = plan.model.packed
    takes_float32 = packed is None or "float32" in packed.quantised.serving_dtypes
    dtype = " --dtype float32" if plan.output_dtype == "float32" and takes_float32 else ""
    return f"vllm serve {shlex.quote(folder)} --runner pooling{dtype} --chat-template {shlex.quote(template)}" + (
        processor_flag(plan)
    )


def _serving(plan: Plan) -> str:
    """What vLLM makes of the folder's own template and of long prompts."""
    notes = ""
    if plan.model.family.transformers_seq_cls:
        marks = " and ".join(code_span(mark) for mark in plan.special_tokens if mark)
        notes += SAVED_NOT.format(marks=marks) if marks else SAVED
    length = longest_prompt(plan)
    readers, shorten = "do CrossEncoder and `jaxconv score`", "shorten"
    if plan.named_template is None:
        readers, shorten = "does `jaxconv score`", "shortens"
    limit = "" if length is None else LENGTH.format(length=length, readers=readers, shorten=shorten)
    return notes + limit


def _kept(plan: Plan) -> str:
    """How the backbone relates to the source: a foreign layout permutes, and some scale."""
    layout = "" if plan.model.layout == "hf" else f" under Hugging Face's names (layout {plan.model.layout})"
    return layout + (f", cast to {plan.dtype}" if plan.dtype else ", bit for bit" if not layout else "")


def _yaml(keys: Mapping[str, str]) -> str:
    """Lines of the card's header."""
    import yaml

    return str(yaml.safe_dump(dict(keys), allow_unicode=True, sort_keys=False, width=1 << 16)) if keys else ""


def code_span(text: str) -> str:
    """A Markdown code span of any text: control characters escaped, fenced by more backticks than it holds in a row."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown[:1] == "`" or shown[-1:] == "`" or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _prose(text: str) -> str:
    """Text as Markdown that renders as it stands and holds no HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "\\`")
