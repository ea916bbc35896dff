"""`jaxconv score`: ranks documents, or scores a JSONL file of pairs, with a converted directory."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jaxconv.cli import _options as option
from jaxconv.cli._output import print_json
from jaxconv.errors import UsageError
from jaxconv.json_files import JsonDict
from jaxconv.pairs import STDIN, access_of, has_pictures, read_rows
from jaxconv.pictures import PictureAccess

if TYPE_CHECKING:
    from jaxconv.scoring import Scorer

CHUNK = 256  # pairs read, scored and written at a time


def register(app: typer.Typer) -> None:
    """Adds `score`."""
    app.command(help="Score and rank documents with a converted directory.")(score)


def score(
    model: Path = typer.Argument(help="Directory that convert wrote."),
    query: str | None = typer.Option(
        None, help='Query to rank the documents for; \'{"image": path, "text": …}\' for pictures.'
    ),
    document: list[str] = typer.Option([], help="A document, or such an object; repeat the option for more."),
    pairs: str | None = typer.Option(None, help='JSONL of {"query", "document"}, "-" for stdin; scored lines go to stdout.'),
    raw: bool = typer.Option(False, "--raw", help="Print raw logits instead of activated scores."),
    instruction: str | None = typer.Option(None, help="Instruction instead of the template's default."),
    backend: str = typer.Option("auto", help="auto, jax or torch."),
    device: option.Device = "auto",
    allow_remote_images: option.AllowRemoteImages = False,
    as_json: bool = typer.Option(False, "--json", help="One JSON document on stdout, sorted by score."),
) -> None:
    """Rank documents for a query, or score a stream of pairs."""
    if (pairs is None) == (query is None):
        raise UsageError("Give either --query with --document, or --pairs FILE.jsonl.")
    if query is not None and not document:
        raise UsageError("--query needs at least one --document.")
    asked, documents = _side(query or ""), [{"document": _side(text)} for text in document]
    access = access_of(pairs or STDIN, allow_remote_images)
    if pairs is not None:
        pictured = _survey(pairs, access)
    else:
        pictured = [has_pictures(row | {"query": asked}, access, "the command line") for row in documents]
    from jaxconv.scoring import load

    if backend != "torch":
        use_compilation_cache()
    scorer = load(model, backend=backend, device=device, pictures=any(pictured or ()))
    scorer.access = access
    rows, total = documents if pairs is None else read_rows(pairs), None if pictured is None else len(pictured)
    chunks = _scored(scorer, rows, asked, total, raw, instruction)
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
        table.add_row(str(rank), f"{result['score']:.6f}", str(result["index"]), Text(_shown(result["document"])))
    Console().print(table)


def _side(text: str) -> str | JsonDict:
    """A query or a document of the command line; an object with pictures is parsed."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text) if text.startswith("{") else None
        if isinstance(value, dict) and ("image" in value or "content" in value):
            return value
    return text


def _shown(document: str | JsonDict) -> str:
    return document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)[:200]


def _survey(name: str, access: PictureAccess) -> list[bool] | None:
    """Whether each pair of a file has a picture; None for a stream.

    Raises `UsageError` for a bad line or a picture that is not there, before anything is scored.
    """
    path = Path(name)
    if name == STDIN or path.is_fifo() or path.is_char_device():
        return None
    return [has_pictures(row, access, f"{name}, pair {number}") for number, row in enumerate(read_rows(name), 1)]


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
    scorer: Scorer, rows: Iterable[JsonDict], query: str | JsonDict, total: int | None, raw: bool, instruction: str | None
) -> Iterator[list[JsonDict]]:
    """Rows with their scores, in order; rows without a query get `query`. Shows progress on stderr if it is a terminal."""
    done, started, shown = 0, time.monotonic(), sys.stderr.isatty()
    for chunk in _chunks(rows):
        pairs = [(row.get("query", query), row["document"]) for row in chunk]
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
