"""The report's charts as numbers: the positions of dots, bars, ticks and lines. The page's template draws them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 400  # of a chart, in the units of its SVG
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 28, 56  # margins
TICKS = 5  # about as many on an axis
PER_DECADE = 4  # bars of the histogram
SMALLEST = 1e-9  # differences below share the first bar with zero


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of an axis: its position and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One pair of the scatter plot; `far` if it lies beyond the tolerance."""

    x: float
    y: float
    far: bool
    text: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """Raw scores of one side over the other's. Both axes have the same range; on the diagonal the sides are equal."""

    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    diagonal: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """How many differences lie between two values; `far` if these are beyond the tolerance."""

    x: float
    y: float
    width: float
    height: float
    far: bool
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Sizes of the differences on a logarithmic axis; `limit` is the position of the tolerance, None if that is zero."""

    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: float | None


def scatter(x: Sequence[float], y: Sequence[float], tolerance: float, texts: Sequence[str]) -> Scatter:
    """The scatter plot of all pairs of finite numbers; `texts` holds a label for each."""
    rows = [row for row in zip(x, y, texts, strict=True) if math.isfinite(row[0]) and math.isfinite(row[1])]
    values = [value for row in rows for value in row[:2]] or [0.0]
    low, high = min(values), max(values)
    margin = (high - low) * 0.04 or max(abs(high) * 0.1, 0.5)
    low, high = low - margin, high + margin
    across, up = _scale(low, high, LEFT, WIDTH - RIGHT), _scale(low, high, HEIGHT - BOTTOM, TOP)
    marks = _steps(low, high)
    return Scatter(
        tuple(Dot(across(a), up(b), not abs(b - a) <= tolerance, text) for a, b, text in rows),
        tuple(Tick(across(value), label) for value, label in marks),
        tuple(Tick(up(value), label) for value, label in marks),
        (across(low), up(low), across(high), up(high)),
    )


def histogram(errors: Sequence[float], tolerance: float) -> Histogram:
    """Counts of the sizes of finite differences, in bars of equal ratio; the tolerance is an edge between two bars."""
    sizes = [max(abs(error), SMALLEST) for error in errors if math.isfinite(error)]
    origin = math.log10(tolerance) if tolerance > SMALLEST else math.log10(SMALLEST)
    counts = Counter(math.ceil((math.log10(size) - origin) * PER_DECADE - 1e-9) - 1 for size in sizes)
    first, last = min([*counts, -2]), max([*counts, 1]) + 1
    across = _scale(origin + first / PER_DECADE, origin + last / PER_DECADE, LEFT, WIDTH - RIGHT)
    most = max(counts.values(), default=1)
    up = _scale(0, most, HEIGHT - BOTTOM, TOP)
    bars = []
    for index, count in sorted(counts.items()):
        begin, end = (origin + (index + step) / PER_DECADE for step in (0, 1))
        text = f"{count} between {10**begin:.1e} and {10**end:.1e}"
        bars.append(Bar(across(begin), up(count), across(end) - across(begin), up(0) - up(count), index >= 0, count, text))
    low, high = origin + first / PER_DECADE, origin + last / PER_DECADE
    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    decades = decades[:: 1 + len(decades) // 8]
    return Histogram(
        tuple(bars),
        tuple(Tick(across(decade), f"1e{decade}" if 10.0**decade > SMALLEST else f"≤1e{decade}") for decade in decades),
        tuple(Tick(up(value), label) for value, label in _steps(0, most) if value == int(value)),
        across(origin) if tolerance > SMALLEST else None,
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From [low, high] to [start, end], to two decimals."""
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 2)


def _steps(low: float, high: float) -> list[tuple[float, str]]:
    """Round values in [low, high], with labels of as many digits as they need."""
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(number * step, f"{number * step:.{digits}f}") for number in numbers]
