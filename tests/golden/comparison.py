"""Compares the output of a case with the record, apart from what is allowed to differ."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from tests.golden import texts
from tests.golden.conversion import File, Output

HASHES = Path(__file__).parent / "hashes.json"
DIFF_LINES = 80
KEY, ADDED = ": key ", ": added "
ADVICE = "\nWhere a fixed fault changes this, name it in ALLOWED of tests/golden/test_golden.py."

# (pattern of case names, "FILE", "FILE: key PATH" or "FILE: added LINES") -> reason
Allowed = Mapping[tuple[str, str], str]


class Recorded(TypedDict):
    """The record of one case: the digest of its source, and file name -> sha256."""

    source: str
    files: dict[str, str]


@dataclass
class Comparison:
    """What differs, as messages, and the allowances without which more would."""

    differences: list[str] = field(default_factory=list)
    used: set[tuple[str, str]] = field(default_factory=set)


@cache
def recorded() -> dict[str, Recorded]:
    """The record, case name -> source and files; empty before the first recording."""
    record: dict[str, Recorded] = json.loads(HASHES.read_text("utf-8")) if HASHES.is_file() else {}
    return record


@cache
def recorded_texts() -> texts.Texts:
    """The recorded texts."""
    return texts.load()


def compare(name: str, output: Output, record: Recorded, store: texts.Texts, allowed: Allowed) -> Comparison:
    """Compares every file of a case's output with its record."""
    comparison = Comparison()
    if output.source != record["source"]:
        comparison.differences.append(
            f"the source differs (sha256 {output.source}, recorded {record['source']}), so the output is not compared. "
            "jaxconv is not to blame: look for a change of tests/golden/sources.*, of the fixture, or of NumPy, "
            "safetensors or torch, which write the source."
        )
        return comparison
    matching = {entry for entry in allowed if fnmatch(name, entry[0])}
    for file in sorted({*output.files, *record["files"]}):
        whole = {entry for entry in matching if entry[1] == file}
        keys = {entry for entry in matching if entry[1].startswith((file + KEY, file + ADDED))}
        now, then = output.files.get(file), record["files"].get(file)
        if now is not None and now.sha256 == then:
            continue
        if whole:
            comparison.used |= whole
            continue
        message = _difference(file, now, then, store, keys, comparison.used)
        if message is not None:
            comparison.differences.append(message)
    return comparison


def _difference(
    file: str, now: File | None, then: str | None, store: texts.Texts, keys: set[tuple[str, str]], used: set[tuple[str, str]]
) -> str | None:
    """The message for a file that is not as recorded, None where only what is allowed differs; adds that to `used`."""
    if now is None:
        return f"{file} is missing; it was recorded with sha256 {then}.{ADVICE}"
    if then is None:
        return f"{file} is new: the record has no such file. Its sha256 is {now.sha256}.{ADVICE}"
    text = store.get(file, then)
    if text is None or now.text is None:
        return f"{file} differs: sha256 {now.sha256}, recorded {then}.{ADVICE}"
    before, after = text, now.text
    for entry in sorted(keys):
        if entry[1].startswith(file + ADDED):
            without = after.replace(entry[1].removeprefix(file + ADDED), "", 1)
            used |= {entry} if without != after else set()
            after = without
            continue
        path = entry[1].removeprefix(file + KEY).split("/")
        if _value(before, path) != _value(after, path):
            used.add(entry)
            before, after = _without(before, path), _without(after, path)
    return None if before == after else f"{file} differs:\n{_diff(file, before, after)}{ADVICE}"


def _value(text: str, path: list[str]) -> str | None:
    """The value at a path of keys, as JSON; None where there is none."""
    value = _parse(text)
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return json.dumps(value)


def _without(text: str, path: list[str]) -> str:
    """The document without the value at a path of keys; the order of the keys and the formatting stay.

    A text whose formatting is not one of `json.dumps` stays as it is, and so is compared whole.
    """
    document = _parse(text)
    for indent in (2, None):
        for ending in ("\n", ""):
            if json.dumps(document, indent=indent, ensure_ascii=text.isascii()) + ending == text:
                parent = document
                for key in path[:-1]:
                    parent = parent.get(key) if isinstance(parent, dict) else None
                if isinstance(parent, dict):
                    parent.pop(path[-1], None)
                return json.dumps(document, indent=indent, ensure_ascii=text.isascii()) + ending
    return text


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _diff(file: str, before: str, after: str) -> str:
    lines = list(
        difflib.unified_diff(before.splitlines(), after.splitlines(), f"recorded/{file}", f"now/{file}", lineterm="", n=1)
    )
    if not lines:
        lines = ["only the ends of lines differ"]
    more = len(lines) - DIFF_LINES
    return "\n".join(lines[:DIFF_LINES] + ([f"... {more} more lines"] if more > 0 else []))
