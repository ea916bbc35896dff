"""Several real processes on one machine write the bytes of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import jaxconv
from jaxconv.cli import main
from tests.support.processes import TOKENS, convert_together, free_port, run_together, same_tree


@pytest.mark.parametrize(("size", "backend"), [(2, "jax"), (4, "numpy"), pytest.param(8, "torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["safetensors", "msgpack", "orbax"])
def test_same_bytes_as_one_process(sources: dict[str, Path], tmp_path: Path, form: str, size: int, backend: str) -> None:
    """Two, four and eight processes write the directory that one writes, and only the first prints."""
    more = ["--backend", backend, "--max-shard-size", "40KB", *(["--base", str(sources["base"])] if form == "orbax" else [])]
    assert main(["convert", str(sources[form]), str(tmp_path / "one"), *TOKENS, *more, "--quiet"]) == 0
    assert len(list((tmp_path / "one").glob("*.safetensors"))) >= 4
    first, *others = convert_together(size, sources[form], tmp_path / "all", *more)
    assert first.code == 0 and "vllm serve" in first.out, first.err
    assert [(other.code, other.out) for other in others] == [(0, "")] * (size - 1)
    assert same_tree(tmp_path / "one", tmp_path / "all")
    assert sorted(os.listdir(tmp_path)) == ["all", "one"]


def test_flags_of_convert_work_with_several_processes(untied: Path, tmp_path: Path) -> None:
    """--verify, --hash, --overwrite, links and --json do what they do in one process."""
    more = ["--backend", "torch", "--verify", "--hash", "--json", "--copy-mode", "link", "--overwrite"]
    jaxconv.convert(
        untied, tmp_path / "one", classifier_from_tokens=["no", "yes"], hash=True, copy_mode="link", backend="numpy"
    )
    jaxconv.convert(untied, tmp_path / "all", classifier_from_tokens=["No", "Yes"], backend="numpy")
    first, other = convert_together(2, untied, tmp_path / "all", *more)
    assert (first.code, other.code, other.out) == (0, 0, ""), first.err + other.err
    document = json.loads(first.out)
    assert document["verification"]["passed"] and set(document["files"].values()) == {"link", "write"}
    assert same_tree(tmp_path / "one", tmp_path / "all")
    hashed = json.loads((tmp_path / "all" / "jaxconv.json").read_text())["sha256"]
    files = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert set(hashed) == files - {"jaxconv.json"} and set(document["files"]) < files
    assert sorted(os.listdir(tmp_path)) == ["all", "one"]


def test_dry_run_writes_nothing(untied: Path, tmp_path: Path) -> None:
    """With --dry-run the processes agree and write nothing."""
    first, other = convert_together(2, untied, tmp_path / "out", "--dry-run", "--json", "--backend", "numpy")
    assert (first.code, other.code, other.out) == (0, 0, ""), first.err + other.err
    assert json.loads(first.out)["output"] is None
    assert not os.listdir(tmp_path)


def test_a_cluster_is_detected(untied: Path, tmp_path: Path) -> None:
    """--distributed alone takes coordinator, number and rank from the job that the processes run in (Slurm's variables)."""
    jaxconv.convert(untied, tmp_path / "one", classifier_from_tokens=["no", "yes"], backend="numpy")
    command = ["-m", "jaxconv", "convert", str(untied), str(tmp_path / "all"), *TOKENS, "--distributed", "--backend", "numpy"]
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    ended = run_together([command] * 2, [job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)])
    assert [process.code for process in ended] == [0, 0], ended
    assert same_tree(tmp_path / "one", tmp_path / "all")
