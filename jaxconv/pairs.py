"""Pairs to score: JSONL of {"query": …, "document": …} from a file or a stream, read line by line.

A query or a document is a text, or an object with pictures; the paths in it start from the directory of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxconv.errors import SourceError, UsageError
from jaxconv.json_files import JsonDict, parse_json
from jaxconv.pictures import PictureAccess, check_side, entries_of

STDIN = "-"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SIDES = ("query", "document")
EXPECTED = '{"query": "…", "document": "…"}.'


def read_rows(name: str) -> Iterator[JsonDict]:
    """Reads rows, each with all its keys. Blank lines and a byte order mark are skipped.

    Args:
        name: A file, a named pipe, or "-" for standard input.

    Raises:
        UsageError: The file cannot be read, holds no pairs, or has a line that is not a pair. Rows before that line
            have been yielded by then.
    """
    try:
        with open(0 if name == STDIN else name, "rb", closefd=name != STDIN) as file:
            yield from parse_rows(file, "standard input" if name == STDIN else name)
    except OSError as error:
        raise UsageError(f"--pairs {name} cannot be read ({error}); expected JSONL of query and document.") from None


def access_of(name: str, remote: bool) -> PictureAccess:
    """Where the pictures of a file of pairs come from.

    Args:
        name: The file, or "-" for standard input, whose paths start from the working directory.
        remote: Whether http and https addresses are fetched.
    """
    return PictureAccess(Path() if name == STDIN else Path(name).parent, remote)


def has_pictures(row: JsonDict, access: PictureAccess, where: str) -> bool:
    """Whether a side of a pair has a picture.

    Args:
        row: The pair.
        access: Where pictures may come from.
        where: What the pair is called in an error message.

    Raises:
        UsageError: A picture is not there.
    """
    checked = [check_side(row[side], access, f"{where}, {side}") for side in SIDES]
    return any(checked)


def parse_rows(lines: Iterable[bytes | str], name: str) -> Iterator[JsonDict]:
    """The rows of lines of JSON, as `read_rows`; `name` is what error messages call the lines."""
    number = rows = 0
    for number, line in enumerate(lines, 1):
        if isinstance(line, bytes):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if line.strip():
            rows += 1
            yield _row(line, f"{name}, line {number}")
    if not rows:
        raise UsageError(f"--pairs {name} has no pairs in {number} lines; expected JSONL of query and document.")


def _row(line: bytes | str, where: str) -> JsonDict:
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        row = parse_json(text, where, f"Expected {EXPECTED}")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 ({error}). Save the file as UTF-8.") from None
    except SourceError as error:
        raise UsageError(str(error)) from None
    if not isinstance(row, dict) or not all(isinstance(row.get(side), str | dict) for side in SIDES):
        raise UsageError(f"{where} is not a pair; expected {EXPECTED}")
    for side in SIDES:
        entries_of(row[side], f"{where}, {side}")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} has half of a surrogate pair (\\ud800 to \\udfff); expected Unicode text.") from None
    return row
