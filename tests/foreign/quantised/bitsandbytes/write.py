"""Checkpoints of bitsandbytes, which jaxconv refuses.

python -m tests.foreign.quantised.bitsandbytes.write OUTDIR [CASE ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.foreign.quantised.originals import write_plain
from tests.foreign.quantised.torch_side import pack_case

CASES: dict[str, Any] = {
    "nf4_llama": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "int8_llama": BitsAndBytesConfig(load_in_8bit=True),
}


def write(name: str, out: Path) -> None:
    """Makes one case."""
    with tempfile.TemporaryDirectory() as made:
        plain = write_plain(Path(made, "plain"), "llama", intermediate_size=128)
        model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=CASES[name], dtype=torch.bfloat16)
        checkpoint = Path(made, "quantised")
        model.save_pretrained(checkpoint)
        pack_case(
            out / f"{name}.tar.xz", checkpoint, library="bitsandbytes", packages=("bitsandbytes", "transformers", "torch"),
            family="llama", dequantised={}, notes="", refused="bitsandbytes",
        )  # fmt: skip


if __name__ == "__main__":
    for wanted in sys.argv[2:] or CASES:
        write(wanted, Path(sys.argv[1]))
