"""A bounded run of the fuzzing, proof that it can fail, and what it found."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from jaxconv.errors import SourceError
from jaxconv.text.chat_environment import RenderingError
from tests.fuzz.__main__ import DEATHS, Run, report, run
from tests.fuzz.document_seeds import DOCUMENTS
from tests.fuzz.json_values import change, damaged_json, exchange
from tests.fuzz.seeds import SEEDS
from tests.fuzz.target import Reading, Target
from tests.fuzz.targets import TARGETS, shares
from tests.fuzz.worker import PEAK, Bench, Board, outcome

ROOT = Path(__file__).parents[2]


def fuzz(*arguments: str, save: Path) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz", *arguments, "--save", str(save)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def rows(table: str) -> dict[str, list[str]]:
    """The table that a run prints, by target."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")]
    return {name: rest for name, *rest in cells}


def test_a_short_run_of_every_target(tmp_path: Path) -> None:
    """Every target reads some inputs and finds nothing, and the table says so."""
    ran = fuzz("--inputs", "3000", "--seed", "11", save=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    table = rows(ran.stdout)
    assert all(int(table[name][0].replace(",", "")) > 0 and table[name][3] == "0" for name in TARGETS)
    inputs, accepted, refused = (int(cell.replace(",", "")) for cell in table["all"][:3])
    assert inputs == accepted + refused >= 3000 and min(accepted, refused) > 500


def test_every_target_has_good_files() -> None:
    """The tables fit together, and a run of many inputs has no fewer."""
    assert {target.seed for target in TARGETS.values()} == {*SEEDS, *DOCUMENTS}
    assert sum(shares(list(TARGETS), 1_000_000).values()) >= 1_000_000


@pytest.mark.slow
def test_json_values_of_a_wrong_type() -> None:
    """Every JSON file of a model and of an adapter, one value changed: no exception but ours."""
    command = [sys.executable, "-m", "tests.fuzz.json_values", "--seconds", "6"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    assert int(ran.stdout.split(" cases")[0].splitlines()[-1]) >= 10


def bench(folder: Path, read: Reading) -> Bench:
    """A bench of one JSON file."""
    (folder / "good").mkdir()
    (folder / "good" / "a.json").write_text('{"a": 1, "b": ["c"]}')
    target = Target("none", read, 1, damage=damaged_json)
    return Bench(target, "none", 3, folder / "good")


def test_an_input_is_the_same_every_time(tmp_path: Path) -> None:
    """Seed, number and target make an input, whatever came before."""
    one = bench(tmp_path, lambda folder, damaged: None)
    first = [one.damage(number).read_bytes() for number in range(50)]
    again = [one.damage(number).read_bytes() for number in reversed(range(50))][::-1]
    assert first == again and len(set(first)) > 20


@pytest.mark.parametrize("wrong", ["error", "file", "message"])
def test_what_is_wrong_is_a_finding(tmp_path: Path, wrong: str) -> None:
    """Another exception, a file that is written and an error without a message each are findings."""

    def read(folder: Path, damaged: Path) -> None:
        if wrong == "error":
            raise ValueError("not ours")
        if wrong == "file":
            (folder / "outside").write_text("x")
        if wrong == "message":
            raise SourceError

    one = bench(tmp_path, read)
    finding = {"error": "not ours", "file": "files changed", "message": "without a message"}[wrong]
    with pytest.raises((AssertionError, ValueError), match=finding):
        outcome(one, one.damage(0))


@pytest.mark.parametrize(("taken", "is_finding"), [(PEAK + (1 << 26), True), (PEAK // 4, False)])
def test_memory_that_is_taken_is_a_finding(tmp_path: Path, taken: int, is_finding: bool) -> None:
    """In a process of its own: a test before this one may have set the peak higher than the input takes."""
    one = bench(tmp_path, lambda folder, damaged: memoryview(b"x" * taken).release())
    child = os.fork()
    if not child:
        try:
            outcome(one, one.damage(0))
            os._exit(0)
        except AssertionError as error:
            os._exit(1 if "MB" in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == is_finding


def test_findings_are_saved_and_counted(tmp_path: Path) -> None:
    """A finding is saved as it was read. The death of the process is put down to its input, and others follow."""

    def read(folder: Path, damaged: Path) -> None:
        document = json.loads(damaged.read_bytes())
        if not isinstance(document, dict):
            raise SourceError("no object")
        if document.get("a") != 1:
            raise KeyError("a")
        if document.get("b") in (None, True):
            os._exit(9)

    one = Run(bench(tmp_path, read), 150, 60)
    run([one], 1, tmp_path)
    counts = [one.board[which] for which in range(4)]
    assert counts[Board.NEXT] == sum(counts[1:]) == 150 and 0 < one.deaths < DEATHS
    lines = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    places = {line["place"] for line in lines}
    assert "the death of the process" in places and any("KeyError" in place for place in places)
    saved = json.loads((Path(lines[0]["folder"]) / lines[0]["file"]).read_text())
    assert saved != {"a": 1, "b": ["c"]}
    assert report([one], 3, tmp_path) == counts[Board.FINDINGS]


def test_a_template_that_never_ends_is_refused_by_the_limits(tmp_path: Path) -> None:
    """What stops in a process with limits is refused; only a template may need one."""
    template = tmp_path / "chat_template.jinja"
    template.write_text("{% for i in range(10**9) %}{% endfor %}{{ messages }}")
    with pytest.raises(RenderingError, match=r"more than 2 seconds|too big|OverflowError"):
        TARGETS["chat template"].read(tmp_path, template)


def test_values_of_the_same_type_and_of_others() -> None:
    """Both kinds of damage happen."""
    dice = random.Random(0)
    same = [{"a": 1, "b": 2.5, "c": "x"} for _ in range(100)]
    for document in same:
        exchange(document, dice)
    assert all([type(value) for value in document.values()] == [int, float, str] for document in same)
    assert len({document["a"] for document in same}) > 5
    other = [change({"a": 1, "b": 2.5}, dice)[0] for _ in range(100)]
    assert {int, str, list, dict} <= {
        type(document["a"]) for document in other if isinstance(document, dict) and "a" in document
    }
