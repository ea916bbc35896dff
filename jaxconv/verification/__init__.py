"""Stage 7: the proof that an output is its source. Shares no code with the stages that wrote it.

    output (own reading) -> claims -> structure, head, bundle -> scores -> vllm -> report -> page

The source is read through `readers` and `layouts`; the output with the safetensors library and json.
"""

from __future__ import annotations

from jaxconv.verification.claims import Claims
from jaxconv.verification.proof import prove, verify
from jaxconv.verification.report import Report

__all__ = ["Claims", "Report", "prove", "verify"]
