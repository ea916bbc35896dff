"""`verify --report`: a self-contained page and its numbers, also for outputs that fail."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import OutputError
from jaxconv.verification import charts
from tests.verification.test_tampering import config, rounded, saved
from tests.verification.test_verify import converted

PAIRS = [("is it <b>bold</b> & <script>alert(1)</script>", "the that"), ("no", "this"), ("was {{ x }}", "")]


class Page(HTMLParser):
    """The tags of a page, checked to be closed in order, with the text of its parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the tag."""
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Must close what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keeps what a reader sees."""
        if "style" not in self.open:
            self.text += data

    def count(self, tag: str, kind: str | None = None) -> int:
        """How many of these tags there are, with this class."""
        return sum(t == tag and (kind is None or kind in (a.get("class") or "").split()) for t, a in self.tags)


def reported(
    source: Path, output: Path, folder: Path, **options: Any
) -> tuple[Page, dict[str, Any], jaxconv.verification.Report]:
    """The page, the numbers and the report itself."""
    report = jaxconv.verify(source, output, report=folder, pairs=PAIRS, backend="jax", **options)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    return Page((folder / "report.html").read_text("utf-8")), json.loads((folder / "report.json").read_text("utf-8")), report


def test_a_good_output_has_a_page(qwen3: Path, tmp_path: Path) -> None:
    """A dot for each pair and every score in a bar, all within the tolerance; the JSON has each pair and all of --json."""
    page, numbers, report = reported(qwen3, converted(qwen3, tmp_path), tmp_path / "deep" / "report")
    assert report.passed and "✓ Passed" in page.text and "What is wrong" not in page.text
    assert page.count("circle") == 3 and page.count("circle", "far") == page.count("rect", "far") == 0
    assert numbers.pop("source") == str(qwen3) and numbers.pop("output") == str(tmp_path / "out")
    rows = numbers.pop("pairs")
    assert numbers == report.to_json()
    assert [(row["query"], row["document"]) for row in rows] == PAIRS
    assert report.scores is not None
    for row, wanted, found in zip(rows, report.scores.source, report.scores.output, strict=True):
        assert (row["source"], row["output"], row["error"], row["label"]) == (wanted[0], found[0], found[0] - wanted[0], 0)


