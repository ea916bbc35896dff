"""`push`: an output whose structure is proved first, uploaded to the hub by huggingface_hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxconv.arguments import checked
from jaxconv.bundle.provenance import PROVENANCE
from jaxconv.errors import OutputError, RefusedError, SourceError, UsageError, VerificationError
from jaxconv.json_files import JsonDict, read_optional_object
from jaxconv.sources.hub import is_network_error
from jaxconv.verification import verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What an earlier push may have left in the repository. Two sets of weights side by side would be a model that nobody proved.
REPLACED = ("*.safetensors", "*.safetensors.index.json")
NOT_UPLOADED = (".*", ".*/**")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was uploaded.

    Attributes:
        url: The page of the repository.
        commit: The commit that holds the output.
        tensors: How many backbone tensors were shown to be the source's before.
    """

    url: str
    commit: str
    tensors: int


@checked
def push(
    output: str | Path,
    repo_id: str,
    *,
    source: str | Path | None = None,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
    public: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Proves the structure of an output (`verify` with `structure_only`), then uploads it to the hub.

    The files of an earlier push stay, except weights that the output does not have: those are removed.

    Args:
        output: The directory that `convert` wrote.
        repo_id: The repository, `owner/name`; created if it does not exist.
        source: What the output was converted from. A hub id with its commit is recorded in the output and taken from there.
        base: The model whose config and tokenizer were used; a hub id is recorded too.
        adapter: The directory of the adapter that was merged, if one was.
        public: Whether a new repository is public; private if not. An existing public one is only written to if this is set.
        revision: The branch to write to, created if it does not exist; the default branch if None.
        commit_message: The message of the commit.
        token: Hub token; the one that huggingface_hub stored if None.

    Returns:
        Where the output is now.

    Raises:
        OutputError: `output` is not a directory that `convert` wrote.
        UsageError: The source, base or adapter is not recorded and was not named.
        VerificationError: The output is not its source.
        RefusedError: The repository is public, and `public` is not set.
        SourceError: The source cannot be read, or the hub refuses.

    Example:
        >>> jaxconv.push("out", "me/my-reranker-seq-cls").url
        'https://huggingface.co/me/my-reranker-seq-cls'
    """
    folder = Path(output).expanduser()
    record = _record(folder)
    tensors = _prove(folder, record, source, base, adapter, token)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _translated(repo_id):
        _check_card(folder)
        _prepare(api, repo_id, public, revision)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message
            or f"Classifier of {record['source']}, converted by jaxconv {record.get('jaxconv')}",
            ignore_patterns=list(NOT_UPLOADED),
            delete_patterns=list(REPLACED),
        )
    return Pushed(f"{api.endpoint}/{repo_id}", str(commit.oid), tensors)


def _record(folder: Path) -> JsonDict:
    """The record of a conversion. Raises `OutputError`."""
    record = read_optional_object(folder / PROVENANCE, "Convert the source again.")
    if record is None:
        raise OutputError(
            f"{folder} has no {PROVENANCE}, so it is not an output of jaxconv. Name a directory that `jaxconv convert` wrote."
        )
    parts = (record.get("base", {}), record.get("adapter", {}))
    if not isinstance(record.get("source"), str) or not all(isinstance(part, dict) for part in parts):
        raise OutputError(f"{folder / PROVENANCE} does not record a conversion. Convert the source again.")
    return record


def _prove(
    folder: Path,
    record: JsonDict,
    source: str | Path | None,
    base: str | Path | None,
    adapter: str | Path | None,
    token: str | None,
) -> int:
    """Shows that the output is its source; how many tensors were compared."""
    revision = None
    if source is None:
        if record.get("revision") is None:
            raise UsageError(
                f"{folder} was converted from {record.get('source')!r}, which is not on the hub. Name it: --source DIR."
            )
        source, revision = str(record["source"]), str(record["revision"])
    if adapter is None and "adapter" in record:
        raise UsageError(
            f"{folder} has an adapter merged ({record['adapter'].get('name')}). Name its directory: --adapter DIR."
        )
    if base is None and "base" in record:
        if "id" not in record["base"]:
            name = record["base"].get("name")
            raise UsageError(f"{folder} has its config and tokenizer from {name!r}, a directory. Name it: --base DIR.")
        base = str(record["base"]["id"])
    layout = record.get("layout")  # which the caller of the conversion may have named
    report = verify(
        source, folder, structure_only=True, base=base, layout=layout, adapter=adapter, revision=revision, token=token
    )
    if not report.passed:
        problems = [*report.structure.mismatched, *report.findings] or ["the head is not the rows of the source"]
        raise VerificationError(
            f"{folder} is not the classifier of {source}, so nothing was uploaded: {'; '.join(map(str, problems[:3]))}. "
            f"`jaxconv verify {source} {folder}` says more; convert again."
        )
    return report.structure.tensors


def _check_card(folder: Path) -> None:
    """Asks the hub's own validator about the card's header. Raises `RefusedError`."""
    from huggingface_hub import ModelCard

    if not (folder / "README.md").is_file():
        return
    try:
        ModelCard.load(folder / "README.md").validate()
    except ValueError as error:
        raise RefusedError(f"{folder / 'README.md'}: the hub does not accept its header: {error}. Mend the header.") from None


def _prepare(api: HfApi, repo_id: str, public: bool, revision: str | None) -> None:
    """The repository and the branch exist afterwards. Raises `RefusedError` for a public one that nobody asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.model_info(repo_id).private)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=not public)
    else:
        if not private and not public:
            raise RefusedError(f"{repo_id} exists and is public. Pass --public to publish there, or name another repository.")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


@contextlib.contextmanager
def _translated(repo_id: str) -> Iterator[None]:
    """Raises what huggingface_hub raises as a `SourceError` or `UsageError` with the next step."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not the name of a repository: {error}. Expected owner/name.") from error
    except LocalTokenNotFoundError as error:
        raise SourceError("the hub wants to know who uploads. Run `hf auth login`, or pass --token.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = (
            "Run `hf auth login` with a token that may write there, or pass --token."
            if status in (401, 403)
            else "Try again."
        )
        raise SourceError(f"{repo_id}: the hub answered: {str(error).strip().splitlines()[0].rstrip('.')}. {hint}") from error
    except ValueError as error:
        raise RefusedError(f"{repo_id}: the hub refuses what would be uploaded: {error}") from error
    except Exception as error:  # a RuntimeError names the file whose upload broke
        if not is_network_error(error) and not isinstance(error, RuntimeError):
            raise
        raise SourceError(
            f"{repo_id} cannot be uploaded to {constants.ENDPOINT}: {error}. Check the network and try again."
        ) from error
