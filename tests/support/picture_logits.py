"""`python picture_logits.py SOURCE < prompts.json`: transformers' causal LM of pictures and text, at float32.

Run by the environment of vLLM, which has the processors' packages. The input: `answers` (token ids), `size` (limits of
pictures, or null) and `prompts`, each a rendered text and the files of its pictures. Prints the logits of the answers after
the last token and the number of tokens, for each prompt.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


@torch.inference_mode()
def main() -> None:
    """Reads standard input, prints one JSON document."""
    request = json.load(sys.stdin)
    processor: Any = AutoProcessor.from_pretrained(sys.argv[1])
    model: Any = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    options = {"size": request["size"]} if request["size"] else {}
    found = []
    for prompt in request["prompts"]:
        pictures = [Image.open(path).convert("RGB") for path in prompt["pictures"]]
        inputs = processor(
            text=[prompt["text"]], images=pictures or None, return_tensors="pt", **(options if pictures else {})
        )
        logits = model(**inputs).logits[0, -1, request["answers"]]
        found.append({"logits": logits.tolist(), "tokens": int(inputs["input_ids"].shape[1])})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
