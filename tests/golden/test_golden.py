"""Every byte that jaxconv writes is the recorded one, apart from what ALLOWED names.

To allow a change, add a line to ALLOWED: (pattern of case names, "FILE") for a whole file, new and missing ones included,
(pattern, "FILE: key PATH") for one key of a JSON file, whose other keys are compared as before (keys of nested objects are
joined by a slash), or (pattern, "FILE: added LINES") for lines that a text gained, whose other lines are compared as before.
The reason says which fault was fixed. `tests/golden/__init__.py` says how to record.
"""

from __future__ import annotations

import tempfile
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from jaxconv.bundle.local_use import ANOTHER_WAY
from jaxconv.bundle.quantisation import ONLINE
from tests.golden.cases import Case, cases, smollm2_cases
from tests.golden.comparison import Allowed, Comparison, compare, recorded, recorded_texts
from tests.golden.conversion import run

# Such as ("foreign/*", "jaxconv.json: key base"): "the provenance names the base".
QWEN2 = "transformers builds Qwen2's tokenizer anew, which the record did not say"
ALLOWED: Allowed = {
    ("*", f"README.md: added \n{ONLINE}\n"): "the card says what on-line quantisation in vLLM needs",
    ("*", f"README.md: added {ANOTHER_WAY}"): "the card says how CrossEncoder can load a family without a class",
    ("*", "jaxconv.json: key prompt"): "the provenance records where the prompt comes from",
    ("*", "jaxconv.json: key libraries"): "the provenance records library versions",
    ("*", "jaxconv.json: key base"): "the provenance records id and revision, or the name, of the base",
    ("*", "jaxconv.json: key sha256"): "--hash covers every file of the output, not only the weights",
    ("*three-tokens", "jaxconv.json: key activation"): "several labels get softmax; the record claimed sigmoid",
    ("*three-tokens", "README.md"): "several labels get softmax; the card claimed sigmoid",
    ("method/two-labels", "jaxconv.json: key activation"): "several labels get softmax; the record claimed sigmoid",
    ("method/two-labels", "README.md"): "several labels get softmax; the card claimed sigmoid",
    ("method/two-labels-identity", "config.json: key sentence_transformers"): "identity was dropped for several labels",
    ("method/two-labels-identity", "config_sentence_transformers.json: key activation_fn"): "as above",
    **{
        (case, f"model-0000{number}-of-00004.safetensors"): "loaders expect the metadata format pt"
        for case in ("container/mlx*", "container/no-metadata*")
        for number in (1, 2, 3)
    },
    ("*qwen2-*", "jaxconv.json: key warnings"): QWEN2,
    ("*qwen2-*", "README.md"): QWEN2,
    ("preset/mxbai*", "jaxconv.json: key warnings"): QWEN2,
    ("preset/mxbai*", "README.md"): QWEN2,
    ("preset/calibrated-twice", "jaxconv.json: key warnings"): QWEN2,
    ("preset/calibrated-twice", "README.md"): QWEN2,
    ("tokenizer/no-settings", "jaxconv.json: key warnings"): QWEN2,
    ("tokenizer/no-settings", "README.md"): QWEN2,
    (
        "tokenizer/no-settings",
        "config.json: key pad_token_id",
    ): "without settings transformers takes its class's own pad token",
    ("tokenizer/no-settings", "tokenizer_config.json"): "as above, so none is added",
}

CASES, SMOLLM2 = cases(), smollm2_cases()
NEED_TORCH = ("backend/torch*", "container/bin*")


def with_marks(case: Case) -> object:
    """The case, marked if it needs PyTorch."""
    marks = [pytest.mark.torch] if any(fnmatch(case.name, pattern) for pattern in NEED_TORCH) else []
    return pytest.param(case, id=case.name, marks=marks)


BY_NAME = pytest.mark.parametrize("case", [with_marks(case) for case in CASES])
BY_NAME_SMOLLM2 = pytest.mark.parametrize("case", SMOLLM2, ids=lambda case: case.name)


@cache
def compared(case: Case) -> Comparison:
    """The comparison of a case, made once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        output = run(case, Path(folder))
    return compare(case.name, output, recorded()[case.name], recorded_texts(), ALLOWED)


def check(case: Case) -> None:
    """Fails with every difference of a case."""
    differences = compared(case).differences
    if differences:
        pytest.fail("\n\n".join([f"{case.name} is not as recorded.", *differences]), pytrace=False)


@BY_NAME
def test_output_is_as_recorded(case: Case) -> None:
    """A conversion of a tiny model writes the recorded files, byte for byte."""
    check(case)


@BY_NAME_SMOLLM2
def test_output_of_the_demo_is_as_recorded(case: Case) -> None:
    """The demo's conversion of SmolLM2 writes the recorded files, byte for byte."""
    check(case)


def test_every_case_has_a_record() -> None:
    """No case without a record would be compared with nothing, and no record without a case be left behind."""
    assert {case.name for case in (*CASES, *SMOLLM2)} == set(recorded())


def test_every_allowance_is_needed() -> None:
    """An allowance without which all cases would pass is removed from the table."""
    unused = [entry for entry in ALLOWED if not any(entry in compared(case).used for case in _matching(entry[0]))]
    assert not unused, f"these entries of ALLOWED allow a difference that no case has; remove them: {unused}"


def _matching(pattern: str) -> list[Case]:
    return [case for case in (*CASES, *SMOLLM2) if fnmatch(case.name, pattern)]
