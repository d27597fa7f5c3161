"""Records for the data of plots, independent of the renderer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """The fields of every plot."""

    title: str
    x: str
    y: str


@dataclass(frozen=True)
class Point:
    """A value with its interval; NaN if missing."""

    label: str
    n: int
    value: float
    low: float
    high: float
    group: str  # the setting
    colour: str
    marker: str  # Vega's name of its shape


@dataclass(frozen=True)
class Points(Plot):
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Shares(Plot):
    """Bars of counts that add up to n."""

    labels: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Curve:
    panel: str
    label: str
    colour: str
    at: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curves(Plot):
    panels: tuple[str, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Scatter(Plot):
    """Points with a position on the x axis."""

    at: tuple[float, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Grid(Plot):
    """A value and its text per row and column."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Bar:
    lane: int
    start: float  # after the first start, in the plot's unit
    length: float
    outcome: str
    label: str


@dataclass(frozen=True)
class Timeline(Plot):
    """Bars in lanes; each experiment has its first lane."""

    unit: str
    bars: tuple[Bar, ...]
    lanes: int
    experiments: tuple[tuple[str, int], ...]
