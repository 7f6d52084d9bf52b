"""MNIST, CIFAR-10 and ImageNet through `datasets`: from the Hugging Face hub or a local copy.

Both are read in the same way: the table of encoded images and labels is opened, its columns are
found, and the images are decoded, all at once for a small set, else one by one on access.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from etude.errors import TaskError
from etude.tasks.bundled.examples import Examples, halves, standardise
from etude.tasks.checks import flag, whole
from etude.tasks.images.crops import BILINEAR, centre_crop, random_crop
from etude.tasks.images.image_source import HubSet, Images, images, open_splits

HOLDOUT = "holdout"

MNIST = HubSet("ylecun/mnist", "image", "label", "L", 10)
CIFAR10 = HubSet("uoft-cs/cifar10", "img", "label", "RGB", 10)
IMAGENET = HubSet("ILSVRC/imagenet-1k", "image", "label", "RGB", 1000, gated=True)


def _splits(
    hub: HubSet,
    *,
    source: str | None,
    valid_split: str,
    valid_share: float,
    split_seed: int,
    limit: int | None,
) -> tuple[Images, Images]:
    """Return (training, validation) rows; a random split depends on `split_seed` alone."""
    found = open_splits(hub, source)
    train = images(hub, found, "train", source)
    if valid_split == "train":
        raise TaskError(
            f"valid_split='train' would evaluate on the training data: give {HOLDOUT!r}, or "
            "another split"
        )
    if limit is not None:
        whole("limit", limit, least=2, most=len(train))
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(split_seed))
        train = train.part(order[:limit])
    if valid_split == HOLDOUT:
        rest, held = halves(len(train), valid_share, split_seed)
        return train.part(rest), train.part(held)
    valid = images(hub, found, valid_split, source)
    if valid.classes != train.classes:
        raise TaskError(
            f"split 'train' has {train.classes} classes and split {valid_split!r} has "
            f"{valid.classes}: both need the same"
        )
    return train, valid


def _pixels(source: Images, mode: str, size: int) -> Tensor:
    """Return all images as (N, channels, size, size) in [0, 1]."""
    channels = len(mode)
    pixels = np.empty((len(source), size, size, channels), np.uint8)
    for i in range(len(source)):
        image = source.decode(i, mode)
        if image.size != (size, size):
            image = image.resize((size, size), resample=BILINEAR)
        pixels[i] = np.asarray(image).reshape(size, size, channels)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)


def _in_memory(hub: HubSet, size: int, **choice: Any) -> Examples:
    whole("size", size, least=4)
    train, valid = _splits(hub, **choice)
    channels = len(hub.mode)
    x, held = standardise(
        _pixels(train, hub.mode, size), _pixels(valid, hub.mode, size), axes=(0, 2, 3)
    )
    facts = {
        "inputs": channels * size**2,
        "channels": channels,
        "size": size,
        "outputs": train.classes,
    }
    return Examples((x, train.labels), (held, valid.labels), facts)


def mnist(
    *,
    source: str | None = None,
    valid_split: str = HOLDOUT,
    valid_share: float = 1 / 6,
    split_seed: int = 0,
    limit: int | None = None,
    size: int = 28,
) -> Examples:
    """Return MNIST: 60,000 training images (N, 1, 28, 28) of digits (LeCun et al. 1998).

    Args:
        source: A local folder or file to read instead of the hub.
        valid_split: The split to evaluate on; 'holdout' takes a part of the training split, which
            keeps the test split for the final test.
        valid_share: The share that 'holdout' takes, in (0, 1).
        split_seed: The seed that selects the samples of 'holdout'.
        limit: The number of samples of the training split to use; None for all.
        size: Pixels along each side; images of another size are scaled.

    Raises:
        MissingExtraError: If `datasets` is not installed.
        TaskError: If the data cannot be fetched or read.
    """
    return _in_memory(
        MNIST,
        size,
        source=source,
        valid_split=valid_split,
        valid_share=valid_share,
        split_seed=split_seed,
        limit=limit,
    )


def cifar10(
    *,
    source: str | None = None,
    valid_split: str = HOLDOUT,
    valid_share: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    size: int = 32,
) -> Examples:
    """Return CIFAR-10: 50,000 training images (N, 3, 32, 32) in ten classes (Krizhevsky 2009).

    The arguments and errors are those of `mnist`.
    """
    return _in_memory(
        CIFAR10,
        size,
        source=source,
        valid_split=valid_split,
        valid_share=valid_share,
        split_seed=split_seed,
        limit=limit,
    )


class DecodedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images decoded one by one on access: (3, size, size) and the class.

    Args:
        images: The rows.
        size: Pixels along each side of the returned image.
        augment: Whether to return a random crop and flip, drawn from torch's global generator,
            instead of the centre.
    """

    MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    """The customary statistics of ImageNet's training images, in [0, 1]."""

    def __init__(self, images: Images, size: int, *, augment: bool) -> None:
        self.images = images
        self.size = size
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        row = range(len(self))[int(i)]
        crop = random_crop if self.augment else centre_crop
        image = crop(self.images.decode(row, "RGB"), self.size)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255
        return (x - self.MEAN) / self.STD, self.images.labels[row]


def imagenet(
    *,
    source: str | None = None,
    valid_split: str = "validation",
    valid_share: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    size: int = 224,
    augment: bool = True,
) -> Examples:
    """Return ImageNet: 1.28 million photographs in 1,000 classes (Russakovsky et al. 2015).

    The images are decoded on access: memory holds the labels alone.

    Args:
        source: A local folder or file to read instead of the hub.
        valid_split: The split to evaluate on; 'holdout' takes a part of the training split.
        valid_share: The share that 'holdout' takes, in (0, 1).
        split_seed: The seed that selects the samples of 'holdout'.
        limit: The number of samples of the training split to use; None for all.
        size: Pixels along each side of a crop.
        augment: Whether to train on random crops and flips instead of the centre.

    Raises:
        MissingExtraError: If `datasets` is not installed.
        TaskError: If the data cannot be fetched or read.
    """
    whole("size", size, least=4)
    flag("augment", augment)
    train, valid = _splits(
        IMAGENET,
        source=source,
        valid_split=valid_split,
        valid_share=valid_share,
        split_seed=split_seed,
        limit=limit,
    )
    facts = {"channels": 3, "size": size, "outputs": train.classes}
    return Examples(
        DecodedImages(train, size, augment=augment),
        DecodedImages(valid, size, augment=False),
        facts,
    )
