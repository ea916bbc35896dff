"""Arguments and files that are wrong in rarer ways: an error of jaxconv's before anything is written, from each command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import jaxconv
from jaxconv.errors import JaxconvError, SourceError, TokenError, UsageError
from tests.test_load import edit

TOKENS = ["no", "yes"]
SETTINGS = "tokenizer_config.json"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "chat template a number": lambda source: edit(source / SETTINGS, chat_template=7),
    "chat template not UTF-8": lambda source: (source / "chat_template.jinja").write_bytes(b"\xff\xfe"),
    "settings in UTF-16": lambda source: (source / SETTINGS).write_bytes((source / SETTINGS).read_text().encode("utf-16")),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_inspect_refuses_what_convert_refuses(qwen3: Path, tmp_path: Path, damage: str) -> None:
    """In the same words, although only convert writes the file."""
    source, output = tmp_path / "source", tmp_path / "out"
    shutil.copytree(qwen3, source)
    DAMAGES[damage](source)
    with pytest.raises(SourceError) as by_convert:
        jaxconv.convert(source, output, classifier_from_tokens=TOKENS, backend="numpy")
    with pytest.raises(SourceError) as by_inspect:
        jaxconv.inspect(source, classifier_from_tokens=TOKENS)
    assert str(by_inspect.value) == str(by_convert.value)
    assert not output.exists()


@pytest.mark.parametrize("options", [{"scale": 1e300}, {"scale": 1e-300}, {"scale": 10**400}, {"bias": -1e39}])
def test_a_calibration_that_float32_cannot_hold(qwen3: Path, options: dict[str, float]) -> None:
    """The head would be infinite, or zero."""
    with pytest.raises(UsageError, match="float32"):
        jaxconv.inspect(qwen3, classifier_from_tokens=TOKENS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_head_that_overflows_is_not_written(qwen3: Path, tmp_path: Path, backend: str) -> None:
    """The largest scale times rows above 1 is infinite."""
    with pytest.raises(UsageError, match="too large for float32"):
        jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, scale=3.4e38, bias=3.4e38, backend=backend)
    assert not (tmp_path / "out").exists()


def test_progress_is_a_function(qwen3: Path, tmp_path: Path) -> None:
    """It is refused before it would be called, in a dry run too."""
    with pytest.raises(UsageError, match="progress is 5; expected a function or None"):
        jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, dry_run=True, progress=5)  # type: ignore[arg-type]


def test_names_that_are_not_unicode(qwen3: Path, tmp_path: Path) -> None:
    """Half of a surrogate pair is not a name; bytes that are not UTF-8 are one on Linux."""
    with pytest.raises(UsageError, match="cannot be the name of a file"):
        jaxconv.convert(qwen3, str(tmp_path / "\ud800"), classifier_from_tokens=TOKENS, backend="numpy")
    source = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(qwen3, source)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
    assert (tmp_path / "out" / "config.json").is_file()


def test_text_that_is_not_unicode_is_named(qwen3: Path, tmp_path: Path) -> None:
    """The text is at fault, not the tokenizer."""
    with pytest.raises((TokenError, UsageError), match="surrogate pair"):
        jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "\ud800"], backend="numpy")
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
    with pytest.raises(JaxconvError, match="surrogate pair"):
        jaxconv.load(tmp_path / "out", backend="jax").score("q", ["\ud800"])
