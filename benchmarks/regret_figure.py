"""The figure of `benchmarks.regret`: what each way costs against what it misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS, THEIRS = "#c2410c", "#334155"
CROWDED = 1.25
"""Full runs below which labels stand in a column."""

FLOOR = 1e-3
"""Regret below which a point stands on the axis: seeds differ by more."""


@dataclass(frozen=True)
class Point:
    """One way.

    Attributes:
        way: Its label.
        cost: In full runs.
        mean: Regret.
        worst: Regret.
        trained: Whether all of it was trained; what was read off a table is drawn hollow.
    """

    way: str
    cost: float
    mean: float
    worst: float
    trained: bool


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending places apart by at least a gap, each as little as need be.

    >>> spread([0.0, 0.25, 3.0], 1.0)
    [-0.375, 0.625, 3.0]
    """
    blocks: list[tuple[float, int]] = []  # centre and size of runs of labels that touch
    for place in places:
        centre, size = place, 1
        while blocks and centre - blocks[-1][0] < gap * (size + blocks[-1][1]) / 2:
            other, count = blocks.pop()
            centre = (centre * size + other * count) / (size + count)
            size += count
        blocks.append((centre, size))
    return [c + gap * (i - (n - 1) / 2) for c, n in blocks for i in range(n)]


def draw(points: Sequence[Point], path: Path) -> None:
    """Write the figure as SVG: mean regret on the left, the worst on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.hashsalt": "etude", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axis, name in zip(axes, ("mean", "worst"), strict=True):
        _panel(axis, points, name)
    figure.supxlabel("filled: trained; hollow: read off the oracle's table", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(axis: Any, points: Sequence[Point], name: str) -> None:
    values = {p.way: max(FLOOR, getattr(p, name)) for p in points}
    axis.set(xscale="log", yscale="log", xlim=(0.14, 55), ylim=(FLOOR / 1.5, 1.6))
    axis.set_xlabel("cost in full runs, the delivered model included")
    axis.set_title(f"{name} regret over the bundled tasks × 3 seeds", loc="left")
    axis.set_xticks([1, 2, 3, 5, 10, 30], ["1", "2", "3", "5", "10", "30"])
    ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    axis.set_yticks(ticks, ["≤ 0.1%", "0.3%", "1%", "3%", "10%", "30%", "100%"])
    axis.minorticks_off()
    axis.grid(color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    ours = sorted((p for p in points if _own(p)), key=lambda p: p.cost)
    axis.plot([p.cost for p in ours], [values[p.way] for p in ours], color=OURS, linewidth=1.4)
    for point in points:
        colour = OURS if _own(point) else THEIRS
        inside = colour if point.trained else "white"
        look = {"color": colour, "markerfacecolor": inside, "markersize": 5}
        axis.plot(point.cost, values[point.way], "o", **look)
    _column(axis, [p for p in points if _cheap(p)], values)
    for point in points:
        if not _cheap(point):
            _beside(axis, point, values[point.way], ours.index(point) % 2 if _own(point) else 0)


def _own(point: Point) -> bool:
    return point.way.startswith("Etude")


def _cheap(point: Point) -> bool:
    """Whether a point stands among the many at one run and a little, too near for own labels."""
    return point.cost < CROWDED and not _own(point)


def _column(axis: Any, points: Sequence[Point], values: dict[str, float]) -> None:
    """Write labels in a column at the left edge, with lines to their points."""
    low, high = (math.log10(y) for y in axis.get_ylim())
    ordered = sorted(points, key=lambda p: (values[p.way], -p.cost))
    places = [(math.log10(values[p.way]) - low) / (high - low) for p in ordered]
    for point, place in zip(ordered, spread(places, 0.037), strict=True):
        axis.annotate(
            point.way,
            (point.cost, values[point.way]),
            (0.15, 10 ** (low + place * (high - low))),
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.5},
        )


def _beside(axis: Any, point: Point, value: float, turn: int) -> None:
    """Write a label beside its point: Etude's left and right in turn, others' right or below."""
    text = point.way.replace(" TPE", "").replace(" trials", "")
    if _own(point):
        place = (7, 4) if turn else (-6, -9)
        look = {"ha": "left" if turn else "right", "weight": "bold", "color": OURS}
    elif "Hyperband" in point.way:
        text, place, look = "Optuna 30, Hyperband", (0, -14), {"ha": "center"}
    else:
        place, look = (6, 4), {"ha": "left" if point.cost < 20 else "center"}
    axis.annotate(text, (point.cost, value), place, textcoords="offset points", fontsize=8, **look)
