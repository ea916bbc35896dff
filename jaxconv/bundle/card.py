"""README.md of the output: what it was made from and the commands that serve it."""

from __future__ import annotations

from jaxconv.plan import Plan

CARD = """\
---
library_name: transformers
pipeline_tag: text-ranking
{base}---

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

Without the template the scores are near random.
"""


def card(plan: Plan) -> str:
    """The model card. A bias in the head is honoured by vLLM and ignored by transformers, which the card says."""
    source = plan.source.hub_id
    notes = [f"- Note: {warning}\n" for warning in plan.warnings]
    if plan.calibration.bias:
        notes.append("- Note: vLLM adds `score.bias`; transformers' classes have no bias and leave it out.\n")
    return CARD.format(
        base=f"base_model: {source}\n" if source else "",
        title=(source or plan.family.architecture).split("/")[-1],
        architecture=plan.family.target_architecture,
        source=source or "a local checkpoint",
        revision=f" at revision `{plan.source.revision}`" if plan.source.revision else "",
        cast=f", cast to {plan.dtype}" if plan.dtype else ", bit for bit",
        method=plan.method,
        tokens=", ".join(f"`{token.text}` ({token.id})" for token in plan.tokens),
        activation=plan.activation,
        scale=plan.calibration.scale,
        bias=plan.calibration.bias,
        notes="".join(notes),
    )
