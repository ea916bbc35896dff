"""The hub, through huggingface_hub: the files that a conversion needs, or only the headers of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxconv.checkpoint import Array, Checkpoint, TensorRef
from jaxconv.errors import SourceError
from jaxconv.readers.safetensors import container

# What may be needed beside the weights: config, tokenizer, sentence-transformers' record, licence and card.
ASSETS = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.tiktoken", "spiece.model", "chat_template*", "additional_chat_templates/*",
    "modules.json", "1_LogitScore/config.json", "config_sentence_transformers.json", "README.md", "LICENSE*", "NOTICE*",
)  # fmt: skip
# The first group that the repository has is the one fetched; never *.bin where safetensors exist.
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)


def choose_files(names: Sequence[str], *, weights: bool) -> list[str]:
    """The files of a repository that a conversion needs: assets, and one format of weights."""
    chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in ASSETS)]
    for group in WEIGHTS if weights else ():
        found = [name for name in names if any(fnmatch(name, pattern) for pattern in group)]
        if found:
            return chosen + found
    return chosen


def fetch(repo: str, *, revision: str | None, token: str | None, offline: bool, weights: bool) -> tuple[Path, str | None]:
    """Brings the needed files of a hub repository into the hub's cache: the snapshot folder and its commit.

    Raises `SourceError` naming what the hub answered and what to do.
    """
    from huggingface_hub import HfApi, snapshot_download

    with _translated(repo, revision):
        if is_offline(offline):
            # A cached snapshot counts as complete when what we would have fetched is there.
            needed = [*ASSETS, *WEIGHTS[0]]
            folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=needed))
            return folder, folder.name
        info = HfApi(token=token).model_info(repo, revision=revision)
        names = [entry.rfilename for entry in info.siblings or []]
        files = choose_files(names, weights=weights)
        # By the name of the revision, so that the cache remembers it for offline use.
        folder = Path(snapshot_download(repo, revision=revision, token=token, allow_patterns=files))
        return folder, folder.name


def is_offline(asked: bool) -> bool:
    """Whether only the cache may be used: asked for, or by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return asked or bool(constants.is_offline_mode())


def read_headers(repo: str, *, revision: str | None, token: str | None) -> Checkpoint | None:
    """The names, dtypes and shapes of a repository's safetensors, by ranges of the files; None without safetensors.

    Raises `SourceError` naming what the hub answered and what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    with _translated(repo, revision):
        try:
            found = HfApi(token=token).get_safetensors_metadata(repo, revision=revision)
        except NotASafetensorsRepoError:
            return None
        except SafetensorsParsingError as error:
            raise SourceError(f"{repo}: a safetensors header on the hub is damaged: {error}") from None
    tensors = {
        name: _header_only(name, entry.dtype, tuple(entry.shape), repo)
        for file in found.files_metadata.values()
        for name, entry in file.tensors.items()
    }
    metadata = {key: value for file in found.files_metadata.values() for key, value in file.metadata.items()}
    return Checkpoint(container(metadata), repo, tensors, metadata=metadata, headers_only=True)


def _header_only(name: str, dtype: str, shape: tuple[int, ...], repo: str) -> TensorRef:
    def refuse(*_: object) -> Array:
        raise SourceError(f"{name} lies on the hub ({repo}) and only its header was read; expected `convert` to fetch it.")

    return TensorRef(name, dtype, shape, refuse, refuse)


@contextlib.contextmanager
def _translated(repo: str, revision: str | None) -> Iterator[None]:
    """What huggingface_hub raises as a `SourceError` with the next step."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{repo} is no folder here and is not in the hub's cache ({constants.HF_HUB_CACHE}), which is all that may be "
            "used offline. Check the spelling, or run once without --offline."
        ) from error
    except HfHubHTTPError as error:
        raise SourceError(_hub_message(repo, revision, error)) from error
    except HFValidationError as error:
        raise SourceError(f"{repo} is neither a folder nor a hub id: {error}") from error
    except Exception as error:  # the HTTP client, and so its errors, change with huggingface_hub
        clients = ("httpx", "httpx2", "requests", "httpcore", "httpcore2")
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in clients:
            raise
        raise SourceError(
            f"{repo} is no folder here, and the hub ({constants.ENDPOINT}) cannot be reached: {error}. "
            "Check the path or the network; --offline uses the cache."
        ) from error


def _hub_message(repo: str, revision: str | None, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return f"{repo} is gated on the hub. Accept its terms there, then run `hf auth login` or pass --token."
    if kind == "RevisionNotFoundError":
        return f"{repo} has no revision {revision!r} on the hub. Name a branch, a tag or a full commit."
    if kind == "RepositoryNotFoundError":
        return (
            f"{repo} is neither a folder here nor a model on the hub (or it is private). "
            "Check the spelling; for a private one run `hf auth login` or pass --token."
        )
    return f"{repo}: the hub answered: {str(error).strip().splitlines()[0]}"
