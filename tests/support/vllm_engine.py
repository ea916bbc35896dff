"""Many models through vLLM's engine, in its own environment."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.vllm_server import ENVIRONMENT, VLLM

PROGRAM = Path(__file__).with_name("engine_program.py")
SECONDS_A_JOB = 60


@dataclass(frozen=True)
class Job:
    """A model to score documents with; `overrides` are those of `--hf-overrides`, `dtype` is that of `--dtype`."""

    model: str
    template: str
    query: str
    documents: Sequence[str]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"


def engine_scores(jobs: Sequence[Job], folder: Path) -> list[list[float] | str]:
    """Raw scores for each job, or the error with which vLLM refuses the model.

    Args:
        jobs: The jobs.
        folder: A directory for the log and for what the processes exchange.
    """
    folder.mkdir(exist_ok=True)
    asked, results = folder / "jobs.json", folder / "results.json"
    asked.write_text(json.dumps([asdict(job) for job in jobs]))
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONPATH": str(_torchao(folder))}
    with (folder / "log").open("wb") as log:
        subprocess.run(
            [VLLM.parent / "python", PROGRAM, asked, results],
            env=environment, stdout=log, stderr=log, check=True, timeout=SECONDS_A_JOB * len(jobs),
        )  # fmt: skip
    return [entry.get("scores", entry.get("error")) for entry in json.loads(results.read_text())]


def _torchao(folder: Path) -> Path:
    """A directory with the torchao of this environment, which vLLM reads torchao's checkpoints with and does not bring."""
    spec = importlib.util.find_spec("torchao")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    borrowed = folder / "packages"
    borrowed.mkdir()
    for path in (package, *package.parent.glob("torchao-*.dist-info")):
        (borrowed / path.name).symlink_to(path)
    return borrowed
