"""Hub id, local folder or URI -> where the files lie on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

from jaxconv.errors import SourceError, UsageError
from jaxconv.plan import Source

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
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
URI = re.compile(r"(gs|s3|https?)://")


def resolve(
    source: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
) -> Source:
    """Finds a source: a local folder, a URI that TensorStore opens (with `base`), or a hub id (fetched).

    Config and tokenizer come from `base` where it is given. Raises `SourceError` for what is not there.
    """
    if base is not None:
        fitting = resolve_base(base, token=token, offline=offline)
        if URI.match(str(source)):
            return Source(str(source).rstrip("/"), str(source).rstrip("/"), fitting.assets, base_id=fitting.hub_id)
        found = resolve(source, revision=revision, token=token, offline=offline)
        return replace(found, assets=fitting.assets, base_id=fitting.hub_id)
    name = str(source)
    if name.startswith("file://"):
        name = unquote(name.removeprefix("file://"))
    if URI.match(name):
        raise SourceError(f"{name} holds only weights: pass --base with the model whose config and tokenizer fit.")
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, path, path)
    if path.exists():
        raise SourceError(f"source {name} is a file; expected the folder that holds it: {path.parent}")
    if not HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        raise SourceError(f"source {name} does not exist; expected a folder, or a hub id like Qwen/Qwen3-Reranker-0.6B.")
    folder, commit = fetch(name, revision=revision, token=token, offline=offline, weights=True)
    return Source(name, folder, folder, hub_id=name, revision=commit)


def resolve_base(base: str | Path, *, token: str | None = None, offline: bool = False) -> Source:
    """Where config and tokenizer of a base lie; of a hub id no weights are fetched."""
    path = Path(base).expanduser()
    if path.is_dir() or not HUB_ID.fullmatch(str(base)):
        return resolve(base, token=token, offline=offline)
    folder, commit = fetch(str(base), revision=None, token=token, offline=offline, weights=False)
    return Source(str(base), folder, folder, hub_id=str(base), revision=commit)


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
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    local_only = offline or constants.is_offline_mode()
    try:
        if local_only:
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
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{repo} is no folder here and is not in the hub's cache ({constants.HF_HUB_CACHE}), which is all that may be "
            "used offline. Check the spelling, or run once without --offline."
        ) from error
    except HfHubHTTPError as error:
        raise SourceError(_hub_message(repo, revision, error)) from error
    except HFValidationError as error:
        raise SourceError(f"{repo} is neither a folder nor a hub id: {error}") from error
    except OSError as error:
        raise SourceError(
            f"{repo} is no folder here, and the hub ({constants.ENDPOINT}) cannot be reached: {error}. "
            "Check the path or the network; --offline uses the cache."
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "requests", "httpcore", "httpcore2"):
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


def max_shard_bytes(text: str) -> int:
    """Bytes of a size like "5GB" or "500MB" (decimal, as on the hub). Raises `UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    factor = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    size = int(float(match[1]) * factor[match[2]]) if match else 0
    if size <= 0:
        raise UsageError(f"--max-shard-size {text!r} is no size; expected one like 5GB or 500MB.")
    return size
