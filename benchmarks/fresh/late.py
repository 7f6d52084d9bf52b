"""Tasks that learn late: for the first part of a good run, validation shows little or nothing.

Most have made-up targets. `benchmarks.fresh.pictures` holds one more, on a frozen network.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fresh import networks
from benchmarks.fresh.row import ADAMW, MOMENTUM, Row
from benchmarks.fresh.tables import classes, symbols
from etude.tasks.task import Task


def parity_three() -> Task:
    """The sign of the product of three of twenty signs."""
    draw = torch.Generator().manual_seed(11)
    x = torch.randint(2, (3500, 20), generator=draw).float() * 2 - 1
    y = (x[:, 3] * x[:, 8] * x[:, 15] > 0).float()
    return Task(
        partial(networks.single, 20, 64, 64, 1),
        (x[:2500], y[:2500]),
        valid=(x[2500:], y[2500:]),
        loss=F.binary_cross_entropy_with_logits,
        metric="accuracy",
        name="parity-three",
        defaults={**ADAMW, "steps": 800, "batch_size": 64},
    )


def parity_two() -> Task:
    """The sign of the product of two of twenty numbers, one answer in twenty wrong."""
    draw = torch.Generator().manual_seed(12)
    x = torch.randn(5000, 20, generator=draw)
    wrong = torch.rand(5000, generator=draw) < 0.05
    y = ((x[:, 2] * x[:, 17] > 0) ^ wrong).float()
    return Task(
        partial(networks.single, 20, 64, 64, 1),
        (x[:4000], y[:4000]),
        valid=(x[4000:], y[4000:]),
        loss=F.binary_cross_entropy_with_logits,
        metric="accuracy",
        name="parity-two",
        defaults={**MOMENTUM, "steps": 1200, "batch_size": 64},
    )


def segment_deep_tanh() -> Task:
    """Seven surfaces through ten narrow layers of tanh without shortcuts."""
    train, valid = classes("segment")
    return Task(
        partial(networks.mlp, 18, *[48] * 10, 7, activation=nn.Tanh),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="segment-deep-tanh",
        defaults={**MOMENTUM, "steps": 700, "batch_size": 64},
    )


def phishing_long_warmup() -> Task:
    """Which web page steals passwords; the rate rises for half of the run."""
    train, valid = classes("phishing")
    return Task(
        partial(networks.mlp, 9, 48, 48, 2, dropout=0.1),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="phishing-long-warmup",
        defaults={
            **MOMENTUM, "schedule": "warmup('50%') >> cosine()", "steps": 500, "batch_size": 32,
        },
    )  # fmt: skip


COPIED = 6
"""Symbols to remember, and the number of different ones."""


def copy_attention() -> Task:
    """Six symbols, a mark, and the same six again: causal attention."""
    draw = torch.Generator().manual_seed(13)
    said = torch.randint(COPIED, (3000, COPIED), generator=draw)
    mark = torch.full((3000, 1), COPIED)
    x = torch.cat([said, mark, said[:, :-1]], dim=1)
    y = torch.cat([torch.full((3000, COPIED), -100), said], dim=1)
    return Task(
        partial(networks.Encoder, COPIED + 1, 2 * COPIED, COPIED, symbols=True),
        (x[:2700], y[:2700]),
        valid=(x[2700:], y[2700:]),
        loss=symbols,
        metric="perplexity",
        name="copy-attention",
        defaults={**ADAMW, "steps": 400, "batch_size": 32},
    )


def induction_attention() -> Task:
    """What followed a symbol when it was last seen: pieces that repeat at changing distances."""
    draw = torch.Generator().manual_seed(14)
    count, length = 4000, 18
    period = torch.randint(4, 9, (count, 1), generator=draw)
    piece = torch.stack([torch.randperm(12, generator=draw)[:8] for _ in range(count)])
    text = piece.gather(1, torch.arange(length + 1) % period)
    known = torch.arange(length) >= period  # before, nothing tells what comes
    x, y = text[:, :-1], torch.where(known, text[:, 1:], -100)
    return Task(
        partial(networks.Encoder, 12, length, 12, symbols=True),
        (x[:3700], y[:3700]),
        valid=(x[3700:], y[3700:]),
        loss=symbols,
        metric="perplexity",
        name="induction-attention",
        defaults={**ADAMW, "steps": 400, "batch_size": 24},
    )


def adding_lstm() -> Task:
    """The sum of the two of ten numbers that are marked: LSTM."""
    draw = torch.Generator().manual_seed(15)
    count, length = 4500, 10
    values = torch.rand(count, length, generator=draw)
    places = torch.rand(count, length, generator=draw).argsort(1)[:, :2]
    marks = torch.zeros(count, length).scatter(1, places, 1.0)
    x = torch.stack([values, marks], dim=2)
    y = (values * marks).sum(1, keepdim=True)
    return Task(
        partial(networks.Recurrent, nn.LSTM, 2, 32, 1),
        (x[:4000], y[:4000]),
        valid=(x[4000:], y[4000:]),
        loss=F.mse_loss,
        metric="r2",
        name="adding-lstm",
        defaults={**ADAMW, "steps": 600, "batch_size": 64},
    )


class Last(nn.Module):
    """A causal `Encoder` of symbols of which the last step answers."""

    def __init__(self, symbols: int, length: int, outputs: int) -> None:
        super().__init__()
        self.encoder = networks.Encoder(symbols, length, outputs, symbols=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map symbols (N, L) to (N, outputs)."""
        y: Tensor = self.encoder(x)[:, -1]
        return y


