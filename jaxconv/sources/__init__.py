"""Where the files of a conversion lie: hub id, local directory or address -> the place of the weights, small files here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from jaxconv.errors import SourceError, UsageError
from jaxconv.sources.hub import HubAccess, fetch, pin
from jaxconv.sources.remote import Fetched, fetch_assets
from jaxconv.storage import check_address, is_address, remote_path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
HTTP = re.compile(r"https?://")  # which TensorStore alone reads


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights, the config and the tokenizer of a conversion lie.

    Attributes:
        name: What the caller named.
        weights: A local path, or the address of a store.
        assets: The local directory with `config.json` and the tokenizer: the same directory, or that of `--base`.
        hub_id: The hub id of the weights, if they came from the hub.
        base_name: The name of the directory of `--base`, if config and tokenizer came from one.
        base_id: The hub id of `--base`, if config and tokenizer came from the hub.
        revision: The commit of the weights on the hub.
        base_revision: The commit of `--base` on the hub.
        fetched: What keeps the assets of an address in a temporary directory.
    """

    name: str
    weights: Path | str
    assets: Path
    hub_id: str | None = None
    base_name: str | None = None
    base_id: str | None = None
    revision: str | None = None
    base_revision: str | None = None
    fetched: Fetched | None = None

    @property
    def address(self) -> str | None:
        """The address of the weights, if they lie in a store. It holds no secret."""
        return self.weights if isinstance(self.weights, str) and "://" in self.weights else None


def resolve(
    source: str | Path, *, base: str | Path | None = None, access: HubAccess | None = None, weights: bool = True
) -> Source:
    """Locates a source: a local directory, an address, whose weights stay there, or a hub id, which is fetched.

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
        raise UsageError("SOURCE is empty. Name a directory, a hub id or an address; the current directory is '.'.")
    if is_address(name) or HTTP.match(name):
        name = check_address(name)
        if access.revision is not None or (access.token is not None and name.startswith("hf://")):
            raise UsageError(
                f"--revision and --token are for hub ids, and {name} is an address. Write hf://owner/name@revision, and log "
                "in with `hf auth login` or HF_TOKEN."
            )
        if base is not None:
            base_source = resolve_base(base, access)
            return with_base(Source(name, name, base_source.assets), base_source)
        return _at_address(name, access)
    if base is not None:
        return with_base(resolve(source, access=access, weights=weights), resolve_base(base, access))
    if name.startswith("file://"):
        name = unquote(name.removeprefix("file://"))
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, path, path)
    if path.exists():
        raise SourceError(f"source {name} is a file; expected the directory that holds it: {path.parent}")
    if not HUB_ID.fullmatch(name) or name.startswith((".", "/", "~")):
        raise SourceError(
            f"source {name} does not exist; expected a directory, a hub id like Qwen/Qwen3-Reranker-0.6B, or an address "
            "(gs://, s3://, az://, hf://)."
        )
    directory, commit = fetch(name, access, weights=weights)
    return Source(name, directory, directory, hub_id=name, revision=commit)


def _at_address(name: str, access: HubAccess) -> Source:
    """The source at an address that brings its config."""
    if HTTP.match(name):
        raise SourceError(
            f"{name}: only the weights of Orbax checkpoints are read over HTTP. Pass --base with the model whose config and "
            "tokenizer fit, or download a model in another format first."
        )
    if not name.startswith("hf://"):
        fetched = fetch_assets(remote_path(name))
        return Source(name, name, fetched.directory, fetched=fetched)
    repo, commit = pin(name.removeprefix("hf://"), access)
    address = f"hf://{repo}@{commit}"
    fetched = fetch_assets(remote_path(address))
    return Source(name, address, fetched.directory, hub_id=repo, revision=commit, fetched=fetched)


def with_base(source: Source, base: Source) -> Source:
    """A source whose config and tokenizer are those of `base`."""
    name = str(base.weights) if isinstance(base.weights, str) else base.assets.resolve().name
    return replace(
        source,
        assets=base.assets,
        base_name=name if base.hub_id is None else None,
        base_id=base.hub_id,
        base_revision=base.revision,
        fetched=base.fetched,
    )


def resolve_base(base: str | Path, access: HubAccess | None = None) -> Source:
    """Locates the config and tokenizer of a base; the weights of a hub id are not fetched.

    Args:
        base: The base as the caller names it: a directory, an address or a hub id.
        access: How the hub is used. Its `revision` belongs to the weights and is not applied to the base.

    Raises:
        SourceError: The base does not exist or cannot be fetched.
        UsageError: The base is an empty string.
    """
    access = replace(access or HubAccess(), revision=None)
    if not str(base).strip():
        raise UsageError("--base is empty. Name a directory, an address or a hub id; the current directory is '.'.")
    if Path(base).expanduser().is_dir() or not HUB_ID.fullmatch(str(base)):
        return resolve(base, access=access)
    directory, commit = fetch(str(base), access, weights=False)
    return Source(str(base), directory, directory, hub_id=str(base), revision=commit)
