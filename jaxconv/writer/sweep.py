"""Removes staged directories that killed conversions left behind.

A stage is removed only if its lock can be taken, which no process can while its owner lives, on this host or on another one
that shares the file system. A few network file systems can be mounted with locks that other hosts do not see (`local_lock`
of NFS, `localflock` of Lustre); therefore the stage of another host must also have been left unchanged for an hour. On file
systems without locks nothing is removed. Before a stage is deleted it is renamed: an owner that lives all the same gets an
error, and cannot publish half of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxconv.json_files import JsonDict
from jaxconv.storage import File
from jaxconv.writer.stage import FORMER, NAMES, OWNER, Stage, delete, digest, find_stages, take_lock
from jaxconv.writer.target import STAGE_PREFIX

OTHER_HOST_SECONDS = 3600  # that the stage of another host must have been left unchanged


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed conversion left.

    Attributes:
        path: The staged directory, or the folder of the output in a store.
        nbytes: The bytes in it, of links too.
        removed: Whether it was removed.
        reason: Why it was left alone; empty if it was removed.
        in_use: Whether a live process holds its lock.
    """

    path: File
    nbytes: int
    removed: bool
    reason: str = ""
    in_use: bool = False


def sweep_output(target: Path) -> list[Leftover]:
    """Removes the abandoned stages of the output `target`, beside it and within it."""
    return [sweep_stage(path) for place in (target.parent, target) for path in find_stages(place, target.name)]


def bring_back(target: Path) -> None:
    """Takes back a publication of `target` that was cut short by a kill, so that a former output is in its place again."""
    for place in (target.parent, target):
        for path in find_stages(place, target.name):
            if os.path.lexists(path / FORMER) or os.path.lexists(path / NAMES):
                sweep_stage(path)


def sweep_directory(directory: Path) -> list[Leftover]:
    """Removes the abandoned stages of all outputs in a directory, and of the output that it is itself."""
    paths: Iterable[Path] = [*find_stages(directory), *find_stages(directory.parent, directory.name)]
    return [sweep_stage(path) for path in dict.fromkeys(paths)]


def sweep_stage(path: Path) -> Leftover:
    """Removes the staged directory `path` if nobody uses it."""
    nbytes = _size(path)
    try:
        handle = os.open(path / OWNER, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return _remove_unowned(path, nbytes)
    except OSError as error:
        return Leftover(path, nbytes, False, f"its lock cannot be opened: {error.strerror or error}")
    try:
        owner = _read_owner(handle, path)
        who = f"process {owner.get('pid')} on {owner.get('host')}"
        locked = take_lock(handle)
        if locked is None:
            return Leftover(path, nbytes, False, f"the file system has no locks; remove it if {who} is gone")
        if not locked:
            return Leftover(path, nbytes, False, f"{who} is using it", in_use=True)
        if os.fstat(handle).st_nlink == 0:
            return Leftover(path, nbytes, True)  # its owner removed it meanwhile
        age = time.time() - _last_change(path)
        other_host = owner.get("host") not in (None, socket.gethostname())
        if other_host and age < OTHER_HOST_SECONDS:
            return Leftover(path, nbytes, False, f"{who} changed it {max(0, age) / 60:.0f} minutes ago; expected 60 or more")
        return _remove(path, nbytes, owner)
    finally:
        os.close(handle)


def _remove_unowned(path: Path, nbytes: int) -> Leftover:
    """Removes a stage whose owner died before it wrote its record, or after it deleted it: an empty directory."""
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        return Leftover(path, nbytes, False, f"it has no {OWNER} and cannot be removed: {error.strerror or error}")
    return Leftover(path, nbytes, True)


def _remove(path: Path, nbytes: int, owner: JsonDict) -> Leftover:
    """Brings a former output back and deletes the stage, whose lock the caller holds."""
    inside = owner.get("inside") is True
    target = path.parent if inside else path.parent / str(owner.get("output", ""))
    try:
        if owner and target.name:
            Stage(path, target, inside).undo()
        doomed = path.with_name(path.name + "x")
        path.rename(doomed)
        delete(doomed)
    except FileNotFoundError:
        return Leftover(path, nbytes, True)  # another sweep was faster
    except OSError as error:
        return Leftover(path, nbytes, False, f"it cannot be removed: {error.strerror or error}")
    return Leftover(path, nbytes, True)


def _read_owner(handle: int, path: Path) -> JsonDict:
    """The record of the owner; empty if it was killed before it wrote one, or if the record is not of this stage."""
    try:
        owner = json.loads(os.pread(handle, 1 << 16, 0))
        name = owner["output"]
        known = isinstance(name, str) and os.path.basename(name) == name
        return owner if known and path.name.startswith(f"{STAGE_PREFIX}{digest(name)}-") else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _walk(path: Path) -> list[os.stat_result]:
    stats = []
    for directory, _, files in os.walk(path):
        for name in (directory, *(os.path.join(directory, file) for file in files)):
            with contextlib.suppress(OSError):
                stats.append(os.lstat(name))
    return stats


def _size(path: Path) -> int:
    return sum(status.st_size for status in _walk(path) if status.st_mode & 0o170000 == 0o100000)


def _last_change(path: Path) -> float:
    return max((status.st_mtime for status in _walk(path)), default=0.0)
