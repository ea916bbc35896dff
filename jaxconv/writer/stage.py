"""The hidden directory that an output is written into before it is published, and the lock that says it is in use.

    .jaxconv-stage-<digest of the output's name>-<random>/
      owner.json   locked with flock while the conversion runs; names the output, the host and the process
      output/      what is written; renamed to OUTPUT in the end
      former/      what --overwrite replaces, where the two cannot be exchanged in one step
      names.json   the entries of output/, when they are moved one by one into a mount point

Its name has the same length whatever the output is called. It lies beside the output, or within it if the output is a mount
point. Whatever a killed process left behind is found by its name; nobody uses it if its lock can be taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxconv.errors import OutputError
from jaxconv.version import __version__
from jaxconv.writer.files import sync_directory
from jaxconv.writer.io_errors import output_error
from jaxconv.writer.target import STAGE_PREFIX, stages_inside

OWNER, FORMER, NAMES = "owner.json", "former", "names.json"
ATTEMPTS = 10  # at a stage that nobody sweeps away before it is locked


@dataclass(frozen=True, slots=True)
class Stage:
    """A staged directory.

    Attributes:
        directory: The hidden directory.
        target: The output that it will become.
        inside: Whether it lies within the target, which is a mount point.
        identity: Device and inode of the directory that will be published; None for the stage of another process.
        lock: The open, locked owner file; None for the stage of another process.
    """

    directory: Path
    target: Path
    inside: bool
    identity: tuple[int, int] | None = None
    lock: int | None = None

    @property
    def output(self) -> Path:
        """The directory that is written."""
        return self.directory / "output"

    @property
    def former(self) -> Path:
        """Where a former output waits until the new one is in place."""
        return self.directory / FORMER

    @property
    def names(self) -> Path:
        """The list of the entries that are moved one by one."""
        return self.directory / NAMES

    @property
    def is_published(self) -> bool:
        """Whether the target is the new output."""
        if self.inside:
            return os.path.lexists(self.names) and not os.path.lexists(self.output)
        if self.identity is None:
            return not os.path.lexists(self.output)
        try:
            return identity_of(self.target) == self.identity
        except OSError:
            return False

    def undo(self) -> None:
        """Takes back a publication that was cut short: a former output is in its place again.

        Raises:
            OSError: A former output cannot be brought back; it still is in `former`.
        """
        if self.is_published:
            return
        if not self.inside:
            if os.path.lexists(self.former):
                os.rename(self.former, self.target)
            return
        for name in _read_names(self.names):
            if os.path.lexists(self.target / name) and not os.path.lexists(self.output / name):
                os.rename(self.target / name, self.output / name)
        if self.former.is_dir():
            for name in os.listdir(self.former):
                os.rename(self.former / name, self.target / name)

    def remove(self) -> None:
        """Removes the staged directory and gives up its lock.

        Raises:
            OSError: A former output cannot be brought back; it is kept.
        """
        try:
            self.undo()
            with contextlib.suppress(OSError):
                delete(self.directory)
        finally:
            if self.lock is not None:
                os.close(self.lock)


def create_stage(target: Path, output: Path) -> Stage:
    """Creates and locks a staged directory.

    Args:
        target: The resolved output. Its parent must exist.
        output: The output as the user named it.

    Raises:
        OutputError: It cannot be created.
    """
    inside = stages_inside(target)
    parent = target if inside else target.parent
    try:
        for _ in range(ATTEMPTS):
            directory = parent / f"{STAGE_PREFIX}{digest(target.name)}-{secrets.token_hex(4)}"
            directory.mkdir(mode=0o700)
            stage = _lock(Stage(directory, target, inside))
            if stage is not None:
                return stage
    except OSError as error:
        raise output_error(f"output {output} cannot be staged in {parent}", error) from error
    raise OutputError(f"output {output} cannot be staged in {parent}: other processes remove what is created there.")


def _lock(stage: Stage) -> Stage | None:
    """The new stage, locked and ready; None if somebody took it for abandoned before it was locked, and removes it."""
    try:
        lock = _lock_new(stage.directory / OWNER)
        if lock is None:
            return None
        stage = replace(stage, lock=lock)
        _write_owner(stage)
        stage.output.mkdir()
        return replace(stage, identity=identity_of(stage.output))
    except BaseException:
        stage.remove()
        raise


def identity_of(path: Path) -> tuple[int, int]:
    """Device and inode of `path`, not followed if it is a link."""
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def digest(name: str) -> str:
    """What stands for the name of an output in the names of its stages, which have to stay short."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def _lock_new(path: Path) -> int | None:
    """Creates and locks the owner file; None if somebody else has removed its directory."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError:
        return None
    if take_lock(handle) is False or os.fstat(handle).st_nlink == 0:
        os.close(handle)
        return None
    return handle


def take_lock(handle: int) -> bool | None:
    """Locks an open file without waiting.

    Args:
        handle: The file descriptor; the lock lasts until it is closed.

    Returns:
        True if the file was locked, False if another process holds its lock, None where files cannot be locked.
    """
    try:
        import fcntl
    except ImportError:
        return None  # Windows
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _write_owner(stage: Stage) -> None:
    owner = {
        "output": stage.target.name,
        "inside": stage.inside,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "jaxconv": __version__,
    }
    assert stage.lock is not None
    os.write(stage.lock, json.dumps(owner).encode())
    os.fsync(stage.lock)
    sync_directory(stage.directory)


def write_names(stage: Stage, names: Sequence[str]) -> None:
    """Records the entries that are about to be moved, so that a later run can take them back.

    Args:
        stage: The staged directory.
        names: The names of the entries in its output directory.
    """
    with stage.names.open("x", encoding="utf-8") as file:
        json.dump(list(names), file)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(stage.directory)


def _read_names(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []  # nothing has been moved yet
    return (
        []
        if not isinstance(names, list)
        else [
            name for name in names if isinstance(name, str) and os.path.basename(name) == name and name not in ("", ".", "..")
        ]
    )


def delete(directory: Path) -> None:
    """Deletes a staged directory, its owner file last: a stage without one is empty, whenever the deletion is cut short.

    Raises:
        OSError: Something in it cannot be deleted.
    """
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != OWNER:
            path.unlink()
    (directory / OWNER).unlink(missing_ok=True)
    directory.rmdir()


def find_stages(directory: Path, output_name: str | None = None) -> Iterator[Path]:
    """The staged directories in a directory; none if it cannot be listed.

    Args:
        directory: The directory to look in, not below it.
        output_name: The name of the output that they belong to; None for all outputs.
    """
    prefix = STAGE_PREFIX if output_name is None else f"{STAGE_PREFIX}{digest(output_name)}-"
    with contextlib.suppress(OSError):
        for path in sorted(directory.iterdir()):
            if path.name.startswith(prefix) and path.is_dir() and not path.is_symlink():
                yield path
