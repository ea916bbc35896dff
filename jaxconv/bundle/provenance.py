"""jaxconv.json: what an output was made from, and how. No timestamps: the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jaxconv.bundle.quantisation import quantisation_record
from jaxconv.bundle.sentence_transformers import NAMED_TEMPLATE
from jaxconv.head import ScoreHead
from jaxconv.json_files import JsonDict, JsonObject
from jaxconv.plan import Plan
from jaxconv.storage import is_address
from jaxconv.text.prompt import TEMPLATE_NAME
from jaxconv.version import __version__

PROVENANCE = "jaxconv.json"
# Libraries that every conversion uses, whatever the backend.
LIBRARIES = ("numpy", "ml_dtypes", "tokenizers", "jinja2")
PROVERS = ("torch", "transformers")  # what a proof ran in


def provenance(plan: Plan, head: ScoreHead) -> JsonDict:
    """The record of a conversion: the decisions of `plan`, and the sha256 of the rows that made `head`.

    Tokens are false first, true second.
    """
    model, transform = plan.model, plan.model.transform
    return {
        "jaxconv": __version__,
        "libraries": _versions((*LIBRARIES, *(PROVERS if model.family.by_proof else ()))),
        "source": model.source.hub_id or model.source.address or _file_name(model.source.weights),
        "revision": model.source.revision,
        **_base(plan),
        "format": model.format,
        "layout": model.layout,
        "model_type": model.family.model_type,
        "architecture": model.family.target_architecture,
        **({"text_only": True} if model.whole is not None else {}),
        **({"family": "by proof"} if model.family.by_proof else {}),
        **_adapter(plan),
        **quantisation_record(plan),
        "method": plan.method,
        "tokens": [{"text": token.text, "id": token.id} for token in plan.tokens],
        "logit_transform": {"scale": transform.scale, "bias": transform.bias, "softcap": transform.softcap},
        "calibration": {"scale": plan.calibration.scale, "bias": plan.calibration.bias},
        "activation": plan.activation,
        "preset": plan.preset,
        **({"consumers": list(plan.consumers)} if plan.stacked else {}),
        "prompt": _prompt(plan),
        "max_length": plan.prompt.max_length,
        **({} if plan.pixels is None else {"pixels": list(plan.pixels)}),
        "dtype": plan.dtype,
        "head": {"sha256": head.rows_sha256, "num_labels": plan.num_labels},
        "warnings": list(plan.warnings),
    }


def with_hashes(record: JsonObject, sha256: Mapping[str, str]) -> JsonDict:
    """The record with the sha256 of every other file of the output."""
    return {**record, "sha256": dict(sorted(sha256.items()))}


def _file_name(path: Path | str) -> str:
    """The last part of `path`, in which bytes that are not UTF-8 are replaced. An address is given whole."""
    if is_address(path):
        return str(path)
    return os.fsencode(Path(path).name).decode("utf-8", "replace")


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    versions = {}
    for library in libraries:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # vendored without metadata
            continue
    return versions


def _base(plan: Plan) -> JsonDict:
    source = plan.model.source
    if source.base_id is not None:
        return {"base": {"id": source.base_id, "revision": source.base_revision}}
    return {} if source.base_name is None else {"base": {"name": _file_name(source.base_name)}}


def _prompt(plan: Plan) -> JsonDict:
    """Where the prompt comes from, and the sha256 of the templates that hold it."""
    templates = {TEMPLATE_NAME: plan.prompt.template, NAMED_TEMPLATE: plan.named_template}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in templates.items() if text is not None}
    written = {} if plan.prompt.written is None else {"template": plan.prompt.written}
    return {"origin": plan.prompt.origin, **written, "sha256": digests}


def _adapter(plan: Plan) -> JsonDict:
    adapter = plan.model.adapter
    if adapter is None:
        return {}
    return {"adapter": {"name": adapter.path.name, "base": adapter.base, "sha256": adapter.sha256}}
