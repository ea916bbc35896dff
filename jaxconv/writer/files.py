"""Writes the files that are not weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Writes and syncs each file, in order.

    Args:
        files: Name, relative to the directory -> content.
        directory: An existing directory.
    """
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
