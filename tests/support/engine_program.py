"""Scores of many models in one process of vLLM's own environment: `python engine_program.py JOBS.json RESULTS.json`.

vLLM is imported once and each model gets a fork of the process, so that a model takes five seconds and not fifty. It is
the engine behind `vllm serve`, without HTTP. A job is {"model", "template", "overrides", "dtype", "query", "documents"};
its result is {"scores"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def scores(job: dict[str, Any]) -> list[float]:
    """Raw scores of one model."""
    from vllm import LLM, PoolingParams

    engine = LLM(
        model=job["model"], runner="pooling", enforce_eager=True, max_model_len=256, hf_overrides=job["overrides"],
        dtype=job["dtype"], distributed_executor_backend="uni",
    )  # fmt: skip
    found = engine.score(
        job["query"], job["documents"], use_tqdm=False, chat_template=Path(job["template"]).read_text(),
        pooling_params=PoolingParams(use_activation=False),
    )  # fmt: skip
    return [float(entry.outputs.score) for entry in found]


def run(job: dict[str, Any], result: Path) -> None:
    """One job, in a fork whose result comes as a file."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        found: dict[str, Any] = {"scores": scores(job)}
    except BaseException as error:  # also what vLLM raises to end a process
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"}
    result.write_text(json.dumps(found))
    os._exit(0)


def main() -> None:
    """Runs all jobs in turn."""
    import vllm

    jobs, results = (Path(argument) for argument in sys.argv[1:])
    found = []
    for number, job in enumerate(json.loads(jobs.read_text())):
        result = results.with_suffix(f".{number}")
        print(f"== {job['model']} {job['overrides']} (vLLM {vllm.__version__})", flush=True)
        run(job, result)
        found.append(json.loads(result.read_text()) if result.exists() else {"error": "the process ended"})
    results.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
