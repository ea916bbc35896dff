"""Many similar texts in little space: of each file name one text in full, of the others the lines that differ."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import TypedDict

FILE = Path(__file__).parent / "texts.json"


class Group(TypedDict):
    """The texts of one file name. `changes` maps the sha256 of a text to {"first-last line of `base`": new lines}."""

    base: list[str]
    changes: dict[str, dict[str, list[str]]]


def sha256(content: bytes) -> str:
    """The digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class Texts:
    """Texts by file name and sha256."""

    def __init__(self, groups: dict[str, Group] | None = None) -> None:
        self.groups: dict[str, Group] = groups or {}

    def add(self, name: str, text: str) -> str:
        """Stores a text of the file `name` and returns its sha256."""
        digest = sha256(text.encode())
        lines = text.splitlines(keepends=True)
        group = self.groups.setdefault(name, {"base": lines, "changes": {}})
        if digest not in group["changes"]:
            matcher = difflib.SequenceMatcher(None, group["base"], lines, autojunk=False)
            group["changes"][digest] = {
                f"{start}-{stop}": lines[new_start:new_stop]
                for kind, start, stop, new_start, new_stop in matcher.get_opcodes()
                if kind != "equal"
            }
        return digest

    def get(self, name: str, digest: str) -> str | None:
        """The text with this sha256, None when only its hash was recorded."""
        group = self.groups.get(name)
        if group is None or digest not in group["changes"]:
            return None
        lines = list(group["base"])
        for span, new in sorted(group["changes"][digest].items(), key=lambda entry: -_start(entry[0])):
            start, stop = map(int, span.split("-"))
            lines[start:stop] = new
        return "".join(lines)

    def keep(self, used: set[tuple[str, str]]) -> Texts:
        """A store of only these (file name, sha256), with a text of typical length as the base of each name."""
        kept = Texts()
        for name in sorted({name for name, _ in used}):
            texts = [self.get(name, digest) for _, digest in sorted(entry for entry in used if entry[0] == name)]
            by_length = sorted((text for text in texts if text is not None), key=len)
            middle = len(by_length) // 2
            for text in by_length[middle:] + by_length[:middle]:
                kept.add(name, text)
        return kept

    def save(self, path: Path = FILE) -> None:
        """Writes the store as JSON."""
        path.write_text(json.dumps(self.groups, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path = FILE) -> Texts:
    """The recorded texts, none before the first recording."""
    return Texts(json.loads(path.read_text("utf-8"))) if path.is_file() else Texts()


def _start(span: str) -> int:
    return int(span.split("-")[0])
