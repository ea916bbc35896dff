"""Options as people type them: with underscores, in short, and words with another name."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

import jaxconv
from jaxconv.cli import _words, main
from jaxconv.errors import UsageError
from jaxconv.head import METHODS
from jaxconv.plan import PlanOptions


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_a_short_name(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the program and of each command."""
    assert main([flag]) == 0 and main(["convert", flag]) == 0
    assert "--classifier-from-tokens" in capsys.readouterr().out


def test_the_version_has_a_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    """-V prints it alone."""
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.strip() == jaxconv.__version__


def test_a_command_of_vllms_script_works(qwen3: Path, tmp_path: Path) -> None:
    """Its underscores, and two words with another name."""
    command = ["convert", "--model_name", str(qwen3), "--path", str(tmp_path / "out"), "--method", "from_2_way_softmax"]
    command += ["--classifier_from_tokens", '["no","yes"]', "--use_sep_token", "--dtype", "BF16", "--copy_mode", "hardlink"]
    assert main([*command, "--device", "cpu", "--quiet"]) == 0
    assert main(["score", str(tmp_path / "out"), "--query", "a", "--document", "b", "--device", "cpu"]) == 0
    dtypes = {
        str(array.dtype)
        for name, array in load_file(tmp_path / "out" / "model.safetensors").items()
        if name != "score.weight"
    }
    assert dtypes == {"bfloat16"}


@pytest.mark.parametrize(("option", "word"), [("method", "two_way"), ("activation", "tanh"), ("dtype", "int8")])
def test_an_unknown_word_is_refused_before_any_file_is_read(
    option: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The source does not even exist."""
    with pytest.raises(UsageError, match=f"--{option} '{word}' is unknown; expected one of: "):
        PlanOptions(**{option: word})
    assert main(["convert", "no/such/source", "out", f"--{option}", word]) == 2
    assert f"'{word}' is unknown" in capsys.readouterr().err


def test_the_command_line_knows_the_methods_of_the_api() -> None:
    """It has a list of its own because `jaxconv.head` takes longer to import than the help takes to print."""
    assert _words.METHODS == METHODS
