"""The command line: vLLM's flags, JSON, exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import jaxconv
from jaxconv.cli import main
from jaxconv.cli.presets import table
from jaxconv.presets import presets
from tests.support.tiny import tiny_checkpoint

TOKENS = '["no","yes"]'


def test_vllms_flags_work(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flags of vLLM's script give what ours give."""
    theirs = ["--model_name", str(qwen3), "--path", str(tmp_path / "a"), "--classifier_from_tokens", TOKENS]
    assert main(["convert", *theirs, "--method", "from_2_way_softmax", "--use-pad-token", "--backend", "numpy"]) == 0
    ours = ["convert", str(qwen3), str(tmp_path / "b"), "--classifier-from-tokens", TOKENS, "--use-sep-token"]
    assert main([*ours, "--backend", "numpy"]) == 0
    for path in (entry for entry in (tmp_path / "a").rglob("*") if entry.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    assert json.loads((tmp_path / "a" / "config.json").read_text())["use_pad_token"] is True
    assert "false first, true second" in capsys.readouterr().out


def test_json_is_one_document(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one document and nothing else."""
    arguments = ["convert", str(qwen3), str(tmp_path / "out"), "--classifier-from-tokens", TOKENS, "--json"]
    assert main([*arguments, "--backend", "numpy"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["convertible"] and document["tokens"][1]["text"] == "yes" and document["backend"] == "numpy"


def test_inspect_shows_the_rendered_prompt(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People see each line, the empty one after a final newline included; a file's own last newline is no content."""
    template = tmp_path / "prompt.jinja"
    template.write_text("Query: {{ query }}\nDocument: {{ document }}\nAnswer:\n\n")
    assert main(["inspect", str(qwen3), "--classifier-from-tokens", TOKENS, "--template", str(template)]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(
        "  |Query: what is the capital of France?|\n  |Document: Paris is the capital of France.|\n  |Answer:|\n  ||\n"
    )


def test_inspect_has_the_documented_keys(qwen3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect --json` has every key of the contract, with tokens and without."""
    keys = {
        *("source", "format", "layout", "model_type", "architecture", "target_architecture", "num_parameters", "bytes"),
        *("dtype", "lm_head", "preset", "method", "tokens", "logit_transform", "convertible", "refusals", "warnings"),
    }
    assert main(["inspect", str(qwen3), "--json", "--classifier-from-tokens", TOKENS]) == 0
    full = json.loads(capsys.readouterr().out)
    assert keys <= full.keys() and full["convertible"] and full["lm_head"]["tied"]
    assert main(["inspect", str(qwen3), "--json"]) == 0
    bare = json.loads(capsys.readouterr().out)
    assert keys <= bare.keys() and not bare["convertible"] and "no tokens" in bare["refusals"][0]
    assert bare["target_architecture"] == "Qwen3ForSequenceClassification" and bare["lm_head"]["tied"]


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`presets` lists names, and one in full."""
    assert main(["presets", "--json"]) == 0
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert {"qwen3-reranker", "mxbai-rerank-base-v2", "bge-reranker-v2-gemma"} <= names
    assert main(["presets", "qwen3-reranker"]) == 0
    assert "9693" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "code"), [("1\n", 0), ("\n", 1), ("9\n", 1)])
def test_a_terminal_is_asked_which_reranker_it_is(tmp_path: Path, answer: str, code: int) -> None:
    """A number takes that preset of the architecture, anything else none; nothing is converted without an answer."""
    source = tiny_checkpoint(tmp_path / "source", "gemma")
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-m", "jaxconv", "convert", str(source), str(tmp_path / "out"), "--backend", "numpy"]
    os.write(keyboard, answer.encode())
    found = subprocess.run(command, stdin=terminal, stderr=terminal, stdout=subprocess.PIPE, check=False)
    said = os.read(keyboard, 1 << 16).decode()
    assert "1  bge-reranker-v2-gemma (BAAI/bge-reranker-v2-gemma; Yes)" in said and found.returncode == code
    if code == 0:
        assert json.loads((tmp_path / "out/jaxconv.json").read_text())["preset"] == "bge-reranker-v2-gemma"
    else:
        assert "no tokens were given" in said and not (tmp_path / "out").exists()


def test_without_a_terminal_the_presets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a script the same source is an error that names the presets of its architecture."""
    source = tiny_checkpoint(tmp_path / "source", "gemma")
    assert main(["convert", str(source), str(tmp_path / "out"), "--backend", "numpy"]) == 1
    assert "Presets of architecture GemmaForCausalLM: bge-reranker-v2-gemma" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nonsense"], 2), (["convert", "--nonsense"], 2)])
def test_exit_codes(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """0 done, 2 wrong usage."""
    assert main(arguments) == code


def test_a_link_that_cannot_be_is_a_copy_and_said(
    untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Across file systems --copy-mode link copies, with the same bytes, and says so."""

    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    arguments = ["convert", str(untied), "--classifier-from-tokens", TOKENS, "--copy-mode", "link", "--backend", "numpy"]
    assert main([*arguments[:2], str(tmp_path / "linked"), *arguments[2:]]) == 0
    assert "copied instead" not in capsys.readouterr().out
    monkeypatch.setattr(os, "link", refuse)
    assert main([*arguments[:2], str(tmp_path / "copied"), *arguments[2:]]) == 0
    assert "cannot link from the source; those files were copied instead" in capsys.readouterr().out
    for path in (entry for entry in (tmp_path / "linked").rglob("*") if entry.is_file()):
        assert path.read_bytes() == (tmp_path / "copied" / path.relative_to(tmp_path / "linked")).read_bytes()


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_of_presets_cuts_nothing(width: int) -> None:
    """On a narrow terminal names and ids go on in the next line and keep all their characters."""
    printed = StringIO()
    Console(file=printed, width=width).print(table(presets()))
    cells = [[cell.strip() for cell in line.split("│")[1:5]] for line in printed.getvalue().splitlines() if "│" in line]
    names, ids = ("".join(row[column] for row in cells) for column in (0, 3))
    assert all(preset.name in names for preset in presets())
    assert all(hub_id in ids for preset in presets() if not preset.refusal for hub_id in preset.hub_ids)


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each preset, with tabs between the columns."""
    assert main(["presets"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [preset.name for preset in presets()] and {len(line) for line in lines} == {4}


def test_an_unknown_preset_is_told_before_the_source_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest name is said, and those that are refused apart."""
    assert main(["inspect", "no/such/source", "--preset", "qwen3-rerank"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean qwen3-reranker?" in told and "jina-reranker-v3" in told.partition("Refused")[2]


def test_inspect_speaks_no_python(qwen3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tokens with their ids, yes and no, and a dash for what is unknown; --check makes a refusal the exit code."""
    assert main(["inspect", str(qwen3), "--check"]) == 1
    assert main(["inspect", str(qwen3), "--check", "--classifier-from-tokens", TOKENS]) == 0
    shown = capsys.readouterr().out
    assert not any(word in shown for word in ("None", "True", "False", "{'", "['")) and "no (" in shown


def test_quiet_keeps_warnings(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They go to stderr once; without --quiet that of the missing template is the last thing printed."""
    command = ["convert", str(qwen3), str(tmp_path / "out"), "--classifier-from-tokens", TOKENS, "--backend", "numpy"]
    assert main([*command, "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("no prompt template is known") == 1
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "exists and is not empty" in shown and "--template FILE.jinja" in shown.splitlines()[-2]


def test_the_api_logs_warnings(qwen3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log `jaxconv` has them."""
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    assert [record.name for record in caplog.records if "no prompt template" in record.message] == ["jaxconv"]


@pytest.mark.parametrize("command", ["convert", "inspect", "presets"])
def test_help_has_examples_and_whole_options(command: str) -> None:
    """At 80 columns no option is cut, and commands to copy stand at the end."""
    told = subprocess.run(
        [sys.executable, "-m", "jaxconv", command, "--help"], capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "80"},
    ).stdout  # fmt: skip
    assert "Examples:" in told and "…  " not in told
