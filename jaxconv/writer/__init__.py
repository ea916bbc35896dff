"""Plans the weight files (pure), streams them into a staged directory, and publishes it."""

from jaxconv.writer.options import WriteOptions
from jaxconv.writer.output import check_or_note, check_output, check_provable, output_place, staged_output
from jaxconv.writer.shards import OutputFile, plan_files
from jaxconv.writer.share import Written, write_share

__all__ = [
    "OutputFile",
    "WriteOptions",
    "Written",
    "check_or_note",
    "check_output",
    "check_provable",
    "output_place",
    "plan_files",
    "staged_output",
    "write_share",
]
