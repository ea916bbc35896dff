"""Plans the weight files (pure), streams them into a staged directory, and publishes it."""

from jaxconv.writer.check import check_output
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.publish import staged_output
from jaxconv.writer.shards import OutputFile, plan_files
from jaxconv.writer.share import Written, write_share

__all__ = [
    "OutputFile",
    "WriteOptions",
    "Written",
    "check_output",
    "plan_files",
    "staged_output",
    "write_share",
]
