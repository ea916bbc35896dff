"""How the command line ends: by signals, with a stdout that cannot be written, on a system without fcntl."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxconv.cli import main
from tests.support.conversions import TOKENS, command, digests, names, run

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_leave_nothing(untied: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGHUP remove what was staged; the exit code is 128 + n, and the message says what happened."""
    before = digests(untied)
    ended = run(command(f"os.kill(os.getpid(), {int(number)})", untied, tmp_path / "new" / "out"))
    assert ended.returncode == 128 + number
    assert ended.stderr == f"jaxconv: interrupted by {number.name}. Nothing was published.\n"
    assert names(tmp_path) == [] and digests(untied) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_stop_the_clean_up(untied: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Signals that arrive while the stage is being removed are ignored: systemd sends SIGTERM and SIGHUP together."""
    happening = (
        "import shutil; rmtree = shutil.rmtree; "
        f"shutil.rmtree = lambda *a, **k: (os.kill(os.getpid(), {int(number)}), rmtree(*a, **k)); "
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    ended = run(command(happening, untied, tmp_path / "out"))
    assert ended.returncode == 128 + signal.SIGTERM and names(tmp_path) == []


def test_an_ignored_signal_stays_ignored(untied: Path, tmp_path: Path) -> None:
    """`nohup jaxconv convert` goes on when its terminal closes."""
    arguments = command("os.kill(os.getpid(), signal.SIGHUP)", untied, tmp_path / "out")
    ended = run(arguments, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert ended.returncode == 0 and (tmp_path / "out" / "config.json").is_file()


def test_an_interruption_after_publication_is_told(untied: Path, tmp_path: Path) -> None:
    """A SIGTERM that arrives when the output has its name: the message says that it is complete."""
    happening = (
        "rename = os.rename; os.rename = lambda *names: (rename(*names), os.kill(os.getpid(), signal.SIGTERM)) "
        "if str(names[0]).endswith('/output') else rename(*names)"
    )
    ended = run(command(happening, untied, tmp_path / "out"))
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == f"jaxconv: interrupted by SIGTERM. {tmp_path / 'out'} was published before and is complete.\n"
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "config.json").is_file()


def test_handlers_are_restored(capsys: pytest.CaptureFixture[str]) -> None:
    """`main` leaves the handlers of the program that calls it as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    assert main(["presets", "--json"]) == 0
    assert [signal.getsignal(number) for number in SIGNALS] == before


def jaxconv(*arguments: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the console script in a shell."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", sys.executable, "-m", "jaxconv", *arguments],
        capture_output=True, check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_stdout_after_publication_is_a_note(untied: Path, tmp_path: Path, flags: list[str], unbuffered: str) -> None:
    """The output is there and whole, so the command has done its work: exit code 0, with a note on stderr."""
    output = tmp_path / "out"
    ended = jaxconv("convert", str(untied), str(output), *TOKENS, *flags, redirect=">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 0 and (output / "config.json").is_file()
    note = b"jaxconv: done; the summary cannot be written to stdout: No space left on device.\n"
    assert ended.stderr == note
    dry = jaxconv("convert", str(untied), str(output) + "2", *TOKENS, "--dry-run", redirect=">/dev/full")
    assert dry.returncode == 1 and b"cannot be written to stdout" in dry.stderr and b"Traceback" not in dry.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [["inspect", "SOURCE"], ["inspect", "SOURCE", "--json"], ["presets"], ["presets", "--json"]]
)
def test_a_full_stdout_is_an_error_of_what_only_prints(untied: Path, arguments: list[str], unbuffered: str) -> None:
    """Commands whose result is what they print fail with a message."""
    arguments = [str(untied) if argument == "SOURCE" else argument for argument in arguments]
    ended = jaxconv(*arguments, redirect=">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 1
    assert ended.stderr == b"jaxconv: the result cannot be written to stdout: No space left on device.\n"


def test_closed_pipes_and_closed_streams(untied: Path, tmp_path: Path) -> None:
    """A reader that is gone, and streams that are closed, are no reason for a traceback."""
    piped = jaxconv("convert", str(untied), str(tmp_path / "piped"), *TOKENS, redirect="| true")
    assert piped.returncode == 0 and piped.stderr == b"" and (tmp_path / "piped").is_dir()
    closed = jaxconv("convert", str(untied), str(tmp_path / "closed"), *TOKENS, redirect=">&- 2>&-")
    assert closed.returncode == 0 and (tmp_path / "closed").is_dir()
    failed = jaxconv("convert", str(untied), str(tmp_path / "closed"), *TOKENS, redirect="2>/dev/full")
    assert failed.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_other_encodings_of_stdout(untied: Path, tmp_path: Path, encoding: str) -> None:
    """Whatever the locale, text and JSON are UTF-8; a path that is not UTF-8 is escaped."""
    source = shutil.copytree(untied, tmp_path / "ü")
    template = tmp_path / "prompt.jinja"
    template.write_text("問 {{ query }} {{ document }}", encoding="utf-8")
    arguments = ["inspect", str(source), "--token-ids", "[5,6]", "--template", str(template)]
    text = jaxconv(*arguments, PYTHONIOENCODING=encoding)
    prompt = "問 what is the capital of France? Paris is the capital of France."
    assert text.returncode == 0 and f"|{prompt}|" in text.stdout.decode(), text.stderr
    document = json.loads(jaxconv(*arguments, "--json", PYTHONIOENCODING=encoding).stdout)
    assert document["prompt"] == prompt and document["source"] == str(source)
    converted = jaxconv("convert", str(untied), str(tmp_path / "ö\udc80"), *TOKENS, PYTHONIOENCODING=encoding)
    assert converted.returncode == 0 and "ö\\udc80" in converted.stdout.decode(), converted.stderr


def test_without_fcntl(untied: Path, tmp_path: Path) -> None:
    """On Windows importing and inspecting work; a conversion is refused with the reason, before anything is read."""
    code = (
        "import sys; sys.modules['fcntl'] = None; import jaxconv; from jaxconv.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    inspected = run([sys.executable, "-c", code, "inspect", str(untied), "--token-ids", "[5,6]", "--json"])
    assert inspected.returncode == 0 and json.loads(inspected.stdout)["convertible"], inspected.stderr
    refused = run([sys.executable, "-c", code, "convert", str(untied), str(tmp_path / "out"), *TOKENS])
    assert refused.returncode == 1 and "jaxconv writes on Linux and macOS only" in refused.stderr
    assert names(tmp_path) == []
