"""What a user names: a local path, or the address of an object store."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from jaxconv.errors import SourceError, UsageError
from jaxconv.storage.files import File
from jaxconv.storage.remote import RemotePath, storage_errors

# Scheme -> the extra of this package that installs the library; None where huggingface_hub or fsspec brings it.
EXTRAS: Mapping[str, str | None] = {
    "gs": "gcs", "s3": "s3", "az": "azure", "abfs": "azure", "abfss": "azure", "hf": None, "memory": None,
}  # fmt: skip
# s3fs waits 15 seconds for an answer; one to the last request of a large upload may take longer.
OPTIONS: Mapping[str, Mapping[str, object]] = {"s3": {"config_kwargs": {"read_timeout": 60}}}
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)(/.*)?", re.DOTALL)
_SHOWN: dict[str, str] = {}  # copies of folders -> their addresses


def is_address(name: str | Path) -> bool:
    """Whether `name` is an address that this module opens."""
    match = ADDRESS.fullmatch(str(name))
    return match is not None and match[1] in EXTRAS


def check_address(name: str) -> str:
    """An address without its last slash, once it is known to hold no secret.

    Args:
        name: The address as the user wrote it.

    Raises:
        UsageError: It has a password, a query or a fragment, or names no bucket.
    """
    match = ADDRESS.fullmatch(name)
    if match is None or not match[2]:
        raise UsageError(f"{name!r:.200} is not an address; expected one like s3://bucket/folder.")
    user = match[2].rpartition("@")[0]
    if "?" in name or "#" in name or (user and (":" in user or not match[1].startswith(("abfs", "hf")))):
        raise UsageError(
            f"an address on {match[1]}:// has a user, a password or a query in it, which would end up in records. Leave them "
            "out: credentials are found where the store's own tools find them."
        )
    return name.rstrip("/")


def remote_path(name: str) -> RemotePath:
    """The path at an address. Nothing is asked of the store yet.

    Args:
        name: The address.

    Raises:
        UsageError: The address is not one, or the library of its store is not installed.
    """
    address = check_address(name)
    scheme = address.partition("://")[0]
    import fsspec

    try:
        with storage_errors(address):
            store, _ = fsspec.core.url_to_fs(address, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    except OSError as error:
        if not isinstance(error.__cause__, ImportError):
            raise SourceError(f"{address} cannot be opened: {error.strerror}. Check the credentials.") from error
        extra = EXTRAS[scheme]
        raise UsageError(
            f"{address} needs a library that is not installed ({error.strerror}). "
            f"Install it with: pip install 'jaxconv[{extra}]'"
        ) from error
    return RemotePath(address, store)


def located(name: str | Path) -> File:
    """The file or folder that a user named: a local path, or an address.

    Args:
        name: The path or address.

    Raises:
        UsageError: It is an address that cannot be opened.
    """
    return remote_path(str(name)) if is_address(name) else Path(name).expanduser()


def download_command(address: str) -> str:
    """The command that brings the folder at `address` here, under its own name."""
    get = f"store.get(path, {_directory(address)!r}, recursive=True)"
    code = f"import fsspec; store, path = fsspec.url_to_fs({address!r}); {get}"
    return shlex.join(["python", "-c", code])


def upload_command(address: str) -> str:
    """The command that copies a directory here, called as the folder at `address`, to that address."""
    put = f"store.put({_directory(address) + '/'!r}, path, recursive=True)"
    return shlex.join(["python", "-c", f"import fsspec; store, path = fsspec.url_to_fs({address + '/'!r}); {put}"])


def need_here(what: str, address: str) -> SourceError:
    """The error for a folder that has to lie on this machine.

    Args:
        what: What needs it, as the start of a sentence.
        address: Where the folder is.
    """
    return SourceError(
        f"{what} files on this machine, and {address} is not one of them. Download it and name {_directory(address)} "
        f"instead: {download_command(address)}"
    )


def _directory(address: str) -> str:
    return address.rpartition("/")[2]


def missing_extra(address: str) -> str | None:
    """The extra of this package that `address` needs and that is not installed; None if nothing is missing."""
    return EXTRAS[address.partition("://")[0]] if is_address(address) and available(address) is None else None


def available(weights: Path | str) -> File | None:
    """The directory `weights`, a path or an address; None for an address that no installed library opens."""
    if isinstance(weights, Path):
        return weights
    try:
        return remote_path(weights) if is_address(weights) else None
    except UsageError:
        return None


def shown_as(directory: Path, folder: RemotePath) -> None:
    """From now on messages name `folder` where they would name `directory`, its copy here."""
    _SHOWN[str(directory)] = folder.address


def original(directory: Path) -> Path | str:
    """The address of the folder whose small files `directory` has copies of; else the directory itself."""
    return _SHOWN.get(str(directory), directory)


def in_users_terms(message: str) -> str:
    """A `message` with the addresses of what was fetched in place of the paths of its copies."""
    for directory, address in _SHOWN.items():
        message = message.replace(directory, address)
    return message
