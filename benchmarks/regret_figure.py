"""The figure of `benchmarks.regret`: what each way costs against what it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """

    way: str
    cost: float
    mean: float
    worst: float


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

    mpl.rcParams.update({"svg.hashsalt": "etude", "font.size": 9, "font.family": "sans-serif"})
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 6), layout="constrained")
    for axis, name in zip(axes, ("mean", "worst"), strict=True):
        _panel(axis, points, name)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(axis: Any, points: Sequence[Point], name: str) -> None:
    values = {p.way: max(FLOOR, getattr(p, name)) for p in points}
    axis.set(xscale="log", yscale="log", xlim=(0.3, 45), ylim=(FLOOR / 1.3, 1.5))
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
    axis.plot([p.cost for p in ours], [values[p.way] for p in ours], color="#c2410c", linewidth=1.4)
    for point in points:
        colour = "#c2410c" if _own(point) else "#334155"
        axis.plot(point.cost, values[point.way], "o", color=colour, markersize=5)
    _label(axis, [p for p in points if p.cost < 1.25 and not _own(p)], values, 0.32, "left")
    _label(axis, [p for p in points if p.cost >= 1.25 and not _own(p)], values, None, "right")
    _label(axis, ours, values, None, "ours")


def _own(point: Point) -> bool:
    return point.way.startswith("Etude")


def _label(
    axis: Any, points: Sequence[Point], values: dict[str, float], column: float | None, side: str
) -> None:
    """Write labels: in a column at the left edge with lines to the points, or beside them."""
    height = 0.036 if side == "left" else 0.0
    start, stop = (axis.transData.transform((1, y))[1] for y in axis.get_ylim())
    ordered = sorted(points, key=lambda p: values[p.way])
    places = [
        (axis.transData.transform((1, values[p.way]))[1] - start) / (stop - start) for p in ordered
    ]
    if height:
        places = spread(places, height)
    for point, place in zip(ordered, places, strict=True):
        where = (point.cost, values[point.way])
        if column is not None:
            axis.annotate(
                point.way,
                where,
                (column, 10 ** _log_at(axis, place)),
                va="center",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": "#94a3b8", "linewidth": 0.5},
            )
        else:
            up = side == "ours"
            axis.annotate(
                point.way,
                where,
                (0, -12 if up else 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                weight="bold" if up else "normal",
            )


def _log_at(axis: Any, place: float) -> float:
    import math

    low, high = (math.log10(y) for y in axis.get_ylim())
    return low + place * (high - low)
