"""Disks that fail while a source is read, and files that are cut under a mapping, in real processes.

A shim in C makes one file's bytes unreadable from an offset on; every test holds that it really was in the way.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.reliability import sources
from tests.support.conversions import TOKENS, convert, digests, names, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
SHIM = Path(__file__).parent / "failing_reads.c"


@dataclass(frozen=True)
class Fault:
    """One file of a source that cannot be read, and how it is converted.

    Attributes:
        source: The source's folder.
        file: The pattern of the file; the largest one counts.
        offset: The first byte that cannot be read.
        functions: Of these at least one must have failed.
        options: The options of the conversion.
        maps: Whether mapping the bytes fails, and not reading them.
    """

    source: str
    file: str
    offset: int
    functions: set[str]
    options: dict[str, Any] = field(default_factory=dict)
    maps: bool = False


COPIES = {"copy_file_range", "sendfile", "sendfile64", "pread", "pread64"}
READS = {"read", "pread", "pread64", "readv", "preadv", "preadv64", "preadv2", "preadv64v2"}
FAULTS = {
    "copy": Fault("safetensors", "model-00002-*", 500_000, COPIES),
    "link": Fault("safetensors", "model-00004-*", 8_000, COPIES | READS, {"copy_mode": "link"}),
    "link, header": Fault("safetensors", "model-00001-*", 0, READS, {"copy_mode": "link"}),
    "rewrite": Fault("safetensors", "model-00002-*", 500_000, READS, {"dtype": "float32"}),
    "config": Fault("safetensors", "config.json", 0, READS),
    "tokenizer": Fault("safetensors", "tokenizer.json", 100, READS),
    "msgpack": Fault("msgpack", "*.msgpack", 500_000, COPIES | READS),
    "msgpack, mapped": Fault("msgpack", "*.msgpack", 500_000, {"mmap", "mmap64"}, maps=True),
    "msgpack, first byte": Fault("msgpack", "*.msgpack", 0, READS),
    "orbax": Fault("orbax", "ocdbt.process_0/d/*", 0, READS, {"base": "safetensors"}),
    "orbax, tree": Fault("orbax", "_METADATA", 0, READS, {"base": "safetensors"}),
    "orbax, database": Fault("orbax", "manifest.ocdbt", 0, READS, {"base": "safetensors"}),
    "torch": Fault("torch", "pytorch_model.bin", 0, READS),
    "torch, mapped": Fault("torch", "pytorch_model.bin", 1_000_000, {"mmap", "mmap64"}, maps=True),
}

QUICK = ("copy", "rewrite", "msgpack", "msgpack, mapped", "orbax")  # the others run in `make test-slow`


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, compiled. Without a compiler this fails: a test that is skipped shows nothing."""
    library = tmp_path_factory.mktemp("shim") / "failing_reads.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every container."""
    directory = tmp_path_factory.mktemp("sources")
    sources.main(directory)
    shutil.copytree(directory / "whole", directory / "torch", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(directory / "whole" / "model.safetensors"), directory / "torch" / "pytorch_model.bin")
    return directory


def options_of(fault: Fault, folders: Path) -> dict[str, Any]:
    """The options of the call, paths filled in."""
    return {key: folders / value if key == "base" else value for key, value in fault.options.items()}


def flags_of(options: dict[str, Any]) -> list[str]:
    """The same on the command line."""
    return [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS])
