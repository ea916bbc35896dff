"""The one list of the files beside the weights, and what each is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from jaxconv.errors import SourceError
from jaxconv.file_errors import reading, unreadable


@dataclass(frozen=True, slots=True)
class AssetPattern:
    """Files of a model repository. Every one is fetched from the hub.

    Attributes:
        pattern: A file name, or a path below the repository's root, with shell wildcards.
        copy: Whether the output holds it too, byte for byte; `verify` compares them.
        pictures: Whether it says how pictures are read, which a model of text alone has no use for.
    """

    pattern: str
    copy: bool
    pictures: bool = False


ASSETS = (
    AssetPattern("config.json", copy=False),
    AssetPattern("generation_config.json", copy=False),
    AssetPattern("tokenizer*", copy=True),
    AssetPattern("special_tokens_map.json", copy=True),
    AssetPattern("added_tokens.json", copy=True),
    AssetPattern("vocab.*", copy=True),
    AssetPattern("merges.txt", copy=True),
    AssetPattern("*.tiktoken", copy=True),
    AssetPattern("spiece.model", copy=True),
    AssetPattern("sentencepiece.bpe.model", copy=True),
    AssetPattern("chat_template*", copy=True),
    AssetPattern("additional_chat_templates/*", copy=True),
    AssetPattern("preprocessor_config.json", copy=True, pictures=True),
    AssetPattern("video_preprocessor_config.json", copy=True, pictures=True),
    AssetPattern("processor_config.json", copy=True, pictures=True),
    # What stands beside config.json about quantisation; where it lists plain modules, the output's copy names `score` too.
    AssetPattern("hf_quant_config.json", copy=True),
    AssetPattern("quantize_config.json", copy=True),
    AssetPattern("quant_config.json", copy=True),
    AssetPattern("LICENSE*", copy=True),
    AssetPattern("NOTICE*", copy=True),
    # The record of sentence-transformers: read, and written anew for the classifier.
    AssetPattern("modules.json", copy=False),
    AssetPattern("sentence_bert_config.json", copy=False),
    AssetPattern("*LogitScore/config.json", copy=False),
    AssetPattern("config_sentence_transformers.json", copy=False),
    AssetPattern("README.md", copy=False),
    AssetPattern("adapter_config.json", copy=False),  # tells an adapter from a model
)
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
FETCHED = tuple(asset.pattern for asset in ASSETS)
OF_PICTURES = frozenset(asset.pattern for asset in ASSETS if asset.pictures)
COPIED = tuple(asset.pattern for asset in ASSETS if asset.copy)


def is_fetched(name: str) -> bool:
    """Whether the file `name` of a hub repository, a path from its root, is needed beside the weights."""
    return any(fnmatch(name, pattern) for pattern in FETCHED)


def copied_names(directory: Path) -> list[str]:
    """The files of `directory` that an output holds byte for byte, by their path from the directory, sorted."""
    with reading(directory):
        names = list(_files(directory))
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in COPIED))


def _files(directory: Path) -> Iterator[str]:
    """Files of the directory and of its subdirectories that a pattern names."""
    subdirectories = {pattern.split("/")[0] for pattern in COPIED if "/" in pattern}
    for entry in directory.iterdir():
        if entry.is_file():
            yield entry.name
        elif entry.name in subdirectories and entry.is_dir():
            yield from (f"{entry.name}/{child.name}" for child in entry.iterdir() if child.is_file())


def read_copied(directory: Path, *, pictures: bool = True) -> dict[str, bytes]:
    """The content of every file of `directory` that is copied to the output, by its path from the directory.

    Args:
        directory: The source's directory.
        pictures: Whether the output reads pictures; without them it has no processor's files.

    Raises:
        SourceError: A file cannot be read, or is a symbolic link that leads out of the source.
    """
    names = [name for name in copied_names(directory) if pictures or name not in OF_PICTURES]
    return {name: read_asset(directory, name) for name in names}


def check_processor(directory: Path) -> None:
    """Raises `SourceError` if `directory` lacks the files that say how pictures are cut up; nobody serves without them."""
    if not any((directory / name).is_file() for name in PROCESSOR):
        raise SourceError(
            f"{directory} has neither {' nor '.join(PROCESSOR)}, which say how pictures are read. Copy the processor's files "
            "from the model that it was trained from."
        )


def read_asset(directory: Path, name: str) -> bytes:
    """The content of one file of the source.

    Args:
        directory: The source's directory.
        name: The file's path from the directory.

    Raises:
        SourceError: The file cannot be read, or is a symbolic link that leads out of the source.
    """
    path = directory / name
    try:
        _check_inside(directory, path)
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def _check_inside(directory: Path, path: Path) -> None:
    """Raises `SourceError` for a link to a file that belongs neither to the source nor to the hub's cache."""
    target = path.resolve(strict=True)
    inside = [directory.resolve()]
    if directory.parent.name == "snapshots":  # the hub's cache: links to ../../blobs
        inside.append(directory.resolve().parent.parent / "blobs")
    if not any(target.is_relative_to(root) for root in inside):
        raise SourceError(
            f"{path} is a symbolic link that leads out of the source, to {target}; it would be published. "
            "Replace the link with the file itself, or remove it."
        )
