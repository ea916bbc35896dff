"""`jaxconv env`: what is installed, and what the frameworks see."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from jaxconv import environment
from jaxconv.cli import main
from jaxconv.version import __version__


def test_versions_and_devices(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON and as lines; a library that is not installed and a framework that fails are said to be so."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.example/path")
    monkeypatch.setattr(environment, "LIBRARIES", ("jax", "torch", "numpy", "no-such-library"))
    monkeypatch.setitem(environment.DEVICES, "torch", "raise SystemExit('no driver')")
    assert main(["env", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["jaxconv"] == __version__ and document["variables"]["JAX_PLATFORMS"] == "cpu"
    assert document["variables"]["HF_ENDPOINT"] == "https://hub.example/path"
    assert document["libraries"]["numpy"] == version("numpy") and document["libraries"]["no-such-library"] is None
    assert document["devices"]["jax"] == ["cpu:0 cpu"] and document["devices"]["torch"] == ["fails: no driver"]
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["no-such-library", "not", "installed"] for line in lines)
    assert any(line.startswith("jax devices") and line.endswith("cpu:0 cpu") for line in lines)


def test_a_framework_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a driver does that waits for a device."""
    monkeypatch.setattr(environment, "LIBRARIES", ("jax", "torch"))
    monkeypatch.setattr(environment, "SECONDS", 1)
    for name in environment.DEVICES:
        monkeypatch.setitem(environment.DEVICES, name, "import time; time.sleep(60)")
    assert environment.environment()["devices"] == {name: ["no answer within 1 seconds"] for name in environment.DEVICES}
