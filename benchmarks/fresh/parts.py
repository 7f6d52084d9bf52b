"""How arrays become training and validation data: split by lot or by time, scaled, cut."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from etude.tasks.bundled.examples import halves, standardise


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    """Return arrays as tensors of their own memory."""
    return tuple(torch.from_numpy(np.array(array)) for array in arrays)


def divided(*arrays: np.ndarray, share: float = 0.25) -> tuple[list[Tensor], list[Tensor]]:
    """Return the training and the validation part of arrays, split by a fixed lot.

    Args:
        arrays: With one row per sample.
        share: Of the samples that are held out.
    """
    train, valid = halves(len(arrays[0]), share, 0)
    parts = tensors(*arrays)
    return [part[train] for part in parts], [part[valid] for part in parts]


def scaled(
    train: Tensor, valid: Tensor, *, axes: tuple[int, ...] | None = (0,)
) -> tuple[Tensor, ...]:
    """Return both parts with the training part's mean 0 and variance 1, per feature."""
    return standardise(train, valid, axes=axes)


def blocks(
    x: Tensor, width: int, *, block: int, every: int, stride: int = 1
) -> tuple[Tensor, Tensor]:
    """Return windows of a series, (N, width), of which none of one part touches the other.

    The series is cut into blocks; the middle one of every few holds the validation windows.

    Args:
        x: The series (L,).
        width: Values in a window.
        block: Values in a block.
        every: Blocks of which one is held out.
        stride: Values between the starts of two windows.
    """
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(len(x) // block):
        piece = x[number * block : (number + 1) * block]
        parts[number % every == every // 2].append(piece.unfold(0, width, stride))
    train, valid = (torch.cat(windows).contiguous() for windows in parts)
    return train, valid


def patches(
    picture: np.ndarray, size: int, stride: int, *, strip: int, every: int = 4
) -> tuple[Tensor, Tensor]:
    """Return patches (N, size, size) of a picture with values from 0 to 1, cut from strips.

    The middle one of every few strips of columns holds the validation patches.

    Args:
        picture: Shades (H, W), whole numbers up to 255.
        size: Pixels along each side of a patch.
        stride: Pixels between two patches.
        strip: Columns in a strip.
        every: Strips of which one is held out.
    """
    shades = torch.from_numpy(np.array(picture)).float() / 255
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(shades.shape[1] // strip):
        piece = shades[:, number * strip : (number + 1) * strip]
        cut = piece.unfold(0, size, stride).unfold(1, size, stride).flatten(0, 1)
        parts[number % every == every // 2].append(cut)
    train, valid = (torch.cat(cuts).contiguous() for cuts in parts)
    return train, valid