def test_a_failed_output_has_a_page(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, every finding on the page, and the scores that are off marked."""
    output = converted(qwen3, tmp_path, scale=50.0)
    saved(rounded)(output)
    config(num_labels=2)(output)
    page, numbers, report = reported(qwen3, output, tmp_path / "report")
    assert not report.passed and len(report.findings) >= 3 and "✗ Failed" in page.text
    assert all(finding in page.text for finding in numbers["findings"])
    assert page.count("circle", "far") > 0 and page.count("rect", "far") > 0 and page.count("td", "bad") > 0
    assert main(["verify", str(qwen3), str(output), "--structure-only", "--report", str(tmp_path / "again")]) == 1
    assert "FAILED" in capsys.readouterr().out
    again = Page((tmp_path / "again" / "report.html").read_text("utf-8"))
    assert "not compared" in again.text and again.count("svg") == 0 and "✗ Failed" in again.text


def test_several_labels_have_a_row_each(qwen3: Path, tmp_path: Path) -> None:
    """Pairs times labels."""
    output = converted(qwen3, tmp_path, method="no_post_processing")
    page, numbers, _ = reported(qwen3, output, tmp_path / "report")
    assert [row["label"] for row in numbers["pairs"]] == [0, 1] * 3 and page.count("circle") == 6
    assert "Label" in page.text


def test_scores_that_are_not_finite_are_said(qwen3: Path, tmp_path: Path) -> None:
    """NaN is null in the JSON and words on the page, not a dot."""
    output = converted(qwen3, tmp_path)
    name = "model.norm.weight"
    saved(lambda tensors: {**tensors, name: torch.full_like(tensors[name], float("inf"))})(output)
    page, numbers, _ = reported(qwen3, output, tmp_path / "report")
    assert [row["error"] for row in numbers["pairs"]] == [None] * 3 and page.count("circle") == 0
    assert "3 differences are not finite" in page.text and "not finite" in page.text


def test_the_page_needs_nothing_else(qwen3: Path, tmp_path: Path) -> None:
    """No script, no address, nothing to load; what pairs hold is text; charts have names; dark and light have colours."""
    page, _, _ = reported(qwen3, converted(qwen3, tmp_path), tmp_path / "report")
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "b", "object", "a"}
    attributes = {name for _, found in page.tags for name in found}
    assert not attributes & {"src", "href", "style", "onload", "xlink:href"}
    text = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text and PAIRS[0][0] in page.text and "{{ x }}" in page.text
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    drawings = [found for tag, found in page.tags if tag == "svg"]
    assert len(drawings) == 2
    for found in drawings:
        assert found["role"] == "img" and set(str(found["aria-labelledby"]).split()) <= set(ids)


def test_the_same_report_is_the_same_bytes(qwen3: Path, tmp_path: Path) -> None:
    """No time, no random number, no place of the report itself; an old report is replaced."""
    output = converted(qwen3, tmp_path)
    for name in ("a", "b", "a"):
        reported(qwen3, output, tmp_path / name)
    for name in ("report.html", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_place_that_cannot_be_is_refused_first(qwen3: Path, tmp_path: Path) -> None:
    """A file in the way is an error that comes before any work is done."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"--report .*file.* cannot be created"):
        jaxconv.verify(tmp_path / "absent", tmp_path / "absent", report=tmp_path / "file")


def test_bars_hold_every_difference_on_its_side_of_the_tolerance() -> None:
    """Counts add up; what is equal to the tolerance is within, what is above is beyond; zero has a place."""
    errors = [0.0, 1e-4, -1e-4, 1.01e-4, 3e-2, 9.9e-5, -1e-9, float("nan")]
    drawn = charts.histogram(errors, 1e-4)
    assert sum(bar.count for bar in drawn.bars) == 7
    assert sum(bar.count for bar in drawn.bars if bar.far) == 2
    assert drawn.limit is not None
    for bar in drawn.bars:
        assert bar.far == (bar.x >= drawn.limit - 0.02) and bar.x >= charts.LEFT and bar.width > 0
        assert bar.x + bar.width <= charts.WIDTH - charts.RIGHT + 0.02 and bar.y >= charts.TOP and bar.height > 0
    assert drawn.x_ticks[0].label == "≤1e-9"
    assert all(bar.far for bar in charts.histogram([1e-3], 0.0).bars) and charts.histogram([1e-3], 0.0).limit is None
    assert not charts.histogram([0.0], 0.0).bars[0].far and charts.histogram([], 1e-4).bars == ()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.1, 1.1), (1234.5, 1234.6), (-5e-4, 5e-4), (0.0, 7.0), (-3e5, 1e6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    """Three to eight labels, all different, in order, within the axis."""
    drawn = charts.scatter([low, high], [low, high], 0.0, ["a", "b"])
    labels = [tick.label for tick in drawn.x_ticks]
    assert 3 <= len(labels) == len(set(labels)) <= 8 and [float(label) for label in labels] == sorted(map(float, labels))
    assert all(charts.LEFT <= tick.at <= charts.WIDTH - charts.RIGHT for tick in drawn.x_ticks)
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels)


def test_one_pair_alone_is_drawn() -> None:
    """A single score, even zero, has axes around it."""
    for value in (0.0, 3.0, -1e-9):
        (dot,) = charts.scatter([value], [value], 1e-4, ["x"]).dots
        assert charts.LEFT < dot.x < charts.WIDTH - charts.RIGHT and charts.TOP < dot.y < charts.HEIGHT - charts.BOTTOM
        assert not dot.far
