"""Stage 5: plan (pure) -> stream -> publish."""

from jaxconv.writer.plan import OutputFile, index_json, plan_files
from jaxconv.writer.publish import staged_output
from jaxconv.writer.share import Written, write_share

__all__ = ["OutputFile", "Written", "index_json", "plan_files", "staged_output", "write_share"]
