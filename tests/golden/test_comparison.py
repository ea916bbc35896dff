"""The comparison finds what differs, and an allowance covers what it names and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.comparison import Comparison, Recorded, compare
from tests.golden.conversion import File, Output
from tests.golden.texts import Texts, sha256

CONFIG = {"a": 1, "nested": {"x": [1, 2], "y": "ü"}, "b": 2}
CARD = "# Title\none\ntwo\n"
CONFIG_JSON, README, WEIGHTS = "config.json", "README.md", "model.safetensors"


def dump(document: Any) -> str:
    """JSON as jaxconv formats it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def output(config: str = dump(CONFIG), card: str | None = CARD, weights: bytes = b"1", **files: str) -> Output:
    """An output of two texts and one file of weights. None leaves the card out."""
    texts = {CONFIG_JSON: config, **({} if card is None else {README: card}), **files}
    written = {name: File(sha256(text.encode()), text) for name, text in texts.items()}
    return Output("source", {**written, WEIGHTS: File(sha256(weights), None)})


def compared(now: Output, *allowed: tuple[str, str], source: str = "source") -> Comparison:
    """The comparison with the record of `output()`."""
    store, then = Texts(), output()
    for name, file in then.files.items():
        if file.text is not None:
            store.add(name, file.text)
    record: Recorded = {"source": source, "files": {name: file.sha256 for name, file in then.files.items()}}
    return compare("group/case", now, record, store, dict.fromkeys(allowed, "a reason"))


def config(**changes: Any) -> str:
    """The config with keys changed."""
    return dump({**CONFIG, **changes})


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (output(card=CARD.replace("two", "2")), ("README.md differs", "-two", "+2")),
        (output(card=CARD.rstrip()), ("README.md differs", "ends of lines")),
        (output(config=config(b=3)), ("config.json differs", '-  "b": 2', '+  "b": 3')),
        (output(config=json.dumps(CONFIG)), ("config.json differs",)),
        (output(weights=b"2"), ("model.safetensors differs: sha256 d4735e", "recorded 6b86b2")),
        (output(card=None), ("README.md is missing",)),
        (output(LICENSE="x"), ("LICENSE is new",)),
    ],
    ids=["text", "last newline", "key", "formatting", "weights", "missing", "new"],
)
def test_a_difference_names_the_file(now: Output, words: tuple[str, ...]) -> None:
    """One message for the file, with a diff where both texts are known."""
    (message,) = compared(now).differences
    assert all(word in message for word in words), message


def test_the_same_output_has_no_difference() -> None:
    """Nothing differs, and an allowance that matches is not counted as needed."""
    comparison = compared(output(), ("*", README), ("*", "config.json: key b"))
    assert comparison == Comparison()


def test_another_source_is_not_blamed_on_the_output() -> None:
    """Only the source is reported, whatever else differs."""
    (message,) = compared(output(weights=b"2"), source="another").differences
    assert message.startswith("the source differs") and "jaxconv is not to blame" in message


def test_an_allowed_file_may_change_appear_or_be_missing() -> None:
    """The entry is counted as needed; a pattern of other cases and the entry of another file are of no use."""
    for now, file in ((output(weights=b"2"), WEIGHTS), (output(card=None), README), (output(NOTICE="x"), "NOTICE")):
        assert compared(now, ("group/*", file)) == Comparison([], {("group/*", file)})
        assert len(compared(now, ("other/*", file), ("*", "vocab.json")).differences) == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (config(b=3), "b"),
        (config(nested={"x": [], "y": "ü"}), "nested/x"),
        (config(nested={"x": [1, 2], "y": "ü", "z": 0}), "nested/z"),
        (config(c=None), "c"),
        (dump({key: value for key, value in CONFIG.items() if key != "b"}), "b"),
    ],
    ids=["value", "nested", "new nested", "new", "missing"],
)
def test_an_allowed_key_covers_that_key_alone(text: str, key: str) -> None:
    """The key may differ; another key, the order of the keys and the formatting still may not."""
    entry = ("*", f"config.json: key {key}")
    assert compared(output(config=text), entry) == Comparison([], {entry})
    document = json.loads(text)
    reordered = dict(sorted(document.items(), reverse=True))
    for other in (dump({**document, "a": 2}), dump(reordered), json.dumps(document), text + "\n", "{"):
        (message,) = compared(output(config=other), entry).differences
        assert message.startswith("config.json differs")


def test_texts_are_stored_by_their_differences() -> None:
    """Every text comes back as it was, with and without a final newline; what is not used is dropped."""
    written = [CARD, CARD.rstrip(), CARD.replace("one", "1\n1.5"), "", "\r\nother\u2028text", CARD + CARD]
    store = Texts()
    digests = [store.add(README, text) for text in written]
    assert [store.get(README, digest) for digest in digests] == written
    kept = Texts(json.loads(json.dumps(store.keep({(README, digest) for digest in digests[1:]}).groups)))
    assert [kept.get(README, digest) for digest in digests] == [None, *written[1:]]


def test_added_lines_are_allowed_alone() -> None:
    """The lines that an allowance names may come in; every other change of the text is still a difference."""
    allowed = ("*", "README.md: added three\n")
    assert compared(output(card=CARD + "three\n"), allowed).differences == []
    assert compared(output(card=CARD + "three\n"), allowed).used == {allowed}
    [difference] = compared(output(card=CARD.replace("two", "2") + "three\n"), allowed).differences
    assert "+2" in difference and "three" not in difference
    [difference] = compared(output(card=CARD + "four\n"), allowed).differences
    assert "+four" in difference
