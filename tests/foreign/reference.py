"""Logits of transformers' PyTorch model, from another Python: JAX libraries' environments have no torch.

TORCH_PYTHON names a Python with torch and transformers; the project's own has both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.foreign.packing import torch_logits


def reference_logits(original: Path, ids: list[list[int]]) -> np.ndarray[Any, Any]:
    """Float32 [rows, vocab] at the last position of each row."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "logits.npy")
        command = [os.environ["TORCH_PYTHON"], "-m", "tests.foreign.reference", str(original), json.dumps(ids), str(target)]
        subprocess.run(command, check=True)
        return np.load(target)


if __name__ == "__main__":
    np.save(sys.argv[3], torch_logits(Path(sys.argv[1]), json.loads(sys.argv[2])))
