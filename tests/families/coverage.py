"""`python -m tests.families.coverage [--json FILE] [MODEL_TYPE ...]`: which causal families of transformers convert.

Builds a tiny random model of each (norms, biases and scales perturbed), runs it, converts it, and counts: by table, by proof,
refused and why, not buildable. Each family has a process of its own and a minute.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import queue
import re
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import jaxconv
from jaxconv.families import FAMILIES
from tests.support.any_family import causal_families, random_model, write

SECONDS = 60
PROMPT = [5, 17, 33, 4, 99]
# Outcome -> what its message says; the first that fits.
REASONS = {
    "its class is not a *ForCausalLM": "expected one that ends in ForCausalLM",
    "more than a linear layer between backbone and logits": "between its backbone and its head|as its head",
    "a config key scales or caps logits": "may change logits|caps its logits",
    "hidden states are scaled before the head": "hidden states are scaled",
    "the backbone alone is another model, with an encoder": "beside what the causal LM has|encoder-decoder",
    "transformers' classifier ignores the row": "It would ignore the score row",
    "takes more than text": "takes more than text",
    "bidirectional": "is bidirectional",
    "config and class disagree about the tied head": "loaders would disagree",
    "the proof failed": "without a proof it cannot",
    "transformers cannot build it from its own config.json": "has no causal LM of this type|cannot build it",
}


def outcome(model_type: str) -> tuple[str, str]:
    """What becomes of a family: "by table", "by proof", "refused" or "not buildable", and the reason."""
    try:
        model = random_model(model_type)
        with torch.no_grad():
            model(torch.tensor([PROMPT]), use_cache=False)
    except Exception as error:  # every model has code of its own
        return "not buildable", f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "source", model)
        try:
            # JAX does not survive a fork, so tables are proven through PyTorch too.
            result = jaxconv.convert(
                source, Path(folder) / "output", classifier_from_tokens=["no", "yes"], backend="torch", verify=True
            )
        except jaxconv.JaxconvError as error:
            return "refused", str(error)
    assert result.report is not None and result.report.passed
    return ("by proof" if result.plan.model.family.by_proof else "by table"), ""


def bounded(model_type: str, architecture: str) -> tuple[str, str]:
    """The outcome, in a process that is ended after a minute. A class of another kind is not even built."""
    if not architecture.endswith("ForCausalLM"):
        return "refused", f"{architecture}; expected one that ends in ForCausalLM"
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    process = context.Process(target=lambda: results.put(outcome(model_type)))
    process.start()
    try:
        found: tuple[str, str] = results.get(timeout=SECONDS)
    except queue.Empty:
        found = "not buildable", f"took more than {SECONDS} seconds, or crashed"
    process.join(5)
    if process.is_alive():
        process.kill()
    return found


def reason(message: str) -> str:
    """The kind of a refusal."""
    return next((kind for kind, pattern in REASONS.items() if re.search(pattern, message)), message[:80])


def prepare() -> None:
    """Loads what every family needs, before processes are forked."""
    import jaxconv.conversion  # noqa: F401
    import torch_backend.by_proof  # noqa: F401

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gc.freeze()


def main() -> None:
    """Runs all families, or those that are named, prints a table and optionally writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("model_types", nargs="*")
    arguments = parser.parse_args()
    families = causal_families()
    prepare()
    rows, started = {}, time.monotonic()
    for model_type in arguments.model_types or families:
        kind, message = bounded(model_type, families[model_type])
        rows[model_type] = {"architecture": families[model_type], "outcome": kind, "message": message}
        print(f"{model_type:28} {kind:14} {message[:110]}", flush=True)
    counts = Counter(str(row["outcome"]) for row in rows.values())
    refusals = Counter(reason(str(row["message"])) for row in rows.values() if row["outcome"] == "refused")
    print(f"\ntransformers {transformers.__version__}, {len(rows)} model types, {time.monotonic() - started:.0f} s")
    print("".join(f"{count:4}  {kind}\n" for kind, count in counts.most_common()))
    print("".join(f"{count:4}  refused: {kind}\n" for kind, count in refusals.most_common()), end="")
    missed = set(FAMILIES) - {name for name, row in rows.items() if row["outcome"] == "by table"}
    if not arguments.model_types and missed:
        print(f"rows of the table that did not convert: {', '.join(sorted(missed))}")
    if arguments.json is not None:
        summary = {"transformers": transformers.__version__, "counts": counts, "refusals": refusals, "families": rows}
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
