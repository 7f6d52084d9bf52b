"""Draws a line as a PNG file."""

from __future__ import annotations

import io
from collections.abc import Sequence

_SIZE, _FINER = (960, 420), 2
_INK, _GRID = (23, 78, 121), (214, 220, 226)


def png(xs: Sequence[float], ys: Sequence[float]) -> bytes:
    r"""Return a PNG image of y over x, with labels at both ends of both axes.

    The line is drawn larger and scaled down, so that its edges are smooth.

    Args:
        xs: The positions, ascending, at least two.
        ys: The value at each position.

    >>> png([0, 1], [0.0, 1.0])[:4]
    b'\x89PNG'
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = (side * _FINER for side in _SIZE)
    left, right, top, bottom = 90 * _FINER, width - 30 * _FINER, 30 * _FINER, height - 50 * _FINER
    low, high = min(0.0, *ys), max(ys)
    span, reach = (high - low) or 1.0, (xs[-1] - xs[0]) or 1.0
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(15 * _FINER)
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        pen.line([(left, y), (right, y)], fill=_GRID, width=_FINER)
        value = f"{low + share * span:.3g}"
        pen.text((left - 8 * _FINER, y), value, fill="black", font=font, anchor="rm")
    points = [
        (
            left + (right - left) * (x - xs[0]) / reach,
            bottom - (bottom - top) * (y - low) / span,
        )
        for x, y in zip(xs, ys, strict=True)
    ]
    pen.line(points, fill=_INK, width=3 * _FINER, joint="curve")
    for x, anchor in ((left, "la"), (right, "ra")):
        step = xs[0] if x == left else xs[-1]
        pen.text((x, bottom + 10 * _FINER), f"{step:,}", fill="black", font=font, anchor=anchor)
    content = io.BytesIO()
    image.resize(_SIZE, Image.Resampling.LANCZOS).save(content, "PNG")
    return content.getvalue()
