"""README.md of the output: what it was made from and the commands that serve it."""

from __future__ import annotations

from pathlib import Path

from jaxconv.bundle.sentence_transformers import NAME
from jaxconv.plan import Plan

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
vllm serve . --runner pooling --chat-template score_template.jinja
```

```bash
curl -s http://localhost:8000/score -H 'Content-Type: application/json' \\
  -d '{{"queries": "what is the capital of France?", "documents": ["Paris is the capital of France.", "Cats sleep."]}}'
```

```bash
curl -s http://localhost:8000/rerank -H 'Content-Type: application/json' \\
  -d '{{"query": "what is the capital of France?", "documents": ["Paris is the capital of France.", "Cats sleep."]}}'
```

vLLM reads the activation from `config.json`. Without the template the scores are near random.
{local}"""

TRANSFORMERS = """
## sentence-transformers

The prompt and the activation are stored in this folder; give the pair as it is (sentence-transformers 6 or newer).

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder(".")
print(model.predict([("what is the capital of France?", "Paris is the capital of France.")]))
```

## transformers

transformers gives logits: it applies neither the activation nor a `score.bias`.

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSequenceClassification.from_pretrained(".")
pair = [
    {{"role": "query", "content": "what is the capital of France?"}},
    {{"role": "document", "content": "Paris is the capital of France."}},
]
inputs = tokenizer.apply_chat_template(pair, chat_template="{template}", return_dict=True, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).logits{activate})
```
"""

NO_TRANSFORMERS = """
## transformers and sentence-transformers

transformers has no class `{architecture}`, so neither it nor CrossEncoder can load this folder; vLLM makes the class itself.
"""

JAXCONV = """
## jaxconv

```bash
jaxconv score . --query "what is the capital of France?" --document "Paris is the capital of France."
```
"""


def card(plan: Plan) -> str:
    """The model card. A bias in the head is honoured by vLLM and ignored by transformers, which the card says."""
    source = plan.source.hub_id
    notes = [f"- Note: {warning}\n" for warning in plan.warnings]
    if plan.calibration.bias and plan.family.transformers_seq_cls:
        notes.append(
            "- Note: vLLM adds `score.bias`; transformers' classes, and so CrossEncoder, have no bias and leave it out.\n"
        )
    local = TRANSFORMERS if plan.family.transformers_seq_cls else NO_TRANSFORMERS
    values = {
        "architecture": plan.family.target_architecture,
        "template": NAME,
        "activate": ".sigmoid()" if plan.activation == "sigmoid" and plan.num_labels == 1 else "",
    }
    # `jaxconv score` prints one score a pair, so it takes heads of one label only.
    blocks = local.format(**values) + (JAXCONV if plan.num_labels == 1 else "")
    return CARD.format(
        base=f"base_model: {source}\n" if source else "",
        licence=licence(plan.source.assets),
        title=(source or plan.family.architecture).split("/")[-1],
        local=blocks,
        architecture=values["architecture"],
        source=source or "a local checkpoint",
        revision=f" at revision `{plan.source.revision}`" if plan.source.revision else "",
        cast=_kept(plan),
        method=plan.method,
        tokens=", ".join(f"`{token.text}` ({token.id})" for token in plan.tokens),
        activation=plan.activation,
        scale=plan.calibration.scale,
        bias=plan.calibration.bias,
        notes="".join(notes),
    )


def _kept(plan: Plan) -> str:
    """How the backbone relates to the source: a foreign layout permutes, and some scale."""
    layout = "" if plan.layout == "hf" else f" under Hugging Face's names (layout {plan.layout})"
    return layout + (f", cast to {plan.dtype}" if plan.dtype else ", bit for bit" if not layout else "")


def licence(assets: Path) -> str:
    """The `license:` lines of the source's own card header, as they stand there; empty without one."""
    path = assets / "README.md"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return ""
    header = lines[1 : lines.index("---", 1)]
    keys = ("license:", "license_name:", "license_link:")
    return "".join(line + "\n" for line in header if line.startswith(keys))
