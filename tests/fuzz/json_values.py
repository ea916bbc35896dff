"""Gives values in a model's JSON files another type, and plans conversions until the time is up.

python -m tests.fuzz.json_values [--seconds 60] [--seed 0]

Whatever type a value has, `jaxconv.inspect` must end in a result or a JaxconvError. All findings are printed, each place
of the code once, with the change that led to it.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxconv
from jaxconv.errors import JaxconvError
from tests.fuzz.target import damaged_bytes

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\ud800", "../../x", [], [[]], [None],
    ["x"], {}, {"a": 1}, {"": {}}, [1] * 1000,
)  # fmt: skip
# Values of each type that lie at an end of what it can be.
EDGES: tuple[Any, ...] = (
    0, -1, 1, 2, 2**31, 2**32 - 1, 2**32, 2**63, 10**9, True, False, 0.0, -1.0, 1e308, -1e-300, "", " ", "\0", "▁",
    "a" * 3000, "(", "(a+)+$", "\\p{Han}", "􏿿", "<s>", [], {},
)  # fmt: skip
Place = tuple[Any, Any]  # a container, and a key or index in it


def places(document: Any) -> Iterator[Place]:
    """Every value of a document."""
    entries = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in list(entries):
        yield document, key
        yield from places(value)


def change(document: Any, dice: random.Random) -> tuple[Any, str]:
    """A document with one value of another type, and what was done."""
    value = copy.deepcopy(dice.choice(VALUES))  # which a later change may change again
    choices = list(places(document))
    top = [place for place in choices if place[0] is document]
    if not choices or dice.random() < 0.02:
        return value, f"the whole document = {value!r:.60}"
    container, key = dice.choice(dice.choice((choices, top or choices)))
    container[key] = value
    return document, f"{key!r:.60} = {value!r:.60}"


def exchange(document: Any, dice: random.Random) -> None:
    """Gives one value of a document another value of its own type, which gets further than one of another type."""
    choices = list(places(document))
    if not choices:
        return
    container, key = dice.choice(choices)
    kind = type(container[key])
    others = [at[index] for at, index in choices if type(at[index]) is kind]
    edges = [value for value in EDGES if type(value) is kind]
    container[key] = copy.deepcopy(dice.choice(dice.choice((others, edges or others))))


def damaged_json(raw: bytes, dice: random.Random) -> bytes:
    """A JSON file with values of other types, or with damaged bytes."""
    if dice.random() < 0.15:
        return damaged_bytes(raw, dice)
    document = json.loads(raw)
    alike = dice.random() < 0.4
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if alike:
            exchange(document, dice)
        else:
            document, _ = change(document, dice)
    return json.dumps(document).encode("utf-8", "replace")


def make(root: Path) -> tuple[Path, Path]:
    """A sharded model with every JSON file that jaxconv reads, and an adapter of it."""
    from tests.support.tiny import tiny_checkpoint  # which takes seconds to import
    from tests.test_adapter import trained

    model = tiny_checkpoint(root / "model", "qwen3", tie=True, shards=3)
    adapter = trained(model, root / "adapter", rank_pattern={"v_proj": 2})
    (model / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}, "eos_token": "</s>"}))
    (model / "added_tokens.json").write_text(json.dumps({"<pad>": 0}))
    modules = [("", "Transformer"), ("1_LogitScore", "LogitScore")]
    records = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (model / "modules.json").write_text(json.dumps(records))
    (model / "1_LogitScore").mkdir()
    (model / "1_LogitScore/config.json").write_text(json.dumps({"true_token_id": 6, "false_token_id": 5}))
    return model, adapter


def case(root: Path, number: int, seed: int) -> tuple[str, str] | None:
    """One changed file: (where it was raised, what happened) of a finding, else None."""
    dice = random.Random(f"{seed} {number}")
    files = sorted(path for name in ("model", "adapter") for path in (root / name).rglob("*.json"))
    path = dice.choice(files)
    raw = path.read_bytes()
    document, what = change(json.loads(raw), dice)
    path.write_bytes(json.dumps(document).encode("utf-8", "replace"))
    try:
        options: dict[str, Any] = {"adapter": root / "adapter"} if "adapter" in str(path.relative_to(root)) else {}
        if dice.random() < 0.7:
            options["classifier_from_tokens"] = ["no", "yes"]
        jaxconv.inspect(root / "model", **options)
    except JaxconvError:
        return None
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "jaxconv" in frame.filename]
        place = f"{frames[-1].filename.split('jaxconv/')[-1]}:{frames[-1].lineno} {type(error).__name__}"
        return place, f"case {number}: {path.relative_to(root)}: {what}: {error!r:.200}"
    finally:
        path.write_bytes(raw)
    return None


def main() -> int:
    """Runs until the time is up; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    findings: dict[str, str] = {}
    root = Path(tempfile.mkdtemp())
    try:
        make(root)
        end, number = time.monotonic() + arguments.seconds, 0
        while time.monotonic() < end:
            finding = case(root, number, arguments.seed)
            if finding is not None:
                findings.setdefault(*finding)
            number += 1
    finally:
        shutil.rmtree(root)
    for place, what in findings.items():
        print(f"{place}: {what}")
    print(f"{number} cases, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
