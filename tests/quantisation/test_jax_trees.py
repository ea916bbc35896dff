"""Trees that AQT or Qwix quantised are recognised by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxconv
from jaxconv.errors import RefusedError
from tests.support.tiny import tiny_checkpoint

CODES, SCALE = np.ones((64, 64), np.int8), np.ones((1, 64), np.float32)
QWIX = {"layers": {"0": {"attn": {"q_einsum": {"w": {"array": {"qvalue": CODES, "scale": SCALE}}}}}}}
AQT = {"aqt": {"decoder": {"layers": {"mlp": {"wi_0": {"AqtDotGeneral_0": {"qrhs": {"frozen": {"qvalue": CODES}}}}}}}}}


@pytest.mark.parametrize(("tree", "library"), [(QWIX, "Qwix"), (AQT, "AQT")])
def test_a_quantised_tree_is_refused(tmp_path: Path, tree: dict[str, Any], library: str) -> None:
    """With the array's name, the library, and what to convert instead."""
    base = tiny_checkpoint(tmp_path / "base", "qwen3")
    with pytest.raises(RefusedError, match=rf"quantised by {library}: \S*qvalue is I8.*before quantisation"):
        jaxconv.convert_params(tree, tmp_path / "out", base=base, token_ids=[5, 6])
