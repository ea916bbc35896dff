"""What commands print: one JSON document on stdout, or text for people."""

from __future__ import annotations

import json
from typing import Any


def print_json(document: Any) -> None:
    """Writes one JSON document to stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def human_bytes(count: float) -> str:
    """A byte count in decimal units, as disks and hubs print it: 8.05 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
