"""Tasks on pictures: textures, noise, depth, a variational autoencoder, fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fresh import losses, networks, parts, pretraining
from benchmarks.fresh.data import arrays
from benchmarks.fresh.row import ADAMW, MOMENTUM, Row
from etude.tasks.task import Task

Pair = tuple[Tensor, Tensor]

SIZE = 16
"""Pixels along each side of a patch."""


def origins(name: str, names: Sequence[str], most: int = 500) -> tuple[Pair, Pair]:
    """Return patches (N, 1, 16, 16) and the number of the picture that each is from.

    Args:
        name: Of the data set.
        names: Of its pictures.
        most: Training patches of a picture; of validation patches a third as many.
    """
    found: tuple[list[Pair], list[Pair]] = ([], [])
    draw = torch.Generator().manual_seed(0)
    for number, picture in enumerate(names):
        halves = parts.patches(arrays(name)[picture], SIZE, SIZE // 2, strip=32)
        for pairs, cut, count in zip(found, halves, (most, most // 3), strict=True):
            chosen = cut[torch.randperm(len(cut), generator=draw)[:count]]
            pairs.append((chosen[:, None], torch.full((len(chosen),), number)))
    (x, y), (held, answers) = (
        [torch.cat(part) for part in zip(*pairs, strict=True)] for pairs in found
    )
    x, held = parts.scaled(x, held, axes=None)
    return (x, y), (held, answers)


TEXTURES = ("brick", "grass", "gravel")
PICTURES = ("astronaut", "chelsea", "coffee", "rocket")


def textures_conv() -> Task:
    """Brick, grass or gravel, turned by any right angle: convolutions, batch normalisation."""
    (x, y), (held, answers) = origins("textures", TEXTURES)
    turned = [torch.cat([part.rot90(k, (2, 3))[k::4] for k in range(4)]) for part in (x, held)]
    labels = [torch.cat([part[k::4] for k in range(4)]) for part in (y, answers)]
    return Task(
        partial(networks.picture_conv, 8, 3),
        (turned[0].contiguous(), labels[0]),
        valid=(turned[1].contiguous(), labels[1]),
        loss=F.cross_entropy,
        metric="accuracy",
        name="textures-conv",
        defaults={**MOMENTUM, "steps": 300, "batch_size": 32},
    )


def textures_vae() -> Task:
    """Patches of three textures through a drawn code of eight numbers: VAE."""
    (x, _), (held, _) = origins("textures", TEXTURES, most=800)
    flat = [F.avg_pool2d(part, 2).flatten(1) for part in (x, held)]
    return Task(
        partial(networks.Variational, 64, 128, 8),
        (flat[0], flat[0]),
        valid=(flat[1], flat[1]),
        loss=losses.evidence,
        name="textures-vae",
        defaults={**ADAMW, "steps": 800, "batch_size": 64},
    )


def pictures_denoise() -> Task:
    """Take the noise off patches of four photographs: convolutions, batch normalisation."""
    (x, _), (held, _) = origins("pictures", PICTURES, most=300)
    draw = torch.Generator().manual_seed(1)
    noisy = [part + 0.5 * torch.randn(part.shape, generator=draw) for part in (x, held)]
    return Task(
        partial(networks.Denoiser, 12, 2),
        (noisy[0], x),
        valid=(noisy[1], held),
        loss=F.mse_loss,
        metric="r2",
        name="pictures-denoise",
        defaults={**ADAMW, "steps": 250, "batch_size": 16},
    )


def mosaic(patches: Tensor, labels: Tensor, count: int, draw: torch.Generator) -> Pair:
    """Return patches of two textures on the sides of a line, and each pixel's texture.

    Args:
        patches: (N, 1, H, W).
        labels: The texture of each, (N,).
        count: Of the patches to make.
        draw: What they are drawn from.
    """
    one, two = (torch.randint(len(patches), (count,), generator=draw) for _ in range(2))
    angle = 2 * torch.pi * torch.rand(count, 1, 1, generator=draw)
    shift = torch.rand(count, 1, 1, generator=draw) - 0.5
    line = torch.linspace(-1, 1, patches.shape[-1])
    side = line[:, None] * angle.sin() + line * angle.cos() > shift
    pixels = torch.where(side, patches[one, 0], patches[two, 0])[:, None]
    return pixels, torch.where(side, labels[one, None, None], labels[two, None, None])


def textures_unet() -> Task:
    """Which texture each pixel of a patch of two shows: segmentation, U-Net, group norm."""
    (x, y), (held, answers) = origins("textures", TEXTURES)
    draw = torch.Generator().manual_seed(2)
    return Task(
        partial(networks.Unet, 1, 8, len(TEXTURES)),
        mosaic(x, y, 1500, draw),
        valid=mosaic(held, answers, 200, draw),
        loss=F.cross_entropy,
        metric="accuracy",
        name="textures-unet",
        defaults={**ADAMW, "steps": 200, "batch_size": 12},
    )


def trunk(outputs: int) -> nn.Sequential:
    """Return the network of `textures_conv` with group in place of batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.GroupNorm(6, 24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(1),
        nn.Linear(96, outputs),
    )


