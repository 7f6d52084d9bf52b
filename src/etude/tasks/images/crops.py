"""Crops of photographs: random crops for training, the centre crop for evaluation.

Szegedy et al., "Going deeper with convolutions", 2014: a random share of the area at a random
aspect ratio; the centre after scaling the short side is Krizhevsky et al. 2012.
"""

from __future__ import annotations

import math
from typing import Any

import torch

BILINEAR = 2
"""Pillow's number for bilinear resampling."""

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def random_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Return a random (left, top, right, bottom) inside an image, drawn from torch's generator.

    Its area is a uniform share of the image's, its aspect ratio log-uniform. After ten draws that
    do not fit, it is the largest centred box of an allowed ratio.

    >>> left, top, right, bottom = random_box(40, 30)
    >>> 0 <= left < right <= 40 and 0 <= top < bottom <= 30
    True
    """
    for _ in range(TRIES):
        area = width * height * _uniform(*AREA)
        ratio = math.exp(_uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = _uniform(0, width - w), _uniform(0, height - h)
            return left, top, min(left + w, width), min(top + h, height)
    ratio = min(max(width / height, ASPECT[0]), ASPECT[1])
    w, h = min(width, height * ratio), min(height, width / ratio)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def random_crop(image: Any, size: int) -> Any:
    """Return a random crop of a Pillow image, scaled to size × size, mirrored half of the time."""
    cropped = image.resize((size, size), resample=BILINEAR, box=random_box(*image.size))
    return cropped.transpose(0) if _uniform(0, 1) < 0.5 else cropped  # 0 mirrors left and right


def centre_crop(image: Any, size: int) -> Any:
    """Return the centre of a Pillow image: 7/8 of its short side, scaled to size × size."""
    width, height = image.size
    side = min(width, height) * 7 / 8
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), resample=BILINEAR, box=box)
