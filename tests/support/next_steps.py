"""Messages that end in a command: refusals, and running the command as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import jaxconv
from jaxconv.errors import RefusedError, SourceError

TOKENS = ["--classifier-from-tokens", '["no","yes"]', "--backend", "numpy"]
OPTIONS = {"classifier_from_tokens": ["no", "yes"], "backend": "numpy"}


def refusal(source: Path, output: Path) -> str:
    """The message with which a source is refused."""
    with pytest.raises((SourceError, RefusedError)) as caught:
        jaxconv.convert(source, output, **OPTIONS)
    assert not output.exists()
    return str(caught.value)


def refusal_of_command(source: str, home: Path, variables: dict[str, str]) -> str:
    """The message with which the command refuses a source, in a process of its own with `variables` in its environment."""
    command = [sys.executable, "-m", "jaxconv", "convert", source, str(home / "refused"), *TOKENS]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not (home / "refused").exists(), done.stderr
    return done.stderr.strip()


def run_next_step(
    message: str,
    output: Path,
    base: Path | None = None,
    folder: Path | None = None,
    python: str | Path = sys.executable,
    **variables: str,
) -> None:
    """Runs the shell command at the end of a message, OUTPUT and BASE filled in, the tokens added to the conversion.

    It runs in `folder`. `python` is what the command's own `python` is: that of a training environment, whose libraries the
    command needs.
    `variables` are added to the environment.
    """
    command = re.search(r": ((?:python|jaxconv|mv|accelerate|hf|env) .*OUTPUT.*)$", message)
    assert command is not None, message
    text = command[1].replace("OUTPUT", str(output)).replace("BASE", str(base))
    text += "".join(f" '{token}'" for token in TOKENS)
    scripts = output.parent / "bin"
    scripts.mkdir(exist_ok=True)
    programs = {
        "jaxconv": f"{sys.executable} -m jaxconv",
        "python": python,
        "accelerate": f"{sys.executable} -m accelerate.commands.accelerate_cli",
        "hf": str(Path(sys.executable).with_name("hf")),
    }
    for name, program in programs.items():
        (scripts / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (scripts / name).chmod(0o755)
    root = Path(jaxconv.__file__).parents[1]
    environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(root)} | variables
    result = subprocess.run(["sh", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{text}\n{result.stderr}"
    assert any(output.glob("*.safetensors"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an output."""
    return load_file(folder / "model.safetensors")


def assert_converts_like(message: str, source: Path, tmp_path: Path) -> None:
    """The next step of a message gives the tensors that the whole source gives."""
    jaxconv.convert(source, tmp_path / "expected", **OPTIONS)
    run_next_step(message, tmp_path / "out")
    ours, expected = weights(tmp_path / "out"), weights(tmp_path / "expected")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
