"""Formats numbers and durations for readers."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

from etude.tuning.recipes.space import plain
from etude.tuning.trial_summary import SeedRun

PERCENT = ("accuracy",)
"""Metrics that are shown in percent."""

_PLAIN = re.compile(r"[−-]?\d+(\.\d+)?")
"""A number without an exponent."""

THIN = "\u202f"
"""The separator of thousands, at which no line is broken."""


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with its significant digits, or an en dash for None.

    >>> number(0.0531122), number(1e-05), number(float("inf")), number(None)
    ('0.05311', '1e-5', '∞', '–')
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return _short(f"{value:.{digits}g}").replace("-", "−", 1 if value < 0 else 0)


def metric(name: str, value: float | None) -> str:
    """Return the value of a metric as text: an accuracy in percent.

    >>> metric("accuracy", 0.98611), metric("mse", 0.01)
    ('98.61%', '0.01')
    """
    if value is None or name not in PERCENT or not math.isfinite(value):
        return number(value)
    return f"{100 * value:.2f}%"


def rate(value: float) -> str:
    """Return a learning rate as it can be typed.

    >>> rate(0.00363), rate(3e-05)
    ('0.00363', '3e-5')
    """
    return _short(f"{value:g}")


def count(value: int) -> str:
    """Return a whole number with thin spaces between the thousands.

    >>> count(1500) == "1\u202f500"
    True
    """
    return f"{value:,}".replace(",", THIN)


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent.

    >>> share(375, 1500)
    '25%'
    """
    return f"{100 * part / whole:.3g}%" if whole else "–"


def percent(share: float) -> str:
    """Return a share in whole percent, as far as that says something.

    >>> percent(0.312), percent(0.001), percent(0.0), percent(0.999)
    ('31%', 'less than 1%', '0%', 'more than 99%')
    """
    if 0 < share < 0.01:
        return "less than 1%"
    return "more than 99%" if 0.99 < share < 1 else f"{share:.0%}"


def runs(value: float) -> str:
    """Return a cost in full runs.

    >>> runs(1.0), runs(2.75)
    ('1.00 full run', '2.75 full runs')
    """
    return f"{value:.2f} full run{'' if round(value, 2) == 1 else 's'}"


def aligned(texts: Sequence[str]) -> tuple[str, ...]:
    """Return numbers padded on the right so that their decimal points are aligned.

    The padding consists of spaces as wide as a digit or a point.

    >>> aligned(["0.25", "10"]) == ("0.25", "10\u2008\u2007\u2007")
    True
    """
    numbers = [_PLAIN.fullmatch(text.replace(THIN, "")) is not None for text in texts]
    tails = [
        len(text.partition(".")[2]) if is_number and "." in text else -1
        for text, is_number in zip(texts, numbers, strict=True)
    ]
    most = max(tails, default=-1)
    if any(text.endswith("%") for text in texts) or most < 0:
        return tuple(texts)
    return tuple(
        text + "\u2008" * (tail < 0) + "\u2007" * (most - max(tail, 0)) if is_number else text
        for text, tail, is_number in zip(texts, tails, numbers, strict=True)
    )


def duration(seconds: float) -> str:
    """Return a duration in suitable units.

    >>> duration(8.04), duration(135), duration(7300)
    ('8.0 s', '2 min 15 s', '2 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(amount: int, singular: str) -> str:
    """Return a number with its noun, in the singular or the plural.

    >>> plural(1, "update"), plural(3, "update")
    ('1 update', '3 updates')
    """
    return f"{count(amount)} {singular}{'' if amount == 1 else 's'}"


def seeds(amount: int) -> str:
    """Return over how many seeds something holds.

    >>> seeds(1), seeds(3)
    ('with this seed', 'over 3 seeds')
    """
    return "with this seed" if amount == 1 else f"over {amount} seeds"


def broken_seed(run: SeedRun) -> str:
    """Return at which update a rate diverged, and with which seed.

    >>> broken_seed(SeedRun(seed=2, updates=140, value=None, diverged=True))
    'update 140 with seed 2'
    """
    return f"update {count(run.updates)} with seed {run.seed}"


def safe(text: object) -> str:
    """Return a text escaped for HTML and for the texts of figures.

    >>> safe("<b>")
    '&lt;b&gt;'
    """
    return html.escape(str(text), quote=True)


def _short(text: str) -> str:
    """Drop the leading zeros of an exponent."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def recipe_value(value: Any) -> str:
    """Return a value of a recipe as text.

    >>> recipe_value({"name": "sgd", "momentum": 0.9}), recipe_value(64)
    ('sgd (momentum 0.9)', '64')
    """
    shown = plain(value)
    if isinstance(shown, dict):
        rest = ", ".join(f"{k} {v}" for k, v in shown.items() if k != "name")
        return f"{shown.get('name', '')} ({rest})" if rest else str(shown.get("name", ""))
    return str(shown)
