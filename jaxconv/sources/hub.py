"""The hub, through huggingface_hub: the files that a conversion needs, or only the headers of the weights."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from jaxconv import shard_index
from jaxconv.checkpoint import Array, Checkpoint, TensorRef
from jaxconv.errors import SourceError, UsageError
from jaxconv.safetensors_header import INDEX, SINGLE, format_of
from jaxconv.sources.assets import FETCHED, is_fetched

# The first group of which the repository has a file is fetched; never *.bin where safetensors exist. Of an index, the
# files that its weight_map names are fetched, whatever they are called.
WEIGHTS = (
    (SINGLE, INDEX, "model-*-of-*.safetensors"),
    ("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the hub is used.

    Attributes:
        revision: Branch, tag or commit; the default branch if None.
        token: The hub token; the one that huggingface_hub stored if None.
        offline: Use only the hub's cache.
    """

    revision: str | None = None
    token: str | None = None
    offline: bool = False


def choose_files(names: Sequence[str], *, weights: bool, read_weight_map: Callable[[str], Sequence[str]]) -> list[str]:
    """The files of a repository that a conversion needs: assets, and the weights in one format.

    Args:
        names: All files of the repository.
        weights: Whether weights are needed.
        read_weight_map: Gives the shards that an index of the repository names.
    """
    assets = [name for name in names if is_fetched(name)]
    for group in WEIGHTS if weights else ():
        matching = [name for name in names if any(fnmatch(name, pattern) for pattern in group)]
        index = next((name for name in matching if name.endswith(".index.json")), None)
        if index is not None and group[0] not in matching:
            return [*assets, index, *read_weight_map(index)]
        if matching:
            return assets + matching
    return assets


def fetch(repo: str, access: HubAccess, *, weights: bool) -> tuple[Path, str | None]:
    """Brings the needed files of a hub repository into the hub's cache.

    Args:
        repo: The hub id.
        access: How the hub is used.
        weights: Whether the weights are needed too.

    Returns:
        The snapshot's directory, and its commit.

    Raises:
        SourceError: The repository cannot be fetched; the message says what the hub answered and what to do.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    def read_weight_map(index: str) -> list[str]:
        path = Path(hf_hub_download(repo, index, revision=access.revision, token=access.token))
        return sorted(set(shard_index.read_weight_map(path).values()))

    with _translated(repo, access.revision):
        if is_offline(access):
            directory = _cached(repo, access, [*FETCHED, INDEX] if weights else list(FETCHED))
            if weights:
                indexed = (directory / INDEX).is_file() and not (directory / SINGLE).is_file()
                files = list(shard_index.read_weight_map(directory / INDEX).values()) if indexed else list(WEIGHTS[0])
                directory = _cached(repo, access, [*FETCHED, INDEX, *sorted(set(files))])
            return directory, directory.name
        info = HfApi(token=access.token).model_info(repo, revision=access.revision)
        names = [entry.rfilename for entry in info.siblings or []]
        files = choose_files(names, weights=weights, read_weight_map=read_weight_map)
        # By the name of the revision, so that the cache remembers it for offline use.
        directory = Path(snapshot_download(repo, revision=access.revision, token=access.token, allow_patterns=files))
        return directory, directory.name


def pin(name: str, access: HubAccess) -> tuple[str, str]:
    """The repository that an address on the hub names, and the commit that its revision is now.

    Args:
        name: "owner/name" or "owner/name@revision".
        access: How the hub is used.

    Raises:
        SourceError: The hub does not have it.
        UsageError: It names something else than a model.
    """
    from huggingface_hub import HfApi

    repo, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) or is_offline(access):
        raise UsageError(f"hf://{name} is not read: expected hf://owner/name or hf://owner/name@revision, and a network.")
    with _translated(repo, revision or None):
        return repo, str(HfApi().model_info(repo, revision=revision or None).sha)


def _cached(repo: str, access: HubAccess, patterns: list[str]) -> Path:
    """The cached snapshot of a repository; huggingface_hub raises if a file that fits the patterns is not in it."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=access.revision, local_files_only=True, allow_patterns=patterns))


def is_offline(access: HubAccess) -> bool:
    """Whether only the cache may be used: by request in `access`, or by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return access.offline or bool(constants.is_offline_mode())


def read_headers(repo: str, access: HubAccess) -> Checkpoint | None:
    """The names, dtypes and shapes of a repository's safetensors, read by ranges.

    Args:
        repo: The hub id.
        access: How the hub is used.

    Returns:
        A checkpoint of headers only; None for a repository without safetensors.

    Raises:
        SourceError: The headers cannot be read; the message says what the hub answered and what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    with _translated(repo, access.revision):
        try:
            headers = HfApi(token=access.token).get_safetensors_metadata(repo, revision=access.revision)
        except NotASafetensorsRepoError:
            return None
        except SafetensorsParsingError as error:
            raise SourceError(f"{repo}: a safetensors header on the hub is damaged: {error}") from None
    tensors = {
        name: _header_only(name, entry.dtype, tuple(entry.shape), repo)
        for file in headers.files_metadata.values()
        for name, entry in file.tensors.items()
    }
    metadata = {key: value for file in headers.files_metadata.values() for key, value in file.metadata.items()}
    return Checkpoint(format_of(metadata), repo, tensors, metadata=metadata, headers_only=True)


def _header_only(name: str, dtype: str, shape: tuple[int, ...], repo: str) -> TensorRef:
    def refuse(*_: object) -> Array:
        raise SourceError(f"{name} is on the hub ({repo}) and only its header was read; `jaxconv convert` fetches it.")

    return TensorRef(name, dtype, shape, refuse, refuse)


@contextlib.contextmanager
def _translated(repo: str, revision: str | None) -> Iterator[None]:
    """Raises what huggingface_hub raises as a `SourceError` with the next step."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{repo} is not a directory here and is not in the hub's cache ({constants.HF_HUB_CACHE}), the only place to "
            "look offline. Check the spelling, or run once without --offline."
        ) from error
    except HfHubHTTPError as error:
        raise SourceError(_hub_message(repo, revision, error)) from error
    except HFValidationError as error:
        raise SourceError(f"{repo} is neither a directory nor a hub id: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what its client makes of JSON that is not the hub's
        raise SourceError(
            f"{repo} is not a directory here, and {constants.ENDPOINT} does not answer as a hub does "
            f"({type(error).__name__}: {str(error)[:200]}). Check HF_ENDPOINT and the network; --offline uses the cache."
        ) from error
    except Exception as error:  # the HTTP client, and so its errors, change with huggingface_hub
        if not is_network_error(error):
            raise
        raise SourceError(
            f"{repo} is not a directory here, and the hub ({constants.ENDPOINT}) cannot be reached: {error}. "
            "Check the path or the network; --offline uses the cache."
        ) from error


def is_network_error(error: Exception) -> bool:
    """Whether `error`, which huggingface_hub let through, comes from the network or the HTTP client."""
    clients = ("httpx", "httpx2", "requests", "httpcore", "httpcore2")
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in clients


def _hub_message(repo: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{repo} is gated on the hub. Accept its terms there, then run `hf auth login` or pass --token."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r} on the hub. Name a branch, a tag or a full commit."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{repo} is neither a directory here nor a model on the hub (or it is private). "
            "Check the spelling; for a private one run `hf auth login` or pass --token."
        )
    return f"{repo}: the hub answered: {str(error).strip().splitlines()[0]}"
