"""Parameters are told from what training loops save beside them, whatever the tree looks like."""

from __future__ import annotations

import time

import pytest

from jaxconv.errors import RefusedError
from jaxconv.readers._training_state import parameter_names


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("params", "params", "decoder", "kernel"), "decoder.kernel"),
        (("model", "norm", "scale", "value"), "model.norm.scale"),
        (("model", "model", "norm", "scale"), "model.norm.scale"),
        (("transformer/layer_0/attn", "w"), "transformer.layer_0.attn.w"),
        (("value",), "value"),
    ],
)
def test_wrappers_and_trailing_values_go(keys: tuple[str, ...], name: str) -> None:
    """Names are what is left without wrappers and without NNX's last key."""
    names, notes = parameter_names([keys, ("opt_state", *keys), ("step",), ("step", "value")], "here")
    assert names == {keys: name}
    assert notes == ("optimizer state ignored (1 arrays).", "counters and random keys ignored (2 arrays).")


@pytest.mark.parametrize("leaves", [[], [()], [("step",)], [("opt_state", "mu", "kernel")]])
def test_nothing_to_convert_is_refused(leaves: list[tuple[str, ...]]) -> None:
    """No leaf, a bare array without a name, counters, optimizer state: none holds parameters."""
    with pytest.raises(RefusedError, match="no model parameters"):
        parameter_names(leaves, "here")


def test_a_huge_tree_takes_linear_time() -> None:
    """A hundred thousand entries with as much optimizer state: a scan for each would take hours."""
    leaves = [("model", str(i), "kernel") for i in range(100_000)]
    started = time.monotonic()
    names, _ = parameter_names(leaves + [("opt_state", *keys) for keys in leaves], "here")
    assert len(names) == 100_000 and time.monotonic() - started < 30
