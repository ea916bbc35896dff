"""Trees of JAX libraries whose arrays are quantised, recognised by their names and refused with a reason."""

from __future__ import annotations

import re

from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import RefusedError

CODES = frozenset({"I8", "U8", "F8_E4M3", "F8_E5M2"})
# AQT keeps what it froze under these names; Qwix has an array of codes and its scale in the place of each kernel.
AQT = re.compile(r"aqt.*|q[lr]hs|AqtDotGeneral_\d+|AqtEinsum_\d+", re.IGNORECASE)
QVALUE = "qvalue"


def refuse_quantised_tree(checkpoint: Checkpoint) -> None:
    """Raises `RefusedError` for a tree that AQT (MaxText) or Qwix (Tunix) quantised.

    Args:
        checkpoint: The arrays under the names that they have in the tree.
    """
    for name, ref in checkpoint.tensors.items():
        parts = re.split(r"[./]", name)
        aqt = any(AQT.fullmatch(part) for part in parts)
        if ref.dtype not in CODES or not (aqt or QVALUE in parts):
            continue
        library = "AQT" if aqt else "Qwix"
        raise RefusedError(
            f"{checkpoint.path} is quantised by {library}: {name} is {ref.dtype}, codes with a scale beside them. No "
            "server reads this layout, and jaxconv does not dequantise it. Convert the parameters from before quantisation "
            "(the trained checkpoint), then quantise the output with score left out."
        )