def pretrained() -> dict[str, Tensor]:
    """Return the weights of a `trunk` that tells the textures apart."""
    data, _ = origins("textures", TEXTURES)
    model = partial(trunk, len(TEXTURES))
    return pretraining.weights("textures", model, data, F.cross_entropy, steps=250, rate=3e-3)


def tuned(weights: dict[str, Tensor]) -> nn.Module:
    """Return a `trunk` with given weights and a new last layer."""
    model = trunk(len(PICTURES))
    old = {key: value for key, value in weights.items() if not key.startswith("9.")}
    model.load_state_dict(old, strict=False)
    return model


def pictures_finetune() -> Task:
    """Which of four photographs a patch is from, with a network that knows textures."""
    train, valid = origins("pictures", PICTURES, most=250)
    return Task(
        partial(tuned, pretrained()),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="pictures-finetune",
        defaults={**MOMENTUM, "steps": 250, "batch_size": 24},
    )


class Frozen(nn.Module):
    """A frozen start, residual layers behind gates that begin closed, and a head at zero.

    Args:
        weights: Of a `trunk`.
        depth: Layers behind a gate each.
    """

    def __init__(self, weights: dict[str, Tensor], depth: int) -> None:
        super().__init__()
        whole = trunk(len(TEXTURES))
        whole.load_state_dict(weights)
        self.start = whole[:-1].requires_grad_(requires_grad=False)
        self.layers = nn.ModuleList(networks.mlp(96, 48, 96) for _ in range(depth))
        self.gates = nn.Parameter(torch.zeros(depth))
        self.head = nn.Linear(96, len(PICTURES))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, 16, 16) to (N, pictures)."""
        y: Tensor = self.start(x)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            y = y + gate * layer(y)
        y = self.head(y)
        return y


def frozen_start() -> Task:
    """Which of four photographs a patch is from: frozen first layers, closed gates, long warmup."""
    train, valid = origins("pictures", PICTURES, most=400)
    return Task(
        partial(Frozen, pretrained(), 4),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="frozen-start",
        defaults={**ADAMW, "schedule": "warmup('40%') >> cosine()", "steps": 300, "batch_size": 24},
    )


ROWS = (
    Row(
        "textures-conv", "2-D convolutions, batch norm", "scikit-image: textures", textures_conv,
        ("textures",),
    ),
    Row("textures-vae", "VAE", "scikit-image: textures", textures_vae, ("textures",)),
    Row(
        "pictures-denoise", "denoising, batch norm", "scikit-image: photographs",
        pictures_denoise, ("pictures",),
    ),
    Row(
        "textures-unet", "segmentation, U-Net, group norm", "scikit-image: textures",
        textures_unet, ("textures",),
    ),
    Row(
        "pictures-finetune", "fine-tuning of all weights", "scikit-image: textures, photographs",
        pictures_finetune, ("textures", "pictures"),
    ),
    Row(
        "frozen-start", "fine-tuning of a frozen start, long warmup",
        "scikit-image: textures, photographs", frozen_start, ("textures", "pictures"), late=True,
    ),
)  # fmt: skip
