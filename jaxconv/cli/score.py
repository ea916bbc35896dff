"""`jaxconv score`: ranks documents, or scores a JSONL file of pairs, with a converted folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jaxconv.cli._output import print_json
from jaxconv.errors import UsageError

if TYPE_CHECKING:
    from jaxconv.scoring import Scorer

CHUNK = 256  # pairs read, scored and written at a time


def register(app: typer.Typer) -> None:
    """Adds `score`."""
    app.command(help="Score and rank documents with a converted folder.")(score)


def score(
    model: Path = typer.Argument(help="Folder that convert wrote."),
    query: str | None = typer.Option(None, help="Query that the documents are ranked for."),
    document: list[str] = typer.Option([], help="A document; may be repeated."),
    pairs: Path | None = typer.Option(None, help='JSONL of {"query", "document"}; scored lines go to stdout.'),
    raw: bool = typer.Option(False, "--raw", help="Raw logits, without the activation."),
    instruction: str | None = typer.Option(None, help="Replaces the template's instruction."),
    backend: str = typer.Option("auto", help="auto, jax or torch."),
    device: str = typer.Option("auto", help="auto, cpu, gpu or tpu."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Ranks `--document`s for `--query`, or streams `--pairs`."""
    if (pairs is None) == (query is None):
        raise UsageError("Give either --query with --document, or --pairs FILE.jsonl.")
    if query is not None and not document:
        raise UsageError("--query needs at least one --document.")
    from jaxconv.scoring import load

    if backend != "torch":
        use_compilation_cache()
    scorer = load(model, backend=backend, device=device)
    if pairs is not None:
        _stream(scorer, pairs, raw, instruction)
        return
    scores = scorer.score(str(query), document, raw=raw, instruction=instruction)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    results = [{"index": i, "score": scores[i], "document": document[i]} for i in order]
    if as_json:
        print_json({"results": results})
    else:
        _table(results)


def use_compilation_cache() -> None:
    """JAX keeps what it compiles in JAXCONV_COMPILATION_CACHE, by default the user's cache folder."""
    import importlib.util

    if importlib.util.find_spec("jax") is None:
        return
    import jax

    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = os.environ.get("JAXCONV_COMPILATION_CACHE") or str(root / "jaxconv")
    jax.config.update("jax_compilation_cache_dir", folder)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # type: ignore[no-untyped-call]


def _table(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "score", "index", "document")
    for rank, result in enumerate(results, 1):
        table.add_row(str(rank), f"{result['score']:.6f}", str(result["index"]), Text(result["document"]))
    Console().print(table)


def _stream(scorer: Scorer, path: Path, raw: bool, instruction: str | None) -> None:
    done = 0
    lines = _lines(path)
    while chunk := list(islice(lines, CHUNK)):
        scores = scorer.score_pairs([(row["query"], row["document"]) for row in chunk], raw, instruction)
        for row, value in zip(chunk, scores, strict=True):
            print(json.dumps(row | {"score": value}, ensure_ascii=False))
        sys.stdout.flush()
        done += len(chunk)
        if sys.stderr.isatty():
            print(f"\r{done} pairs", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UsageError(f"--pairs {path} is no file; expected JSONL of query and document.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: no JSON ({error}).") from None
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("query", "document")):
                raise UsageError(f'{path}, line {number}: expected {{"query": "…", "document": "…"}}.')
            yield row
