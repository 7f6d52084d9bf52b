"""Patches of two photographs, to be classified by picture and by height in the picture.

Classes are picture × band, bands of equal height from top to bottom. Colour and texture separate
sky from roofs and petals from leaves, though not in every patch. Training and validation patches
come from strips of columns that do not overlap; every fifth strip is held out.

Source: china.jpg and flower.jpg, CC BY, shipped in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from etude.errors import MissingExtraError
from etude.tasks.bundled.examples import Examples, standardise
from etude.tasks.checks import whole

PICTURES = ("china.jpg", "flower.jpg")
STRIP = 64
HOLD_OUT = 5
"""Strips are 64 pixels wide, and the middle one of every five is held out."""

LARGEST = STRIP // 2
"""The largest patch: a larger one would, with many bands, leave a band without any patch."""


@cache
def _load() -> tuple[Tensor, ...]:
    from sklearn.datasets import load_sample_image

    try:
        pictures = [load_sample_image(name) for name in PICTURES]
    except ImportError as error:
        raise MissingExtraError(
            "the patches tasks read JPEG pictures, which needs pillow: pip install pillow"
        ) from error
    return tuple(torch.tensor(p).permute(2, 0, 1).contiguous().float() / 255 for p in pictures)


def held_out(strip: int) -> bool:
    """Return whether the strip of columns with this number holds validation patches.

    >>> [strip for strip in range(10) if held_out(strip)]
    [2, 7]
    """
    return strip % HOLD_OUT == HOLD_OUT // 2


def _grid(
    picture: Tensor, size: int, bands: int, *, down: int, along: int
) -> tuple[Tensor, Tensor]:
    """Return patches (rows, columns, 3, size, size), and the band (rows,) that holds each row.

    A row that crosses the border of two bands belongs to neither and is left out.

    Args:
        picture: (3, height, width).
        size: Pixels along each side of a patch.
        bands: The number of bands.
        down: Pixels from one row of patches to the next.
        along: Pixels from one patch of a row to the next.
    """
    height = picture.shape[1]
    grid = picture.unfold(1, size, down).unfold(2, size, along).permute(1, 2, 0, 3, 4)
    top = torch.arange(grid.shape[0]) * down
    first, last = top * bands // height, (top + size - 1) * bands // height
    inside = first == last
    return grid[inside], first[inside]


def _cut(picture: Tensor, size: int, bands: int) -> tuple[Tensor, Tensor]:
    """Return patches (N, 3, size, size), half overlapping, and the band that holds each."""
    stride = max(size // 2, 1)
    grid, held = _grid(picture, size, bands, down=stride, along=stride)
    return grid.flatten(0, 1), held[:, None].expand(-1, grid.shape[1]).flatten()


def _cut_rows(picture: Tensor, size: int, bands: int) -> tuple[Tensor, Tensor]:
    """Return rows of patches (N, L, 3, size, size), side by side, and the band of each row."""
    return _grid(picture, size, bands, down=max(size // 4, 1), along=size)


def _examples(
    cut: Callable[[Tensor, int, int], tuple[Tensor, Tensor]], size: int, bands: int
) -> Examples:
    """Return what `cut` makes of each strip, standardised, with labels picture · bands + band."""
    whole("size", size, least=4, most=LARGEST)
    whole("bands", bands, most=6)
    parts: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for number, picture in enumerate(_load()):
        for strip in range(picture.shape[2] // STRIP):
            columns = picture[:, :, strip * STRIP : (strip + 1) * STRIP]
            samples, labels = cut(columns, size, bands)
            parts[held_out(strip)].append((samples, labels + number * bands))
    (x, y), (held, answers) = (
        [torch.cat(tensors) for tensors in zip(*parts[part], strict=True)] for part in (False, True)
    )
    *before, _, _, _ = range(x.ndim)
    x, held = standardise(x, held, axes=(*before, -2, -1))
    facts = {"inputs": 3 * size**2, "channels": 3, "size": size, "outputs": bands * len(PICTURES)}
    return Examples((x, y), (held, answers), facts)


def origin(*, size: int = 16, bands: int = 4) -> Examples:
    """Return patches (N, 3, size, size), and labels picture · bands + band, (N,).

    Patches overlap by half.

    Args:
        size: Pixels along each side of a patch, from 4 to 32.
        bands: The number of bands in each picture, from 1 to 6.

    >>> origin().train[0].shape, origin().valid[0].shape, origin().facts["outputs"]
    (torch.Size([5152, 3, 16, 16]), torch.Size([1288, 3, 16, 16]), 8)
    """
    return _examples(_cut, size, bands)


def rows(*, size: int = 8, bands: int = 4) -> Examples:
    """Return rows of patches (N, L, 3, size, size), left to right, and labels as of `origin`.

    The patches of a row lie side by side and cross a strip: L = 64 // size.

    Args:
        size: Pixels along each side of a patch, from 4 to 32.
        bands: The number of bands in each picture, from 1 to 6.

    >>> rows().train[0].shape, rows().valid[0].shape
    (torch.Size([3184, 8, 3, 8, 8]), torch.Size([796, 8, 3, 8, 8]))
    """
    return _examples(_cut_rows, size, bands)