def recall_attention() -> Task:
    """The value that belongs to a key among four pairs: one answer for nine symbols."""
    draw = torch.Generator().manual_seed(16)
    count, pairs, kinds = 4500, 4, 6
    keys = torch.rand(count, kinds, generator=draw).argsort(1)[:, :pairs]
    values = torch.randint(kinds, (count, pairs), generator=draw)
    asked = torch.randint(pairs, (count, 1), generator=draw)
    text = torch.stack([keys, kinds + values], dim=2).flatten(1)
    x, y = torch.cat([text, keys.gather(1, asked)], dim=1), values.gather(1, asked)[:, 0]
    return Task(
        partial(Last, 2 * kinds, 2 * pairs + 1, kinds),
        (x[:4000], y[:4000]),
        valid=(x[4000:], y[4000:]),
        loss=F.cross_entropy,
        metric="accuracy",
        name="recall-attention",
        defaults={**ADAMW, "steps": 500, "batch_size": 24},
    )


MOTIF = (2, 0, 3)
"""What a sequence must hold, side by side, to be one of the few."""


def rare_motif() -> Task:
    """Whether a sequence of 12 symbols holds a motif, as one in twenty does: GRU."""
    draw = torch.Generator().manual_seed(17)
    x = torch.randint(4, (4500, 12), generator=draw)
    windows = x.unfold(1, len(MOTIF), 1)
    there = (windows == torch.tensor(MOTIF)).all(2).any(1)
    # By chance one in seven holds it: most of those are left out.
    kept = ~there | (torch.rand(len(x), generator=draw) < 0.3)
    x, y = x[kept], there[kept].long()
    train = len(x) * 3 // 4
    return Task(
        partial(networks.Recurrent, nn.GRU, 4, 32, 2, symbols=True),
        (x[:train], y[:train]),
        valid=(x[train:], y[train:]),
        loss=F.cross_entropy,
        metric="average_precision",
        name="rare-motif",
        defaults={**ADAMW, "steps": 500, "batch_size": 64},
    )


def modular_sum() -> Task:
    """The sum of two numbers modulo 31, from three in five of the sums: learned by heart first."""
    p = 31
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(18))
    x, y = torch.stack([a, b], dim=1)[order], ((a + b) % p)[order]
    held = p * p * 2 // 5
    return Task(
        partial(networks.Summed, p, 64, 128, p),
        (x[held:], y[held:]),
        valid=(x[:held], y[:held]),
        loss=F.cross_entropy,
        metric="accuracy",
        name="modular-sum",
        defaults={
            "optimizer": {"name": "adamw", "weight_decay": 1.0},
            "schedule": "warmup('5%') >> cosine()",
            "steps": 1200,
            "batch_size": 128,
        },
    )


ROWS = (
    Row("parity-three", "product of three of twenty", "synthetic", parity_three, late=True),
    Row("parity-two", "product of two of twenty", "synthetic", parity_two, late=True),
    Row(
        "segment-deep-tanh", "ten saturated layers", "river: image segments", segment_deep_tanh,
        ("segment",), late=True,
    ),
    Row(
        "phishing-long-warmup", "a warmup of half the run", "river: phishing",
        phishing_long_warmup, ("phishing",), late=True,
    ),
    Row("copy-attention", "copying by attention", "synthetic", copy_attention, late=True),
    Row("induction-attention", "induction heads", "synthetic", induction_attention, late=True),
    Row("recall-attention", "recall, one label in nine", "synthetic", recall_attention, late=True),
    Row("adding-lstm", "adding problem", "synthetic", adding_lstm, late=True),
    Row("rare-motif", "sparse labels", "synthetic", rare_motif, late=True),
    Row("modular-sum", "memorised before understood", "synthetic", modular_sum, late=True),
)  # fmt: skip
