"""Converts a small real language model into a reranker and ranks documents with it: `make demo`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from examples.smollm2 import checkpoint
from jaxconv.cli import main
from jaxconv.text.prompt import render

PROMPT = Path(__file__).parent / "prompt.jinja"
# query, the document that answers it, one that does not
TRIALS = (
    ("how do plants make food?", "Plants turn sunlight, water and carbon dioxide into sugar.", "The train leaves at noon."),
    ("what is the largest ocean?", "The Pacific is the largest ocean on Earth.", "My brother plays the guitar."),
    ("who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa.", "Bread is baked in an oven."),
    ("how many legs does a spider have?", "Spiders have eight legs.", "The meeting was moved to Friday."),
    ("what language is spoken in Brazil?", "People in Brazil speak Portuguese.", "Snow fell in the mountains."),
    ("when did the second world war end?", "The Second World War ended in 1945.", "Apples are sold by weight."),
    ("what do cows eat?", "Cows eat grass and hay.", "The library closes at six."),
    ("why is the sky blue?", "The sky is blue because air scatters blue light most.", "She bought a red bicycle."),
)


def rank(output: Path) -> int:
    """Scores both documents of each query with the converted model; how often the right one came first."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(output)
    model = AutoModelForSequenceClassification.from_pretrained(output, dtype=torch.float32).eval()
    template = (output / "score_template.jinja").read_text()
    right = 0
    for query, good, bad in TRIALS:
        batch = tokenizer([render(template, query, text) for text in (good, bad)], return_tensors="pt", padding=True)
        with torch.inference_mode():
            scores = torch.sigmoid(model(**batch).logits[:, 0]).tolist()
        right += scores[0] > scores[1]
        print(f"\n{query}")
        for score, text in sorted(zip(scores, (good, bad), strict=True), reverse=True):
            print(f"  {score:.3f}  {text}")
    return right


def run() -> int:
    """The demo: 0 when the conversion succeeded and the right documents came first."""
    source = checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "smollm2-reranker"
        command = ["convert", str(source), str(output), "--backend", "jax", "--copy-mode", "link"]
        command += ["--classifier-from-tokens", '["ĠNo", "ĠYes"]', "--template", str(PROMPT)]
        print("$ jaxconv", " ".join(command))
        if main(command) != 0:
            return 1
        right = rank(output)
        print(f"\n{right} of {len(TRIALS)} queries have the right document first.")
        return 0 if right == len(TRIALS) else 1


if __name__ == "__main__":
    sys.exit(run())
