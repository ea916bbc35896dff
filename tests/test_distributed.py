"""Several real processes on one machine: the bytes of one process, or an error on all of them and nothing left."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxconv
from jaxconv.cli import main
from jaxconv.distributed import links
from jaxconv.errors import JaxconvError, ProcessError
from jaxconv.writer.plan import SCORE_FILE, OutputFile, assign
from tests.support.processes import Ended, flags, free_port, run_together
from tests.support.refs import array_ref
from tests.support.tiny import tiny_checkpoint
from tests.support.trees import as_tree

TOKENS = ["--classifier-from-tokens", '["no","yes"]']


def same_tree(one: Path, other: Path) -> bool:
    """Whether two folders have the same files with the same bytes."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*"))
    assert len(names) > 5 and names == sorted(str(path.relative_to(other)) for path in other.rglob("*"))
    files = [name for name in names if (one / name).is_file()]
    return filecmp.cmpfiles(one, other, files, shallow=False) == (files, [], [])


def convert_together(size: int, source: Path, output: Path, *more: str) -> list[Ended]:
    """`jaxconv convert` in `size` processes."""
    port = free_port()
    command = ["-m", "jaxconv", "convert", str(source), str(output), *TOKENS, *more]
    return run_together([[*command, *flags(rank, size, port)] for rank in range(size)])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, untied: Path) -> dict[str, Path]:
    """The same weights as safetensors shards, as flax msgpack, and as an Orbax checkpoint saved from two devices' shards."""
    import flax.serialization
    import orbax.checkpoint as ocp

    folder = tmp_path_factory.mktemp("sources")
    whole = tiny_checkpoint(folder / "whole", "llama", tie=False)
    tree = as_tree(whole)
    shutil.copytree(whole, folder / "msgpack", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "msgpack" / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    code = (
        "import sys, jax, orbax.checkpoint as ocp; from pathlib import Path; from tests.support.trees import as_tree; "
        "from jax.sharding import NamedSharding, PartitionSpec as P; mesh = jax.make_mesh((2,), ('x',)); "
        "put = lambda x: jax.device_put(x, NamedSharding(mesh, P('x') if x.ndim == 2 else P())); "
        "saver = ocp.StandardCheckpointer(); "
        "saver.save(Path(sys.argv[2]), jax.tree.map(put, as_tree(Path(sys.argv[1])))); saver.wait_until_finished()"
    )
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    [saved] = run_together([["-c", code, str(whole), str(folder / "orbax")]], [two])
    assert saved.code == 0, saved.err
    assert ocp.StandardCheckpointer().metadata(folder / "orbax") is not None
    return {"safetensors": untied, "msgpack": folder / "msgpack", "orbax": folder / "orbax", "base": whole}


@pytest.mark.parametrize(("size", "backend"), [(2, "jax"), (4, "numpy")])
@pytest.mark.parametrize("form", ["safetensors", "msgpack", "orbax"])
def test_same_bytes_as_one_process(sources: dict[str, Path], tmp_path: Path, form: str, size: int, backend: str) -> None:
    """Two and four processes write the folder that one writes, and only the first speaks."""
    more = ["--backend", backend, "--max-shard-size", "40KB", *(["--base", str(sources["base"])] if form == "orbax" else [])]
    assert main(["convert", str(sources[form]), str(tmp_path / "one"), *TOKENS, *more, "--quiet"]) == 0
    assert len(list((tmp_path / "one").glob("*.safetensors"))) >= 4
    first, *others = convert_together(size, sources[form], tmp_path / "all", *more)
    assert first.code == 0 and "vllm serve" in first.out, first.err
    assert [(other.code, other.out) for other in others] == [(0, "")] * (size - 1)
    assert same_tree(tmp_path / "one", tmp_path / "all")
    assert sorted(os.listdir(tmp_path)) == ["all", "one"]


def test_flags_of_convert_hold_for_all(untied: Path, tmp_path: Path) -> None:
    """--verify, --hash, --overwrite, links and --json give what one process gives: proof, digests, one document."""
    more = ["--backend", "torch", "--verify", "--hash", "--json", "--copy-mode", "link", "--overwrite"]
    jaxconv.convert(
        untied, tmp_path / "one", classifier_from_tokens=["no", "yes"], hash=True, copy_mode="link", backend="numpy"
    )
    jaxconv.convert(untied, tmp_path / "all", classifier_from_tokens=["No", "Yes"], backend="numpy")
    first, other = convert_together(2, untied, tmp_path / "all", *more)
    assert (first.code, other.code, other.out) == (0, 0, ""), first.err + other.err
    said = json.loads(first.out)
    assert said["verification"]["passed"] and set(said["files"].values()) == {"link", "write"}
    assert same_tree(tmp_path / "one", tmp_path / "all")
    assert set(json.loads((tmp_path / "all" / "jaxconv.json").read_text())["sha256"]) == set(said["files"])
    assert sorted(os.listdir(tmp_path)) == ["all", "one"]


def test_dry_run_writes_nothing(untied: Path, tmp_path: Path) -> None:
    """With --dry-run the processes agree, and leave no file."""
    first, other = convert_together(2, untied, tmp_path / "out", "--dry-run", "--json", "--backend", "numpy")
    assert (first.code, other.code, other.out) == (0, 0, ""), first.err + other.err
    assert json.loads(first.out)["output"] is None
    assert not os.listdir(tmp_path)


def test_a_cluster_is_found(untied: Path, tmp_path: Path) -> None:
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


HARM = """
import os, sys, time
import jaxconv.conversion as conversion
import jaxconv.writer.share as share
from jaxconv.cli import main
rank, victim, harm = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
real = share.write_file
def write_file(file, folder, copy_mode, advance):
    done = real(file, folder, copy_mode, advance)
    if rank == victim:
        if harm == "SIGKILL":
            os.kill(os.getpid(), 9)
        raise OSError(28, "No space left on device")
    for _ in range(600):  # the others have five minutes' work on each file
        time.sleep(0.5)
        advance(0)
    return done
share.write_file = write_file
if rank == victim and harm == "SIGKILL before":
    conversion.staged_output = lambda *_: os.kill(os.getpid(), 9)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("victim", "harm"), [(0, "SIGKILL"), (2, "SIGKILL"), (1, "SIGKILL before"), (0, "full disk"), (1, "full disk")]
)
def test_one_failure_ends_all(untied: Path, tmp_path: Path, victim: int, harm: str) -> None:
    """A process that is killed, or fails, before or after its first file: the others stop at work and say which it was."""
    port, size = free_port(), 3
    command = ["convert", str(untied), str(tmp_path / "new" / "out"), *TOKENS, "--backend", "numpy"]
    ended = run_together(
        [["-c", HARM, str(rank), str(victim), harm, *command, *flags(rank, size, port)] for rank in range(size)]
    )
    assert ended[victim].code == (1 if harm == "full disk" else -9)
    for rank in {0, 1, 2} - {victim}:
        assert ended[rank].code == 1, ended[rank]
        assert f"process {victim} on {socket.gethostname()}" in ended[rank].err and "Traceback" not in ended[rank].err
    # Folders above the output are removed by the first process, which made them.
    assert [path for path in tmp_path.rglob("*") if path.name != "new"] == []
    assert (tmp_path / "new").exists() == (victim == 0 and harm == "SIGKILL")


def wrong_sources(untied: Path, folder: Path, wrong: str) -> Path:
    """A source that is not that of the first process."""
    place = folder / "other" / untied.name
    if wrong == "values":
        return tiny_checkpoint(place, "llama", tie=False, shards=3, seed=1)
    other = shutil.copytree(untied, place)
    if wrong == "absent":
        shutil.rmtree(other)
    if wrong == "config":
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    if wrong == "backbone":
        shard = other / "model-00002-of-00004.safetensors"
        data = bytearray(shard.read_bytes())
        data[-2000:] = bytes(2000)
        shard.write_bytes(data)
    return other


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("absent", "does not exist"),
        ("values", "process 1 on HOST has another set of weights than process 0 on HOST"),
        ("backbone", "process 1 on HOST has another set of weights than process 0 on HOST"),
        ("config", "process 1 on HOST has another config.json than process 0 on HOST"),
    ],
)
def test_another_source_on_one_host(untied: Path, tmp_path: Path, wrong: str, says: str) -> None:
    """What one process finds otherwise than the first is an error of both that says what and where."""
    port = free_port()
    places = [untied, wrong_sources(untied, tmp_path, wrong)]
    (tmp_path / "at").mkdir()
    ended = run_together(
        [
            ["-m", "jaxconv", "convert", str(places[rank]), str(tmp_path / "at" / "out"), *TOKENS, "--backend", "numpy",
             *flags(rank, 2, port)]
            for rank in range(2)
        ]
    )  # fmt: skip
    for process in ended:
        assert process.code == 1 and process.out == "", process
        assert says.replace("HOST", socket.gethostname()) in process.err and "Traceback" not in process.err
    assert not os.listdir(tmp_path / "at")


def test_an_output_that_one_host_does_not_see(untied: Path, tmp_path: Path) -> None:
    """Folders of the same name that are not the same are found out before anything is written."""
    port = free_port()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    ended = run_together(
        [
            ["-m", "jaxconv", "convert", str(untied), str(tmp_path / "ab"[rank] / "out"), *TOKENS, "--backend", "numpy",
             *flags(rank, 2, port)]
            for rank in range(2)
        ]
    )  # fmt: skip
    for process in ended:
        assert process.code == 1
        assert f"host {socket.gethostname()} does not see {tmp_path / 'b'}/.out." in process.err
    assert not os.listdir(tmp_path / "a") and not os.listdir(tmp_path / "b")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--process-id", "0"], "--process-id without --distributed"),
        (["--distributed", "--num-processes", "2"], "not --coordinator, --process-id"),
        (["--distributed", *flags(2, 2, 8476)[1:]], "--process-id 2 is out of range; expected 0 to 1"),
        (["--distributed", *flags(-1, 2, 8476)[1:]], "--process-id -1 is out of range"),
        (["--distributed", *flags(0, 0, 8476)[1:]], "--num-processes 0"),
        (["--distributed", *flags(0, 2, 84760)[1:]], "'127.0.0.1:84760' is no address"),
        (["--distributed", "--coordinator", "host", "--num-processes", "2", "--process-id", "0"], "'host' is no address"),
        (["--distributed"], "found no TPU pod, Slurm, Open MPI or Kubernetes job"),
    ],
)
def test_wrong_flags(untied: Path, tmp_path: Path, given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags that do not fit together are wrong usage, said before anything is waited for."""
    assert main(["convert", str(untied), str(tmp_path / "out"), *TOKENS, "--backend", "numpy", *given]) == 2
    assert says in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def meet_all(members: list[tuple[int, int]], port: int) -> list[links.Links | JaxconvError]:
    """`meet` of (rank, size) in threads: what each got."""
    got: dict[int, links.Links | JaxconvError] = {}

    def one(number: int, rank: int, size: int) -> None:
        try:
            got[number] = links.meet("127.0.0.1", port, size, rank)
        except JaxconvError as error:
            got[number] = error

    threads = [threading.Thread(target=one, args=(number, *member)) for number, member in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [got[number] for number in range(len(members))]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([(0, 2), (1, 3)], "process 1 on .* was given --num-processes 3, process 0 on .* 2"),
        ([(0, 3), (1, 3), (1, 3)], "process 1 on .* came a second time"),
        ([(0, 3), (2, 3)], "2 of 3 processes came to 127.0.0.1:.* not process 1"),
        ([(1, 2)], "process 0 did not answer at 127.0.0.1:"),
    ],
)
def test_processes_that_do_not_belong_together(
    members: list[tuple[int, int]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other counts, a number given twice, and processes that never come are errors of all that came."""
    monkeypatch.setattr(links, "JOIN_SECONDS", 2)
    monkeypatch.setattr(links, "HELLO_SECONDS", 2)
    for got in meet_all(members, free_port()):
        assert isinstance(got, ProcessError)
        with pytest.raises(ProcessError, match=says):
            raise got


def test_strangers_are_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that speak otherwise, or not at all, are dropped, and the processes still meet."""
    monkeypatch.setattr(links, "HELLO_SECONDS", 1)
    port = free_port()
    found: list[links.Links | JaxconvError] = []
    first = threading.Thread(target=lambda: found.extend(meet_all([(0, 2)], port)))
    first.start()
    strangers = []
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x02{}", b"\0\0\0\x05[1,2]", b"\0\0\0\xff{", b""):
        stranger = connect(port)
        stranger.sendall(words)
        strangers.append(stranger)
    second = links.meet("127.0.0.1", port, 2, 1)
    first.join(30)
    assert isinstance(found[0], links.Links)
    telling = threading.Thread(target=lambda: found[0].exchange("a"))  # type: ignore[union-attr]
    telling.start()
    assert second.exchange("b") == ["a", "b"]
    telling.join(10)


def connect(port: int) -> socket.socket:
    """A connection to a listener that is about to be there."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except ConnectionRefusedError:
            continue


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), processes=st.integers(1, 9))
def test_files_are_shared_by_bytes(sizes: list[int], processes: int) -> None:
    """Every file has one owner, the same each time; loads differ by one file at most, the first's score file apart."""
    refs = [array_ref(f"t{number}", np.zeros(size, np.uint8)) for number, size in enumerate(sizes)]
    score = OutputFile(SCORE_FILE, (array_ref("score.weight", np.zeros(4, np.float32)),))
    files = [*(OutputFile(f"model-{ref.name}", (ref,)) for ref in refs), score]
    owners = assign(files, processes)
    assert owners == assign(files, processes) and owners[-1] == 0 and set(owners) <= set(range(processes))
    loads = [
        sum(file.nbytes for file, owner in zip(files, owners, strict=True) if owner == rank) for rank in range(processes)
    ]
    assert max(loads) - min(loads) <= max(sizes) + score.nbytes


LIVE = """
import sys
from pathlib import Path
import jax
rank, size, port, source, output, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), *sys.argv[5:7]
jax.distributed.initialize(f"127.0.0.1:{port}", size, rank)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxconv
import jaxconv.writer.share as share
from tests.support.trees import as_tree
assert (jax.process_count(), jax.local_device_count()) == (size, 2)
real = share.write_file
def write_file(file, *more):
    if kind == "fails":
        file.tensors[0].read()
        raise OSError(28, "No space left on device")
    return real(file, *more)
share.write_file = write_file if rank == 1 else real
axis_type = AxisType.Auto if kind == "fails" else getattr(AxisType, kind)
mesh = jax.make_mesh((size, 2), ("fsdp", "tp"), axis_types=(axis_type,) * 2)
def put(x):
    x, spec = np.asarray(x), P("fsdp", "tp") if x.ndim == 2 else P()
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])
tree = jax.tree.map(put, as_tree(source))
assert not tree["lm_head"]["kernel"].is_fully_addressable
try:
    result = jaxconv.convert_params(tree, output, base=source, classifier_from_tokens=["no", "yes"], max_shard_size="40KB")
    print(f"result:{result.process_id}/{len(result.files)}")
except jaxconv.JaxconvError as error:
    print(type(error).__name__, error)
"""


def live_together(size: int, source: Path, output: Path, kind: str) -> list[Ended]:
    """A JAX program of several processes with two devices each, that holds the parameters over all of them."""
    port = free_port()
    commands = [["-c", LIVE, str(rank), str(size), str(port), str(source), str(output), kind] for rank in range(size)]
    return run_together(commands, [{"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}] * size, timeout=240)


@pytest.mark.parametrize(("size", "kind"), [(2, "Auto"), (4, "Explicit")])
def test_live_arrays_over_processes(sources: dict[str, Path], tmp_path: Path, size: int, kind: str) -> None:
    """Parameters spread over two and four processes, each with two devices, give the bytes of one device."""
    settings = {"base": sources["base"], "classifier_from_tokens": ["no", "yes"], "max_shard_size": "40KB"}
    one = jaxconv.convert_params(as_tree(sources["base"]), tmp_path / "one", **settings)
    assert len(one.files) >= 4
    ended = live_together(size, sources["base"], tmp_path / "all", kind)
    assert [process.code for process in ended] == [0] * size, [process.err[-2000:] for process in ended]
    assert all(f"result:{rank}/{len(one.files)}" in process.out for rank, process in enumerate(ended)), ended
    assert same_tree(tmp_path / "one", tmp_path / "all")
    assert sorted(os.listdir(tmp_path)) == ["all", "one"]


def test_live_failure_of_one_process(sources: dict[str, Path], tmp_path: Path) -> None:
    """A process that cannot write goes on taking part in the gathers, so that both come to the error, and nothing is left."""
    ended = live_together(2, sources["base"], tmp_path / "out", "fails")
    assert "ProcessError process 1 on" in ended[0].out and "No space left on device" in ended[0].out, ended
    assert "OutputError writing" in ended[1].out
    assert not os.listdir(tmp_path)
