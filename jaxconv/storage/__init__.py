"""The one door to object stores: an address like s3://bucket/run as a path that lists and reads ranges, through fsspec.

A file is a `Path` or a `RemotePath`, and whoever reads one uses `read_into`, `read_blocks` and `identity_of`. Credentials and
endpoints are found by the store's own library; none is part of an address, and none appears in a message.
"""

from jaxconv.storage.address import (
    available,
    check_address,
    download_command,
    in_users_terms,
    is_address,
    located,
    missing_extra,
    need_here,
    original,
    remote_path,
    shown_as,
    upload_command,
)
from jaxconv.storage.files import File, identities_of, identity_of, read_blocks, read_into
from jaxconv.storage.identity import FileIdentity
from jaxconv.storage.remote import RemotePath, RemoteTree, storage_errors

__all__ = [
    "File", "FileIdentity", "RemotePath", "RemoteTree", "available", "check_address", "download_command",
    "identities_of", "identity_of", "in_users_terms", "is_address", "located", "missing_extra", "need_here",
    "original", "read_blocks", "read_into", "remote_path", "shown_as", "storage_errors", "upload_command",
]  # fmt: skip
