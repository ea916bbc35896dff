"""Where the files of a conversion lie: hub id, local directory or URI -> paths on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from jaxconv.errors import SourceError, UsageError
from jaxconv.sources.hub import HubAccess, fetch

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
URI = re.compile(r"(gs|s3|https?)://")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights, the config and the tokenizer of a conversion lie.

    Attributes:
        name: What the caller named.
        weights: A local path, or a URI that TensorStore opens.
        assets: The local directory with `config.json` and the tokenizer: the same directory, or that of `--base`.
        hub_id: The hub id of the weights, if they came from the hub.
        base_name: The name of the directory of `--base`, if config and tokenizer came from one.
        base_id: The hub id of `--base`, if config and tokenizer came from the hub.
        revision: The commit of the weights on the hub.
        base_revision: The commit of `--base` on the hub.
    """

    name: str
    weights: Path | str
    assets: Path
    hub_id: str | None = None
    base_name: str | None = None
    base_id: str | None = None
    revision: str | None = None
    base_revision: str | None = None


def resolve(
    source: str | Path, *, base: str | Path | None = None, access: HubAccess | None = None, weights: bool = True
) -> Source:
    """Locates a source: a local directory, a URI that TensorStore opens (with `base`), or a hub id, which is fetched.

    Args:
        source: The source as the caller names it.
        base: A model whose config and tokenizer are used instead of the source's own.
        access: How the hub is used; the defaults of huggingface_hub if None.
        weights: Whether the weights of a hub id are fetched too.

    Raises:
        SourceError: The source does not exist or cannot be fetched.
        UsageError: The source is an empty string.
    """
    access = access or HubAccess()
    name = str(source)
    if not name.strip():
        raise UsageError("SOURCE is empty. Name a directory, a hub id or a URI; the current directory is '.'.")
    if base is not None:
        base_source = resolve_base(base, access)
        if URI.match(name):
            located = Source(name.rstrip("/"), name.rstrip("/"), base_source.assets)
        else:
            located = resolve(source, access=access, weights=weights)
        return with_base(located, base_source)
    if name.startswith("file://"):
        name = unquote(name.removeprefix("file://"))
    if URI.match(name):
        raise SourceError(
            f"{name}: only the weights of Orbax checkpoints are read from a URI. Pass --base with the model whose config and "
            "tokenizer fit, or download a model in another format first."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, path, path)
    if path.exists():
        raise SourceError(f"source {name} is a file; expected the directory that holds it: {path.parent}")
    if not HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        raise SourceError(f"source {name} does not exist; expected a directory, or a hub id like Qwen/Qwen3-Reranker-0.6B.")
    directory, commit = fetch(name, access, weights=weights)
    return Source(name, directory, directory, hub_id=name, revision=commit)


def with_base(source: Source, base: Source) -> Source:
    """A source whose config and tokenizer are those of `base`."""
    name = base.assets.resolve().name if base.hub_id is None else None
    return replace(source, assets=base.assets, base_name=name, base_id=base.hub_id, base_revision=base.revision)


def resolve_base(base: str | Path, access: HubAccess | None = None) -> Source:
    """Locates the config and tokenizer of a base; the weights of a hub id are not fetched.

    Args:
        base: The base as the caller names it: a directory or a hub id.
        access: How the hub is used. Its `revision` belongs to the weights and is not applied to the base.

    Raises:
        SourceError: The base does not exist or cannot be fetched.
        UsageError: The base is an empty string.
    """
    access = replace(access or HubAccess(), revision=None)
    if not str(base).strip():
        raise UsageError("--base is empty. Name a directory or a hub id; the current directory is '.'.")
    if Path(base).expanduser().is_dir() or not HUB_ID.fullmatch(str(base)):
        return resolve(base, access=access)
    directory, commit = fetch(str(base), access, weights=False)
    return Source(str(base), directory, directory, hub_id=str(base), revision=commit)
