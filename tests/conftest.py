"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers whose tiny models take all cores wait for each other


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Qwen3 in one file."""
    from tests.support.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("qwen3") / "model", "qwen3", tie=True)


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untied Llama in three shards."""
    from tests.support.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("untied") / "model", "llama", tie=False, shards=3)
