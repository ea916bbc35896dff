"""Pairs to score: JSONL of {"query": …, "document": …} from a file or a stream, a line at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from jaxconv.errors import UsageError

STDIN = "-"


def read_rows(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a file, a named pipe or, for "-", of standard input, each with the keys that it came with.

    Blank lines do not count, nor does a byte order mark. Raises `UsageError` that names the file and the line.
    """
    try:
        with open(0 if name == STDIN else name, encoding="utf-8-sig", closefd=name != STDIN) as file:
            yield from parse_rows(file, "standard input" if name == STDIN else name)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--pairs {name} cannot be read ({error}); expected JSONL of query and document.") from None


def parse_rows(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    """The rows of lines. Raises `UsageError` for a line that is no pair, and where there is none at all."""
    number = found = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            found += 1
            yield _row(line, f"{name}, line {number}")
    if not found:
        raise UsageError(f"--pairs {name} has no pairs in {number} lines; expected JSONL of query and document.")


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON ({error}).") from None
    if not isinstance(row, dict) or not isinstance(row.get("query"), str) or not isinstance(row.get("document"), str):
        raise UsageError(f'{where}: expected {{"query": "…", "document": "…"}}.')
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no text; expected Unicode.") from None
    return row
