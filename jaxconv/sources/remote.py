"""The files beside the weights of a model in an object store, brought here. The weights stay there."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

from jaxconv.errors import SourceError
from jaxconv.file_errors import reading
from jaxconv.sources.assets import FETCHED, is_fetched
from jaxconv.storage import RemotePath, remote_path, shown_as

REQUESTS = 8  # files that are fetched at once
FOLDERS = frozenset(pattern.split("/")[0] for pattern in FETCHED if "/" in pattern)


class Fetched:
    """A temporary directory that lasts as long as this object.

    Attributes:
        directory: The directory, called as the folder in the store is.
    """

    def __init__(self, folder: RemotePath) -> None:
        root = tempfile.mkdtemp(prefix="jaxconv-")
        self.directory = Path(root) / folder.name
        self.directory.mkdir()
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        shown_as(self.directory, folder)


_KEPT: list[Fetched] = []


def fetch_assets(folder: RemotePath, more: Sequence[str] = ()) -> Fetched:
    """Brings config, tokenizer and what else lies beside the weights.

    Args:
        folder: The folder of the model.
        more: Names of other files that are brought if they are there.

    Raises:
        SourceError: The folder is empty, or a file cannot be read or is too large for what it is.
    """
    with reading(folder):
        entries = folder.entries()
        if not entries:
            raise SourceError(f"{folder} does not exist or holds nothing. Check the address, and that you may list it.")
        names = [name for name, size in entries.items() if size is not None]
        folders = [name for name, size in entries.items() if size is None]
        for inner in sorted(name for name in folders if any(fnmatch(name, pattern) for pattern in FOLDERS)):
            names += [f"{inner}/{name}" for name, size in (folder / inner).entries().items() if size is not None]
        names = [name for name in names if is_fetched(name) or name in more]
        fetched = Fetched(folder)
        with ThreadPoolExecutor(REQUESTS) as pool:
            contents = pool.map(lambda name: (folder / name).read_bytes(), names)
            for name, content in zip(names, contents, strict=True):
                path = fetched.directory / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
    return fetched


def small_files(address: str, more: Sequence[str]) -> Path:
    """A directory with the small files of a folder, which lasts as long as the process.

    Args:
        address: The address of the folder.
        more: Names of files that are brought beside those of every model.

    Raises:
        SourceError: The folder cannot be read.
        UsageError: The address is not one that can be opened.
    """
    fetched = fetch_assets(remote_path(address), more)
    _KEPT.append(fetched)
    return fetched.directory
