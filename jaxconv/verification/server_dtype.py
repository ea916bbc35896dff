"""How far a server's scores may be off: what the dtype that it runs in rounds, over the depth of the model.

A vLLM server does not say its dtype. It is named by the caller, else it is what `vllm serve` takes for the directory as it
stands: of packed weights the dtype in config.json. Of plain weights float32 is expected, which the proof asks the server for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxconv.errors import UsageError
from jaxconv.families import text_config
from jaxconv.json_files import JsonObject, read_optional_object

# The distance from 1 to the next number.
EPSILON: Mapping[str, float] = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
# The same of codes that activations are rounded to; of int8, whose steps are equal, at half of the largest number.
CODES: Mapping[str, float] = {"int8": 2.0**-6, "fp8": 2.0**-3, "fp4": 2.0**-1}
# Roundings on the way through a layer, which add up like steps of a random walk: two norms, query, scores, values, the two
# sums and the product of the gate. Of codes there are four products.
ROUNDINGS, PRODUCTS = 8, 4
MOST = 0.25  # of the largest score: no server that works is further off, however deep the model


@dataclass(frozen=True, slots=True)
class ServerDtype:
    """The dtype that a server runs in, how it is known, and the codes that the server rounds activations to ("" for none)."""

    name: str
    origin: str
    codes: str
    layers: int

    def tolerance(self, largest: float, local: float, local_reason: str) -> tuple[float, str]:
        """The largest difference of a score that passes, and where it comes from.

        Args:
            largest: The largest score.
            local: The tolerance of the local scores, which float32 is held to.
            local_reason: Where that comes from.
        """
        known = f"the server runs {self.name} ({self.origin})"
        if self.name == "float32" and not self.codes:
            return local, f"{known}: {local_reason}"
        dtype = EPSILON[self.name] * math.sqrt(ROUNDINGS * self.layers)
        codes = CODES[self.codes] * math.sqrt(PRODUCTS * self.layers) if self.codes else 0.0
        share, what = (
            min(MOST, max(dtype, codes)),
            "what it rounds" if codes <= dtype else f"what activations in {self.codes} lose",
        )
        layers = f"over {self.layers} layer{'' if self.layers == 1 else 's'}"
        return share * max(1.0, largest), f"{known}: {share:.2%} of the largest score, {what} {layers}"


def check_server_dtype(name: str | None, url: str | None) -> None:
    """Raises `UsageError` for a `name` that is not a dtype, or that is given without a server's address `url`."""
    if name is not None and name not in EPSILON:
        raise UsageError(f"--server-dtype {name!r} is unknown; expected one of: {', '.join(EPSILON)}.")
    if name is not None and url is None:
        raise UsageError("--server-dtype is the dtype of a server; pass its address with --against-vllm.")


def server_dtype(asked: str | None, folder: Path) -> ServerDtype:
    """The dtype of the server of an output.

    Args:
        asked: What the caller says; None if nothing.
        folder: The output.
    """
    config = read_optional_object(folder / "config.json") or {}
    packed = "quantisation" in (read_optional_object(folder / "jaxconv.json") or {})
    codes = max(_codes(_section(config)), key=lambda name: CODES[name], default="") if packed else ""
    layers = text_config(config).get("num_hidden_layers")
    layers = layers if isinstance(layers, int) and layers > 0 else 1
    if asked is not None:
        return ServerDtype(asked, "--server-dtype", codes, layers)
    if not packed:
        return ServerDtype("float32", "expected of a proof; --server-dtype names another", codes, layers)
    stated = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    stated = stated if stated in EPSILON else "bfloat16"
    return ServerDtype(stated, "the dtype of config.json; --server-dtype names another", codes, layers)


def _section(config: JsonObject) -> JsonObject:
    """What readers take for the quantisation of a config.json."""
    places = (
        config.get("quantization_config"),
        text_config(config).get("quantization_config"),
        config.get("compression_config"),
    )
    return next((place for place in places if isinstance(place, dict) and place), {})


def _codes(section: JsonObject) -> Iterator[str]:
    """What a server rounds activations to, for each part of the model that says so."""
    method, groups = str(section.get("quant_method")).lower(), section.get("config_groups")
    if method == "fp8":
        yield "fp8"
    elif method == "torchao" and "DynamicActivation" in (kind := str(section.get("quant_type"))):
        yield "fp8" if "Float8DynamicActivation" in kind else "int8"
    elif method.startswith("modelopt") and not groups:
        algorithm = str(section.get("quant_algo")).upper()
        if "A16" not in algorithm:
            yield "fp4" if "FP4" in algorithm else "fp8"
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(activations := group.get("input_activations"), dict):
            kind = f"{activations.get('type')}{activations.get('num_bits')}"
            yield {"int8": "int8", "float4": "fp4"}.get(kind, "fp8")
