"""Hub id, local folder or URI -> where the files lie on this machine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from jaxconv.errors import SourceError, UsageError
from jaxconv.hub import fetch
from jaxconv.plan import Source

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
URI = re.compile(r"(gs|s3|https?)://")


def resolve(
    source: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    weights: bool = True,
) -> Source:
    """Finds a source: a local folder, a URI that TensorStore opens (with `base`), or a hub id (fetched).

    Config and tokenizer come from `base` where it is given; without `weights` a hub id's stay on the hub. Raises
    `SourceError` for what is not there.
    """
    if base is not None:
        fitting = resolve_base(base, token=token, offline=offline)
        if URI.match(str(source)):
            return Source(str(source).rstrip("/"), str(source).rstrip("/"), fitting.assets, base_id=fitting.hub_id)
        found = resolve(source, revision=revision, token=token, offline=offline, weights=weights)
        return replace(found, assets=fitting.assets, base_id=fitting.hub_id)
    name = str(source)
    if name.startswith("file://"):
        name = unquote(name.removeprefix("file://"))
    if URI.match(name):
        raise SourceError(
            f"{name}: of URIs only the weights of Orbax checkpoints are read: pass --base with the model whose config and "
            "tokenizer fit. Download models in other formats first."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, path, path)
    if path.exists():
        raise SourceError(f"source {name} is a file; expected the folder that holds it: {path.parent}")
    if not HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        raise SourceError(f"source {name} does not exist; expected a folder, or a hub id like Qwen/Qwen3-Reranker-0.6B.")
    folder, commit = fetch(name, revision=revision, token=token, offline=offline, weights=weights)
    return Source(name, folder, folder, hub_id=name, revision=commit)


def resolve_base(base: str | Path, *, token: str | None = None, offline: bool = False) -> Source:
    """Where config and tokenizer of a base lie; of a hub id no weights are fetched."""
    path = Path(base).expanduser()
    if path.is_dir() or not HUB_ID.fullmatch(str(base)):
        return resolve(base, token=token, offline=offline)
    folder, commit = fetch(str(base), revision=None, token=token, offline=offline, weights=False)
    return Source(str(base), folder, folder, hub_id=str(base), revision=commit)


def max_shard_bytes(text: str) -> int:
    """Bytes of a size like "5GB" or "500MB" (decimal, as on the hub). Raises `UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    factor = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    size = int(float(match[1]) * factor[match[2]]) if match else 0
    if size <= 0:
        raise UsageError(f"--max-shard-size {text!r} is no size; expected one like 5GB or 500MB.")
    return size
