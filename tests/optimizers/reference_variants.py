"""Further optimizers as their papers print them, in NumPy; see `tests.optimizers.reference`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Path = Iterator[NDArray[np.float64]]


def adam_mini(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0) -> Path:
    """Algorithm 1 of arXiv:2406.16793 with a block for each row, or each entry of a vector."""
    m = np.zeros_like(w)
    v = np.zeros(len(w))
    for t, g in enumerate(gradients, start=1):
        w = (1 - lr * weight_decay) * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * np.array([np.mean(row**2) for row in g])
        root = np.sqrt(v / (1 - betas[1] ** t)) + eps
        w = w - lr * (m / (1 - betas[0] ** t) / root.reshape(-1, *[1] * (w.ndim - 1)))
        yield w


def adopt(
    w, gradients, lr, betas=(0.9, 0.9999), eps=1e-6, weight_decay=0.0, weight_decouple=False
) -> Path:
    """Algorithm 2 with clipping at t^(1/4); the first gradient only starts the moment.

    The library counts t from 1 with that first gradient, and decays in its update too.
    """
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        if weight_decouple:
            w = w - lr * weight_decay * w
        else:
            g = g + weight_decay * w
        if t == 1:
            v = g**2
        else:
            u = np.clip(g / np.maximum(np.sqrt(v), eps), -(t**0.25), t**0.25)
            m = betas[0] * m + (1 - betas[0]) * u
            w = w - lr * m
            v = betas[1] * v + (1 - betas[1]) * g**2
        yield w


def _adam_steps(gradients, betas, eps):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        yield m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def cautious_adamw(w, gradients, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2) -> Path:
    """Algorithm 1: the mask has mean about 1."""
    for g, u in zip(gradients, _adam_steps(gradients, betas, eps), strict=True):
        mask = u * g > 0
        w = w - lr * weight_decay * w
        w = w - lr * mask.size / (mask.sum() + 1) * mask * u
        yield w


def grams(w, gradients, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0) -> Path:
    """Algorithm 1: the sign of the gradient, the size of Adam's update."""
    for g, u in zip(gradients, _adam_steps(gradients, betas, eps), strict=True):
        w = (1 - lr * weight_decay) * w - lr * np.sign(g) * np.abs(u)
        yield w


def mars(w, gradients, lr, betas=(0.95, 0.99), gamma=0.025, weight_decay=0.0, eps=1e-8) -> Path:
    """MARS-AdamW; the gradient before the first is 0, and 1e-15 joins the root (the library's)."""
    m, v, last = (np.zeros_like(w) for _ in range(3))
    for t, g in enumerate(gradients, start=1):
        c = g + gamma * betas[0] / (1 - betas[0]) * (g - last)
        c = c / max(1.0, np.linalg.norm(c))
        m = betas[0] * m + (1 - betas[0]) * c
        v = betas[1] * v + (1 - betas[1]) * c**2
        size = (np.sqrt(v + 1e-15) + eps) / np.sqrt(1 - betas[1] ** t)
        w = (1 - lr * weight_decay) * w - lr * m / (1 - betas[0] ** t) / size
        last = g
        yield w


def stable_adamw(w, gradients, lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=1e-2) -> Path:
    """Algorithm 2, whose averages are corrected by their β; the decay has the same rate."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        first, second = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in betas)
        m = first * m + (1 - first) * g
        v = second * v + (1 - second) * g**2
        rate = lr / max(1.0, np.sqrt(np.mean(g**2 / np.maximum(v, eps**2))))
        w = (1 - rate * weight_decay) * w - rate * m / (np.sqrt(v) + eps)
        yield w


def schedulefree_plus(
    w,
    gradients,
    lr,
    betas=(0.9, 0.95),
    sf_beta1=0.9,
    sf_beta1_max=0.965,
    anneal_steps=0.0,
    eps=1e-8,
    weight_decay=0.0,
    r=0.0,
    weight_lr_power=2.0,
    c_warmup=0.0,
) -> Path:
    """AdamCScheduleFreePlusPaper with 1 for Polyak's step."""
    z = x = y = w
    total = 0.0
    for k, u in enumerate(_adam_steps(gradients, betas, eps)):
        done = min(k / anneal_steps, 1.0) if anneal_steps else 0.0
        beta = 1 - (1 - sf_beta1) ** (1 - done) * (1 - sf_beta1_max) ** done
        z = z - lr**2 * weight_decay * y - lr * u
        c = 1.0
        if k >= c_warmup:
            weight = (k + 1) ** r * lr**weight_lr_power
            total += weight
            c = weight / total
        x = (1 - c) * x + c * z
        y = beta * x + (1 - beta) * z
        yield y


def torch_muon(
    w,
    gradients,
    lr,
    momentum=0.95,
    nesterov=True,
    ns_steps=5,
    weight_decay=0.1,
    betas=(0.9, 0.999),
    eps=1e-8,
) -> Path:
    """The row `muon` for matrices of two axes, AdamW for all others."""
    from tests.optimizers import reference

    if w.ndim == 2:
        return reference.muon(w, gradients, lr, momentum, nesterov, ns_steps, weight_decay)
    return reference.adamw(w, gradients, lr, betas, eps, weight_decay)
