"""jaxconv.json: what an output was made from, and how. No timestamps: the same input gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jaxconv
from jaxconv.head import ScoreHead
from jaxconv.plan import Plan

FILE = "jaxconv.json"


def provenance(plan: Plan, head: ScoreHead) -> dict[str, Any]:
    """The record of a conversion. Tokens are false first, true second."""
    return {
        "jaxconv": jaxconv.__version__,
        "source": plan.source.hub_id or Path(str(plan.source.weights)).name,
        "revision": plan.source.revision,
        "format": plan.format,
        "layout": plan.layout,
        "model_type": plan.family.model_type,
        "architecture": plan.family.target_architecture,
        **adapter_json(plan),
        "method": plan.method,
        "tokens": [{"text": token.text, "id": token.id} for token in plan.tokens],
        "logit_transform": transform_json(plan),
        "calibration": {"scale": plan.calibration.scale, "bias": plan.calibration.bias},
        "activation": plan.activation,
        "preset": plan.preset,
        "max_length": plan.prompt.max_length,
        "dtype": plan.dtype,
        "head": {"sha256": head.rows_sha256, "num_labels": plan.num_labels},
        "warnings": list(plan.warnings),
    }


def adapter_json(plan: Plan) -> dict[str, Any]:
    """The adapter that was merged, if one was."""
    adapter = plan.adapter
    if adapter is None:
        return {}
    return {"adapter": {"name": adapter.path.name, "base": adapter.base, "sha256": adapter.sha256}}


def transform_json(plan: Plan) -> dict[str, Any]:
    """The logit transform as JSON."""
    return {"scale": plan.transform.scale, "bias": plan.transform.bias, "softcap": plan.transform.softcap}
