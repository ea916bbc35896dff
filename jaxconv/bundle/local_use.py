"""What a card says of loading the output without a server: sentence-transformers, transformers and jaxconv itself."""

from __future__ import annotations

from jaxconv.bundle.quantisation import transformers_reads
from jaxconv.bundle.sentence_transformers import NAME
from jaxconv.plan import Plan

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
    print({score})
```
"""

NO_TRANSFORMERS = """
## transformers and sentence-transformers

transformers has no class `{architecture}`, so neither it nor CrossEncoder can load this folder; vLLM makes the class itself.
"""
ANOTHER_WAY = "A conversion with `--consumers vllm,sentence-transformers` adds what CrossEncoder needs.\n"

FOR_VLLM = """
## transformers and sentence-transformers

This folder is laid out for vLLM. For most models of pictures transformers has no classifier, and where it has one it looks
for the score row elsewhere and makes up another: neither it nor CrossEncoder is to load this folder.
"""

WRONG_IN_TRANSFORMERS = """
## transformers and sentence-transformers

Neither transformers nor CrossEncoder gives the right scores from this folder: transformers does not read its quantisation.
"""

STACKED = """
## sentence-transformers

CrossEncoder loads this folder as three modules: the backbone, a pooling, and the score row as a linear layer
(sentence-transformers 6 or newer{extra}).

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder(".")
print(model.predict([("what is the capital of France?", "Paris is the capital of France.")]))
```
{pictures}
transformers alone has no classifier for this folder.
"""
WITH_PICTURES = """
A query or document with a picture is `{"image": "path, URL or PIL image", "text": "..."}`.
"""
ALIASED = """
vLLM 0.32 and 0.33 leave the activation out where a folder names a Pooling module. This one names it by its package, which
they do not know, so `/score` and `/rerank` give {activation} as they should. If a newer vLLM gives raw logits instead,
convert with `--consumers vllm`.
"""
TAKEN = """
vLLM takes the Pooling module of this folder as a sign to leave the activation out: `/score` gives raw logits. Convert with
`--consumers vllm,sentence-transformers` for both.
"""

JAXCONV = """
## jaxconv

```bash
jaxconv score . --query "what is the capital of France?" --document "Paris is the capital of France."
```
"""


def local_use(plan: Plan) -> str:
    """The sections of the card on loading the output in a process of one's own.

    vLLM adds a `score.bias` and transformers ignores it, which the code for transformers makes up for.

    Args:
        plan: The plan of the conversion.
    """
    # `jaxconv score` prints one score a pair, so it takes heads of one label only.
    return _for_transformers(plan) + (JAXCONV if plan.num_labels == 1 else "")


def _for_transformers(plan: Plan) -> str:
    family = plan.model.family
    if plan.stacked:
        pictures = family.composite is not None
        extra = ', installed as `"sentence-transformers[image]"`' if pictures else ""
        block = ALIASED if "vllm" in plan.consumers else TAKEN
        usage = STACKED.format(extra=extra, pictures=WITH_PICTURES if pictures else "")
        return usage + block.format(activation=_values(plan))
    if family.composite is not None:
        return FOR_VLLM + ANOTHER_WAY
    if not family.transformers_seq_cls:
        return NO_TRANSFORMERS.format(architecture=family.target_architecture) + ANOTHER_WAY
    return TRANSFORMERS.format(template=NAME, score=_score(plan)) if transformers_reads(plan) else WRONG_IN_TRANSFORMERS


def _values(plan: Plan) -> str:
    """What a score is, in words."""
    return {"sigmoid": "values between 0 and 1", "softmax": "probabilities", "identity": "raw logits"}[plan.activation]


def _score(plan: Plan) -> str:
    """Python that gives the score out of transformers' `model(**inputs)`: the bias it ignores, then the activation."""
    logits = "model(**inputs).logits"
    if plan.calibration.bias and not plan.model.transform.bias:
        logits = f"({logits} {'+' if plan.calibration.bias > 0 else '-'} {abs(plan.calibration.bias)!r})"
    return logits + (".sigmoid()" if plan.activation == "sigmoid" and plan.num_labels == 1 else "")
