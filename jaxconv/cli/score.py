"""`jaxconv score`: ranks documents, or scores a JSONL file of pairs, with a converted directory."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jaxconv.cli._output import print_json
from jaxconv.errors import UsageError
from jaxconv.json_files import JsonDict
from jaxconv.pairs import STDIN, read_rows

if TYPE_CHECKING:
    from jaxconv.scoring import Scorer

CHUNK = 256  # pairs read, scored and written at a time


def register(app: typer.Typer) -> None:
    """Adds `score`."""
    app.command(help="Score and rank documents with a converted directory.")(score)


def score(
    model: Path = typer.Argument(help="Directory that convert wrote."),
    query: str | None = typer.Option(None, help="Query to rank the documents for."),
    document: list[str] = typer.Option([], help="A document; repeat the option for more."),
    pairs: str | None = typer.Option(None, help='JSONL of {"query", "document"}, "-" for stdin; scored lines go to stdout.'),
    raw: bool = typer.Option(False, "--raw", help="Print raw logits instead of activated scores."),
    instruction: str | None = typer.Option(None, help="Instruction instead of the template's default."),
    backend: str = typer.Option("auto", help="auto, jax or torch."),
    device: str = typer.Option("auto", help="auto, cpu, gpu or tpu."),
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout, sorted by score."),
) -> None:
    """Rank documents for a query, or score a stream of pairs."""
    if (pairs is None) == (query is None):
        raise UsageError("Give either --query with --document, or --pairs FILE.jsonl.")
    if query is not None and not document:
        raise UsageError("--query needs at least one --document.")
    total = len(document) if pairs is None else _count(pairs)
    from jaxconv.scoring import load

    if backend != "torch":
        use_compilation_cache()
    scorer = load(model, backend=backend, device=device)
    rows = read_rows(pairs) if pairs is not None else ({"document": text} for text in document)
    chunks = _scored(scorer, rows, query, total, raw, instruction)
    if pairs is not None and not as_json:
        for chunk in chunks:
            print("\n".join(json.dumps(row, ensure_ascii=False) for row in chunk), flush=True)
        return
    scored = [row for chunk in chunks for row in chunk]
    results = [{"index": i, "score": row["score"]} | row | {"index": i} for i, row in enumerate(scored)]
    results.sort(key=lambda row: -row["score"])
    if as_json:
        print_json({"results": results})
    else:
        _table(results)


def use_compilation_cache() -> None:
    """Lets JAX keep what it compiles in JAXCONV_COMPILATION_CACHE, by default the user's cache directory."""
    import importlib.util

    if importlib.util.find_spec("jax") is None:
        return
    import jax

    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = os.environ.get("JAXCONV_COMPILATION_CACHE") or str(root / "jaxconv")
    jax.config.update("jax_compilation_cache_dir", directory)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # type: ignore[no-untyped-call]


def _table(results: list[JsonDict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "score", "index", "document")
    for rank, result in enumerate(results, 1):
        table.add_row(str(rank), f"{result['score']:.6f}", str(result["index"]), Text(result["document"]))
    Console().print(table)


def _count(name: str) -> int | None:
    """The number of pairs of a file, None for a stream. Raises `UsageError` for a bad line, before anything is scored."""
    path = Path(name)
    if name == STDIN or path.is_fifo() or path.is_char_device():
        return None
    return sum(1 for _ in read_rows(name))


def _chunks(rows: Iterable[JsonDict]) -> Iterator[list[JsonDict]]:
    """CHUNK rows at a time; rows before a bad line are yielded before the error is raised."""
    chunk: list[JsonDict] = []
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    except UsageError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


def _scored(
    scorer: Scorer, rows: Iterable[JsonDict], query: str | None, total: int | None, raw: bool, instruction: str | None
) -> Iterator[list[JsonDict]]:
    """Rows with their scores, in order; rows without a query get `query`. Shows progress on stderr if it is a terminal."""
    done, started, shown = 0, time.monotonic(), sys.stderr.isatty()
    for chunk in _chunks(rows):
        pairs = [(str(row.get("query", query)), str(row["document"])) for row in chunk]
        scores = scorer.score_pairs(pairs, raw, instruction)
        yield [row | {"score": value} for row, value in zip(chunk, scores, strict=True)]
        done += len(chunk)
        if shown:
            rate = done / max(time.monotonic() - started, 1e-3)
            of = f"{done * 100 // max(total, 1):3d}%  {done} of {total}" if total else str(done)
            print(f"\r{of} pairs  {rate:.1f}/s", end="", file=sys.stderr, flush=True)
    if shown:
        text = f"{done} pairs in {time.monotonic() - started:.1f} s by {scorer.backend}"
        if scorer.compilations:
            text += f" (shapes compiled: {scorer.compilations}; their first runs took {scorer.compile_seconds:.1f} s)"
        print(f"\r{text:<48}", file=sys.stderr)
