"""Training state that DeepSpeed and verl save, by the libraries themselves: their own mergers do what the message says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import jaxconv
from tests.support.environments import python_of, run_in
from tests.support.next_steps import OPTIONS, refusal, run_next_step, weights

pytestmark = pytest.mark.slow
BESIDE = ("config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def expected(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The classifier of the whole model."""
    output = tmp_path_factory.mktemp("expected") / "out"
    jaxconv.convert(qwen3, output, **OPTIONS)
    return weights(output)


def assert_equal(output: Path, expected: dict[str, torch.Tensor]) -> None:
    """The tensors of an output, which mergers write in float32 or bfloat16, are those of the whole model."""
    ours = weights(output)
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name].float(), expected[name].float()) for name in expected)


def zero_state(qwen3: Path, folder: Path, stage: int) -> Path:
    """A ZeRO checkpoint with the files that a trainer leaves beside it."""
    run_in("trainers", "tests/foreign/trainers/deepspeed_zero.py", qwen3, folder, str(stage))
    for name in BESIDE:
        shutil.copyfile(qwen3 / name, folder / name)
    return folder


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_zero(qwen3: Path, tmp_path: Path, expected: dict[str, torch.Tensor], stage: int) -> None:
    """DeepSpeed's own script, which lies in the directory, merges each stage."""
    checkpoint = zero_state(qwen3, tmp_path / "checkpoint", stage)
    for file in checkpoint.glob("model*.safetensors"):
        file.unlink()
    message = refusal(checkpoint, tmp_path / "out")
    assert "ZeRO" in message
    run_next_step(message, tmp_path / "out", python=python_of("trainers"))
    assert_equal(tmp_path / "out", expected)


def test_deepspeed_zero_without_a_configuration(qwen3: Path, tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    """As the engine alone saves it, and without the script: DeepSpeed's module, and BASE for the configuration."""
    checkpoint = zero_state(qwen3, tmp_path / "checkpoint", 2)
    for name in (*BESIDE, "zero_to_fp32.py"):
        (checkpoint / name).unlink()
    message = refusal(checkpoint, tmp_path / "out")
    assert "in place of BASE" in message
    run_next_step(message, tmp_path / "out", base=qwen3, python=python_of("trainers"))
    assert_equal(tmp_path / "out", expected)


def test_tensors_that_zero_left_empty(qwen3: Path, tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    """save_pretrained without gathering writes tensors of shape [0]; the values are in the state beside them."""
    checkpoint = zero_state(qwen3, tmp_path / "checkpoint", 3)
    message = refusal(checkpoint, tmp_path / "out")
    assert "are empty (shape [0]" in message
    run_next_step(message, tmp_path / "out", python=python_of("trainers"))
    assert_equal(tmp_path / "out", expected)


@pytest.mark.parametrize("place", ["", "actor", "global_step_20/actor"])
def test_verl(qwen3: Path, tmp_path: Path, expected: dict[str, torch.Tensor], place: str) -> None:
    """verl's merger gathers the shards of two processes, wherever in the run's directory they lie."""
    run = tmp_path / "run"
    (run / place).parent.mkdir(parents=True, exist_ok=True)
    run_in("trainers", "tests/foreign/trainers/verl_fsdp.py", qwen3, run / place)
    message = refusal(run, tmp_path / "out")
    assert "verl" in message
    run_next_step(message, tmp_path / "out", python=python_of("trainers"))
    assert_equal(tmp_path / "out", expected)