def test_bytes_that_cannot_be_read(name: str, folders: Path, shim: Path, tmp_path: Path) -> None:
    """Exit code 1, a message with file and reason, nothing published; the next run sweeps and succeeds."""
    fault = FAULTS[name]
    source, output, log = folders / fault.source, tmp_path / "place" / "out", tmp_path / "log"
    output.parent.mkdir()
    file = max(source.glob(fault.file), key=lambda path: path.stat().st_size)
    environment = {"LD_PRELOAD": str(shim), "FAULT_FILE": str(file), "FAULT_OFFSET": str(fault.offset), "FAULT_LOG": str(log)}
    environment |= {"FAULT_MMAP": "1"} if fault.maps else {}
    options = options_of(fault, folders)
    command = [sys.executable, "-m", "jaxconv", "convert", str(source), str(output), *TOKENS, *flags_of(options), "--quiet"]
    failed = run(command, env=os.environ | environment)
    fired = set(log.read_text().split()) if log.exists() else set()
    assert fired & fault.functions, f"the shim was not in the way: {fired}"
    assert failed.returncode == 1, failed.stderr
    assert file.name in failed.stderr and "Input/output error" in failed.stderr and "Traceback" not in failed.stderr
    assert not output.exists()
    convert(source, output, **options)
    assert names(output.parent) == ["out"]
    convert(source, tmp_path / "other", **options)
    assert digests(output) == digests(tmp_path / "other")


def test_the_shim_changes_nothing_else(folders: Path, shim: Path, tmp_path: Path) -> None:
    """With a file that nobody reads, a conversion under the shim gives the same bytes."""
    (tmp_path / "unread").write_text("x")
    environment = {"LD_PRELOAD": str(shim), "FAULT_FILE": str(tmp_path / "unread"), "FAULT_OFFSET": "0", "FAULT_MMAP": "1"}
    source = folders / "safetensors"
    command = [sys.executable, "-m", "jaxconv", "convert", str(source), str(tmp_path / "out"), *TOKENS, "--quiet"]
    assert run(command, env=os.environ | environment).returncode == 0
    convert(source, tmp_path / "other")
    assert digests(tmp_path / "out") == digests(tmp_path / "other")


# Runs the command line and cuts a file at a report of progress of the given rank.
CUT = """
import contextlib, os, sys
import jaxconv.cli.convert as command
from jaxconv.cli import main
rank, path = int(sys.argv[1]), sys.argv[2]
calls = 0
def progress(done, total):
    global calls
    calls += 1
    if calls == rank:
        os.truncate(path, 4096)
command.progress_bar = lambda quiet: contextlib.nullcontext(progress)
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A msgpack source whose kernels are transposed out of their mapping in many blocks of 4 MB."""
    import flax.serialization

    from tests.support.tiny import tiny_checkpoint
    from tests.support.trees import as_tree

    directory = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 512, "intermediate_size": 32_768, "num_hidden_layers": 1}
    whole = tiny_checkpoint(directory / "whole", "llama", tie=False, **sizes)
    tree = as_tree(whole)
    shutil.copytree(whole, directory / "msgpack", ignore=shutil.ignore_patterns("*.safetensors*"))
    (directory / "msgpack" / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    return directory / "msgpack"


@pytest.mark.slow
def test_a_source_that_is_cut_under_its_mapping(wide: Path, tmp_path: Path) -> None:
    """An error, or death by SIGBUS: nothing is published either way, and the next run sweeps and succeeds."""
    codes = []
    for rank in (2, 4, 7, 10, 14):
        place = tmp_path / str(rank)
        source = shutil.copytree(wide, place / "source")
        (place / "outputs").mkdir()
        output = place / "outputs" / "out"
        happening = [sys.executable, "-c", CUT, str(rank), str(source / "flax_model.msgpack")]
        ended = run([*happening, "convert", str(source), str(output), *TOKENS])
        codes.append(ended.returncode)
        assert ended.returncode in (1, -signal.SIGBUS), ended.stderr
        assert not output.exists()
        if ended.returncode == 1:
            assert "flax_model.msgpack" in ended.stderr and "Traceback" not in ended.stderr
    assert -signal.SIGBUS in codes, codes  # the mapping was really cut while it was read
    shutil.copy(wide / "flax_model.msgpack", source)
    convert(source, output)
    assert names(output.parent) == ["out"]
    convert(shutil.copytree(wide, tmp_path / "copy" / "source"), tmp_path / "other")
    assert digests(output) == digests(tmp_path / "other")
