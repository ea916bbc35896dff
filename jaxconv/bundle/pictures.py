"""What a card says of pictures: requests that hold one, and the limits that the server is told."""

from __future__ import annotations

import json
import shlex

from jaxconv.plan import Plan

# A red square of 64 x 64.
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAT0lEQVR42u3P"
    "QQkAAAgEsEty/aMYywi+hcEKLNO+FgEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQGBywLKp0Dx"
    "vxLbjwAAAABJRU5ErkJggg=="
)
REQUESTS = """
A query or a document with a picture is an object; several documents are a list of such objects. Send one text part beside the
pictures, since vLLM joins several by newlines.

```bash
curl -s http://localhost:8000/score -H 'Content-Type: application/json' \\
  -d '{"queries": "a red square", "documents": [DOCUMENT, "Cats sleep."]}'
```

```bash
curl -s http://localhost:8000/rerank -H 'Content-Type: application/json' \\
  -d '{"query": "a red square", "documents": [DOCUMENT, "Cats sleep."]}'
```

Leave `max_tokens_per_doc` out where there are pictures: it counts the marks that stand for one as text and cuts them off.
"""
DOCUMENT = json.dumps(
    {"content": [{"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "text", "text": "a square"}]}
)
LIMITS = """
`--mm-processor-kwargs` gives pictures the least and most pixels of the authors' code; with the limits of the processor's
files they get other tokens and other scores."""


def requests(plan: Plan) -> str:
    """Commands that score a picture, of models that read them.

    Args:
        plan: The plan of the conversion.
    """
    if plan.model.family.composite is None or plan.num_labels != 1:
        return ""
    return REQUESTS.replace("DOCUMENT", DOCUMENT) + (LIMITS + "\n" if plan.pixels is not None else "")


def processor_flag(plan: Plan) -> str:
    """What the command of a server says of the size of pictures.

    Args:
        plan: The plan of the conversion.
    """
    if plan.pixels is None:
        return ""
    limits = dict(zip(("min_pixels", "max_pixels"), plan.pixels, strict=True))
    return f" --mm-processor-kwargs {shlex.quote(json.dumps(limits, separators=(',', ':')))}"
