"""A query or a document with pictures, read from an object, and the one string that a template gets of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from jaxconv.errors import BackendUnavailable, UsageError
from jaxconv.json_files import JsonDict, JsonObject, Unchecked
from jaxconv.pictures.loading import Picture, PictureAccess, check_reference, read_picture

EXPECTED = (
    'a text, {"image": path or URL, "text": …}, or a request\'s {"content": [{"type": "image_url", "image_url": {"url": …}}, '
    '{"type": "text", "text": …}]}'
)


@dataclass(frozen=True, slots=True)
class Side:
    """A query or a document that has pictures.

    Attributes:
        text: Its texts, joined by newlines as vLLM joins them.
        pictures: Its pictures, at least one.
    """

    text: str
    pictures: tuple[Picture, ...]

    def __str__(self) -> str:
        names = "".join(f"[{picture.name}]" for picture in self.pictures)
        return f"{names} {self.text}" if self.text else names

    def marks(self, mark: str) -> str:
        """The marks that come before the text: one for each picture that the text does not place itself.

        Args:
            mark: What stands for a picture in a prompt.

        Raises:
            UsageError: The text has more marks than there are pictures.
        """
        missing = len(self.pictures) - self.text.count(mark)
        if missing < 0:
            raise UsageError(
                f"{self.text!r:.80} has {self.text.count(mark)} times {mark!r}, which stands for a picture, and there are "
                f"{len(self.pictures)} pictures; expected no more marks than pictures. Leave the marks out."
            )
        return mark * missing

    def request(self) -> JsonDict:
        """The side as a request to vLLM has it."""
        parts: list[JsonDict] = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in self.pictures]
        return {"content": [*parts, *([{"type": "text", "text": self.text}] if self.text else [])]}


SideText: TypeAlias = str | Side
SideLike: TypeAlias = str | Mapping[str, Unchecked]  # a text, or {"image": path or URL, "text": …}


def side_of(value: SideLike, access: PictureAccess, where: str) -> SideText:
    """A side of a pair; one without pictures is its text.

    Args:
        value: A text, or an object with pictures.
        access: Where pictures may come from.
        where: What the side is called in an error message.

    Raises:
        UsageError: The object has another form, or a picture cannot be read.
    """
    if isinstance(value, str):
        return value
    texts, references = entries_of(value, where)
    with _named(where):
        pictures = tuple(read_picture(reference, access) for reference in references)
    return Side("\n".join(texts), pictures) if pictures else "\n".join(texts)


def check_side(value: SideLike, access: PictureAccess, where: str) -> bool:
    """Whether a side has pictures, which are looked for and not read.

    Args:
        value: A text, or an object with pictures.
        access: Where pictures may come from.
        where: What the side is called in an error message.

    Raises:
        UsageError: The object has another form, or a picture is not there.
    """
    references = entries_of(value, where)[1]
    with _named(where):
        for reference in references:
            check_reference(reference, access)
    return bool(references)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Says in an error which side it is about."""
    try:
        yield
    except BackendUnavailable:
        raise
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def entries_of(value: Unchecked, where: str) -> tuple[list[str], list[str | Path]]:
    """The texts and the references to pictures of an object; nothing is read.

    Args:
        value: A text, or an object with pictures.
        where: What the side is called in an error message.

    Raises:
        UsageError: The object has another form.
    """
    if isinstance(value, str):
        return [value], []
    parts = list(_parts(value))
    texts = [part for kind, part in parts if kind == "text" and isinstance(part, str)]
    references = [part for kind, part in parts if kind == "image" and isinstance(part, str | Path) and str(part)]
    if not parts or len(texts) + len(references) != len(parts):
        raise UsageError(f"{where} is {value!r:.120}; expected {EXPECTED}.")
    return texts, references


def _parts(value: Unchecked) -> Iterator[tuple[str, Unchecked]]:
    """The kind ("image", "text", or another for what is not known) and the content of each part."""
    if not isinstance(value, Mapping):
        yield "unknown", value
    elif set(value) == {"content"} and isinstance(value["content"], list):
        for part in value["content"]:
            yield _part(part if isinstance(part, Mapping) else {})
    else:
        images = value.get("image", [])
        yield from (("image", image) for image in (images if isinstance(images, list | tuple) else [images]))
        yield from (("text", value["text"]) for _ in range("text" in value))
        yield from (("unknown", key) for key in value.keys() - {"image", "text"})


def _part(part: JsonObject) -> tuple[str, Unchecked]:
    kind, content = part.get("type"), None
    if kind == "image_url":
        url = part.get("image_url")
        return "image", url.get("url") if isinstance(url, Mapping) else url
    if kind in ("image", "text"):
        content = part.get(str(kind))
    return str(kind), content


def text_of(side: SideText, mark: str | None) -> str:
    """The one string that a template gets of a side: the marks of its pictures, then its text.

    Args:
        side: The side.
        mark: What stands for a picture in a prompt; None for a model of text.

    Raises:
        UsageError: The side has pictures and the model reads none, or its text has too many marks.
    """
    if isinstance(side, str):
        return side
    if mark is None:
        raise UsageError(f"{str(side)!r:.80} has a picture, and the model reads text alone; expected pairs of text.")
    return side.marks(mark) + side.text
