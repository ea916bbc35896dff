"""Stage 5: plan (pure) -> stream -> publish."""

from jaxconv.writer.plan import OutputFile, index_json, plan_files
from jaxconv.writer.publish import staged_output
from jaxconv.writer.stream import write_file

__all__ = ["OutputFile", "index_json", "plan_files", "staged_output", "write_file"]
