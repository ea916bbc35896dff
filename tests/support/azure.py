"""Azure's blob storage on the loopback: azurite, Microsoft's own emulator, which npm installs once into the tests' cache."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.wheels import cached

VERSION = "3.37.0"
ACCOUNT = "devstoreaccount1"
# The key that every azurite has, https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def azurite() -> Path:
    """The program. Skips the test where there is no Node.js to run it."""
    if shutil.which("npm") is None:
        pytest.skip("azurite needs Node.js and npm")

    def install(folder: Path) -> None:
        subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), f"azurite@{VERSION}"], check=True)

    return cached(f"azurite-{VERSION}", install) / "node_modules" / ".bin" / "azurite-blob"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The connection string of a server that keeps its blobs in a folder."""
    command = [
        str(azurite()), "--blobPort", "0", "--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(found[0] for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            yield (f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={address}/{ACCOUNT};")
        finally:
            process.terminate()
