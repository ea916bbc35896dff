"""A real model as flax msgpack and as an Orbax checkpoint scores in vLLM as it does from safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jaxconv
from examples.demo import PROMPT
from examples.smollm2 import checkpoint
from tests.foreign.test_smollm2 import _msgpack, _orbax, _tree
from tests.support.vllm_server import served
from tests.vllm.test_served import check_served

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(("write", "dtype"), [(_msgpack, "bfloat16"), (_orbax, None)])
def test_smollm2(tmp_path: Path, write: Callable[[dict[str, Any], Path], None], dtype: str | None) -> None:
    """The server gives the causal LM's raw scores; the msgpack file, float32 as Flax's often are, is cast back on the way."""
    tree = _tree(checkpoint())
    if dtype is not None:
        import jax
        import numpy as np

        tree = jax.tree.map(lambda array: array.astype(np.float32), tree)
    write(tree, tmp_path / "foreign")
    jaxconv.convert(
        tmp_path / "foreign",
        tmp_path / "out",
        base=checkpoint(),
        classifier_from_tokens=["ĠNo", "ĠYes"],
        template=PROMPT,
        dtype=dtype,
        backend="jax",
    )
    with served(tmp_path / "out", tmp_path / "log") as url:
        check_served(checkpoint(), tmp_path / "out", [2838, 9230], url)
