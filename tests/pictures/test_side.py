"""Sides of pairs with pictures: their forms, their one string, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jaxconv.errors import UsageError
from jaxconv.pictures import PictureAccess, Side, side_of, text_of
from tests.support.multimodal import picture

MARK = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture
def access(tmp_path: Path) -> PictureAccess:
    """A directory with two pictures."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(20, 31))
    return PictureAccess(tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a text", "a text"),
        ({"text": "a text"}, "a text"),
        ({"image": "a.png"}, MARK),
        ({"image": Path("a.png"), "text": "of it"}, MARK + "of it"),
        ({"image": ["a.png", "b.png"], "text": "two"}, MARK * 2 + "two"),
        ({"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, "one\ntwo"),
        (
            {"content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "a.png"}}]},
            MARK + "x",
        ),
        ({"content": [{"type": "image", "image": "a.png"}]}, MARK),
        (
            {"content": [{"type": "text", "text": "x"}, {"type": "image", "image": "a.png"}, {"type": "text", "text": "y"}]},
            MARK + "x\ny",
        ),
        ({"image": ["a.png", "b.png"], "text": f"a {MARK} within"}, f"{MARK}a {MARK} within"),
    ],
)
def test_a_side_is_one_string(value: Any, expected: str, access: PictureAccess) -> None:
    """Marks that the text lacks, then the texts joined by newlines."""
    assert text_of(side_of(value, access, "query"), MARK) == expected


@pytest.mark.parametrize(
    "value",
    [
        {}, {"image": []}, {"image": 3}, {"image": ""}, {"text": 3}, {"image": "a.png", "caption": "x"}, {"content": []},
        {"content": "a.png"}, {"content": ["a.png"]}, {"content": [{"type": "video_url", "video_url": {"url": "x"}}]},
        {"content": [{"type": "image_url"}]}, {"content": [{"type": "text"}]}, 3, None, ["a.png"],
    ],
)  # fmt: skip
def test_other_forms_are_refused(value: Any, access: PictureAccess) -> None:
    """The message names the side and the forms."""
    with pytest.raises(UsageError, match=r"line 3, query, is .*expected a text, .*image"):
        side_of(value, access, "line 3, query,")


def test_a_text_with_more_marks_than_pictures_is_refused(access: PictureAccess) -> None:
    """As vLLM refuses it."""
    side = side_of({"image": "a.png", "text": MARK * 2}, access, "query")
    with pytest.raises(UsageError, match=r"2 times .*1 pictures"):
        text_of(side, MARK)


def test_a_model_of_text_takes_no_picture(access: PictureAccess) -> None:
    """Whatever the side's text."""
    with pytest.raises(UsageError, match=r"\[a\.png\].* has a picture, and the model reads text alone"):
        text_of(side_of({"image": "a.png", "text": "x"}, access, "query"), None)


def test_a_request_has_data_urls(access: PictureAccess) -> None:
    """As vLLM's /score takes a query or a document."""
    side = side_of({"image": "a.png", "text": "x"}, access, "query")
    assert isinstance(side, Side)
    image, text = side.request()["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "x"}
    again = side_of(side.request(), access, "query")
    assert isinstance(again, Side) and again.pictures[0].data == side.pictures[0].data
