"""Runs a case through the public surface of jaxconv, and reads what it wrote."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxconv
from tests.golden.cases import COMMIT, SMOLLM2, Case
from tests.golden.sources import build, digest, unpack

ROOT = Path(__file__).parents[2]
TEXT_BYTES = 100_000  # longer texts, such as a real tokenizer, are compared by their hash alone


@dataclass(frozen=True)
class File:
    """One file of an output: its sha256, and its text where it is a short text."""

    sha256: str
    text: str | None


@dataclass(frozen=True)
class Output:
    """What a case read and wrote: the digest of its source and its files by name."""

    source: str
    files: dict[str, File]


@dataclass(frozen=True)
class Inputs:
    """The folders of a case. `cache` is the hub's cache where the case has a hub id."""

    source: Path
    base: Path | None = None
    adapter: Path | None = None
    template: Path | None = None
    cache: Path | None = None


def run(case: Case, folder: Path) -> Output:
    """Builds the sources of a case in `folder`, converts, and reads the output."""
    inputs = _inputs(case, folder)
    source = digest(*(path for path in (inputs.source, inputs.base, inputs.adapter) if path is not None))
    output = folder / "output"
    {"convert": _convert, "command": _command, "convert_params": _convert_params}[case.run](case, inputs, output)
    files = {path.relative_to(output).as_posix(): _read(path) for path in output.rglob("*") if path.is_file()}
    return Output(source, files)


def _inputs(case: Case, folder: Path) -> Inputs:
    if case.source == SMOLLM2:
        from examples.smollm2 import checkpoint

        return Inputs(checkpoint())
    cache = None if case.hub_id is None else folder / "cache"
    named = folder / "source"
    if case.hub_id is not None:
        repository = folder / "cache" / f"models--{case.hub_id.replace('/', '--')}"
        named = repository / "snapshots" / COMMIT
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
    template = None if case.template is None else folder / "template.jinja"
    if template is not None and case.template is not None:
        template.write_bytes(case.template.encode())
    adapter = None if case.adapter is None else build(case.adapter, folder / "adapter")
    built = build(case.source, named)
    if case.fixture is not None:
        return Inputs(unpack(case.fixture, folder / "fixture"), built, adapter, template, cache)
    return Inputs(built, None, adapter, template, cache)


def _keywords(case: Case, inputs: Inputs) -> dict[str, Any]:
    paths = {"adapter": inputs.adapter, "template": inputs.template}
    return {**case.options, **{key: path for key, path in paths.items() if path is not None}}


def _convert(case: Case, inputs: Inputs, output: Path) -> None:
    base = {} if inputs.base is None else {"base": inputs.base}
    jaxconv.convert(inputs.source, output, **{"backend": "numpy", **base, **_keywords(case, inputs)})


def _convert_params(case: Case, inputs: Inputs, output: Path) -> None:
    from tests.support.trees import as_tree

    jaxconv.convert_params(as_tree(inputs.source), output, base=inputs.source, **_keywords(case, inputs))


def _command(case: Case, inputs: Inputs, output: Path) -> None:
    """`python -m jaxconv convert` in the project's folder, offline."""
    source, base = str(inputs.source), None if inputs.base is None else str(inputs.base)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if case.hub_id is not None:
        environment["HF_HUB_CACHE"] = str(inputs.cache)
        source, base = (case.hub_id, None) if base is None else (source, case.hub_id)
    command = [sys.executable, "-m", "jaxconv", "convert", source, str(output), "--quiet", *case.flags]
    for flag, value in (("--base", base), ("--adapter", inputs.adapter), ("--template", inputs.template)):
        command += [] if value is None else [flag, str(value)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr}"


def _read(path: Path) -> File:
    if path.suffix == ".safetensors" or path.stat().st_size > TEXT_BYTES:
        with path.open("rb") as file:
            return File(hashlib.file_digest(file, "sha256").hexdigest(), None)
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return File(hashlib.sha256(content).hexdigest(), None)
    return File(hashlib.sha256(content).hexdigest(), text)
