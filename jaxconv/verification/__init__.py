"""Stage 7: the proof that an output is its source. Shares no code with the stages that wrote it.

    output -> claims -> source files -> structure, head, files -> prompts -> scores -> vllm -> report -> page

The source's arrays are found through `libraries`, which is written apart from `jaxconv/layouts`; the output is read with the
safetensors library and json.
"""

from __future__ import annotations

from jaxconv.verification.claims import Claims
from jaxconv.verification.proof import prove, verify
from jaxconv.verification.report import Report
from jaxconv.verification.score_options import ScoreOptions

__all__ = ["Claims", "Report", "ScoreOptions", "prove", "verify"]
