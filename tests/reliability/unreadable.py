"""Runs commands of jaxconv with one file unreadable at a time: `python -m tests.reliability.unreadable DIRECTORY`.

Prints one JSON list: of each case the file, the exit code, and what was said. The process gives up the rights of root over
files first, so that a mode of 000 means to it what it means to an ordinary user.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jaxconv.conversion  # noqa: F401 (forks share what is imported)
from jaxconv.cli import main
from tests.support.conversions import TOKENS

VERSION_3, OVERRIDE, SEARCH = 0x20080522, 1, 2  # linux/capability.h


def become_ordinary() -> None:
    """Gives up the capabilities to pass over the modes of files."""
    header, sets = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << OVERRIDE | 1 << SEARCH)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """The file or directory without any right."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


def run(arguments: Sequence[str], said: Path) -> int:
    """The exit code of a command in a fork, its output in a file."""
    child = os.fork()
    if child == 0:
        to = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, 1)
        os.dup2(to, 2)
        code = 99
        try:
            code = main(list(arguments))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def commands(directory: Path, scratch: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each file that a command reads, and the command."""
    base = ["--base", str(directory / "safetensors")]
    for name, flags in (("safetensors", []), ("msgpack", []), ("orbax", base)):
        source = directory / name
        for path in [source, *sorted(source.rglob("*"))]:
            if name != "orbax" or path.name in ("orbax", "_METADATA", "manifest.ocdbt", "d", "ocdbt.process_0"):
                yield path, ["convert", str(source), str(scratch / "out"), *TOKENS, *flags, "--quiet"]
    adapter = directory / "adapter"
    for path in (adapter / "adapter_config.json", adapter / "adapter_model.safetensors"):
        yield path, ["inspect", str(directory / "safetensors"), *TOKENS[:2], "--adapter", str(adapter)]
    output = directory / "output"
    for path in sorted(output.iterdir()):
        yield path, ["verify", str(directory / "safetensors"), str(output), "--structure-only"]
    yield (
        directory / "template.jinja",
        ["inspect", str(directory / "safetensors"), *TOKENS[:2], "--template", str(directory / "template.jinja")],
    )
    pairs = ["score", str(output), "--backend", "numpy", "--pairs", str(directory / "pairs.jsonl")]
    yield directory / "pairs.jsonl", pairs


def cases(directory: Path, scratch: Path) -> Iterator[dict[str, object]]:
    """Every case, run."""
    for path, arguments in commands(directory, scratch):
        with unreadable(path):
            code = run(arguments, scratch / "said")
        left = sorted(entry.name for entry in scratch.iterdir() if entry.name not in ("said", "out"))
        published = (scratch / "out").exists()
        if published:
            shutil.rmtree(scratch / "out")
        said = (scratch / "said").read_text(errors="replace")
        yield {"file": str(path), "command": arguments[0], "code": code, "said": said, "left": left, "published": published}


if __name__ == "__main__":
    become_ordinary()
    place = Path(sys.argv[1])
    (place / "scratch").mkdir()
    print(json.dumps(list(cases(place, place / "scratch"))))
