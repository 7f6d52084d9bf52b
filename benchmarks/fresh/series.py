"""Tasks on time series: classes, forecasts, quantiles; one adapts a frozen network."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fresh import losses, networks, parts, pretraining
from benchmarks.fresh.data import arrays
from benchmarks.fresh.row import ADAMW, MOMENTUM, Row
from etude.tasks.models import transformer
from etude.tasks.task import Task


def _archive(name: str, every: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return series (N, channels, L) and classes of both parts, every so many values of each."""
    x, y, held, answers = parts.tensors(*(arrays(name)[k] for k in ("x", "y", "held", "answers")))
    x, held = parts.scaled(x[..., ::every], held[..., ::every], axes=(0, 2))
    return x.contiguous(), y, held.contiguous(), answers


def vowels_lstm() -> Task:
    """Which of nine speakers said a vowel: 13 steps of 12 coefficients, LSTM."""
    x, y, held, answers = _archive("vowels", every=2)
    return Task(
        partial(networks.Recurrent, nn.LSTM, 12, 32, 9),
        (x.mT.contiguous(), y),
        valid=(held.mT.contiguous(), answers),
        loss=F.cross_entropy,
        metric="accuracy",
        name="vowels-lstm",
        defaults={**ADAMW, "steps": 250, "batch_size": 32},
    )


def power_conv() -> Task:
    """Summer or winter from a day of Italy's power demand: 67 days to learn from."""
    x, y, held, answers = _archive("power")
    return Task(
        partial(networks.series_conv, 1, 16, 2),
        (x, y),
        valid=(held, answers),
        loss=F.cross_entropy,
        metric="accuracy",
        name="power-conv",
        defaults={**MOMENTUM, "steps": 400, "batch_size": 16},
    )


def leaf_conv() -> Task:
    """Which of six trees a leaf is from, by its outline: convolutions, batch normalisation."""
    x, y, held, answers = _archive("leaf", every=6)
    return Task(
        partial(networks.series_conv, 1, 16, 6, depth=3),
        (x, y),
        valid=(held, answers),
        loss=F.cross_entropy,
        metric="accuracy",
        name="leaf-conv",
        defaults={**ADAMW, "steps": 350, "batch_size": 32},
    )


def _cut(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return windows of 24 readings, two a step: (N, 12, 2 channels), and their series' class."""
    windows = x.unfold(2, 24, 12).permute(0, 2, 3, 1).flatten(0, 1)
    labels = y.repeat_interleave(len(windows) // len(y))
    return windows.reshape(len(windows), 12, -1).contiguous(), labels


def motions_gru() -> Task:
    """What a wrist does, from windows of 24 readings of six sensors: GRU, dropout."""
    x, y, held, answers = _archive("motions")
    return Task(
        partial(networks.Recurrent, nn.GRU, 12, 32, 4, dropout=0.3),
        _cut(x, y),
        valid=_cut(held, answers),
        loss=F.cross_entropy,
        metric="accuracy",
        name="motions-gru",
        defaults={"optimizer": "rmsprop", "schedule": "linear()", "steps": 300, "batch_size": 32},
    )


def sunspots_gru() -> Task:
    """Sunspots of the next year from the last five, month by month: GRU, Huber loss."""
    x = torch.from_numpy(np.sqrt(arrays("sunspots")["x"]))
    train, valid = parts.blocks(x, 72, block=240, every=4, stride=2)
    train, valid = parts.scaled(train, valid, axes=None)
    return Task(
        partial(networks.Recurrent, nn.GRU, 6, 32, 12),
        (train[:, :60].reshape(-1, 10, 6), train[:, 60:]),
        valid=(valid[:, :60].reshape(-1, 10, 6), valid[:, 60:]),
        loss=nn.HuberLoss(),
        metric="mae",
        name="sunspots-gru",
        defaults={"optimizer": "adam", "schedule": "cosine()", "steps": 300, "batch_size": 32},
    )


def _days(city: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return three days as steps of six hours, and the day that follows, of both parts."""
    x = torch.from_numpy(arrays("temperatures")[city])
    train, valid = parts.scaled(*parts.blocks(x, 96, block=336, every=4, stride=6), axes=None)
    past = [part[:, :72].reshape(-1, 12, 6) for part in (train, valid)]
    ahead = [(part[:, 72:] - part[:, 71:72]).contiguous() for part in (train, valid)]
    return past[0], ahead[0], past[1], ahead[1]


def seattle_attention() -> Task:
    """Tomorrow's temperatures in Seattle, hour by hour, from three days: attention, dropout."""
    x, y, held, answers = _days("seattle")
    return Task(
        partial(networks.Encoder, 6, 12, 24, dropout=0.1),
        (x, y),
        valid=(held, answers),
        loss=F.mse_loss,
        metric="r2",
        name="seattle-attention",
        defaults={**ADAMW, "steps": 200, "batch_size": 32},
    )


def forecaster() -> nn.Module:
    """Return a transformer for the days of `_days`."""
    return transformer(inputs=6, context=12, outputs=24, width=32, depth=1, heads=2)


def adapted(weights: dict[str, Tensor]) -> nn.Module:
    """Return the forecaster that learned Seattle, frozen, with matrices of rank 4 to adapt."""
    model = forecaster()
    model.load_state_dict(weights)
    model.requires_grad_(requires_grad=False)
    for block in model.blocks:  # type: ignore[union-attr]
        for part, name in ((block.attention, "query"), (block.attention, "value")):
            setattr(part, name, networks.LowRank(getattr(part, name), 4))
        block.feed_forward.up = networks.LowRank(block.feed_forward.up, 4)
    return model


def _learned() -> dict[str, Tensor]:
    x, y, _, _ = _days("seattle")
    return pretraining.weights("temperatures", forecaster, (x, y), F.mse_loss, steps=300, rate=3e-3)


def temperatures_lora() -> Task:
    """Tomorrow in San Francisco with a network that knows Seattle: low-rank adaptation."""
    x, y, held, answers = _days("sf")
    return Task(
        partial(adapted, _learned()),
        (x, y),
        valid=(held, answers),
        loss=F.mse_loss,
        metric="r2",
        name="temperatures-lora",
        defaults={**ADAMW, "steps": 250, "batch_size": 32},
    )


def carbon_quantiles() -> Task:
    """Three quantiles of carbon dioxide 26 weeks ahead, from a year: pinball loss."""
    x = torch.from_numpy(arrays("carbon")["x"])
    windows = parts.blocks(x, 78, block=190, every=3)
    past = [window[:, :52] - window[:, 51:52] for window in windows]
    ahead = [window[:, 77] - window[:, 51] for window in windows]
    inputs, answers = parts.scaled(*past, axes=None), parts.scaled(*ahead)
    return Task(
        partial(networks.mlp, 52, 64, 64, len(losses.QUANTILES)),
        (inputs[0], answers[0]),
        valid=(inputs[1], answers[1]),
        loss=losses.pinball,
        name="carbon-quantiles",
        defaults={"optimizer": "adamw", "schedule": "linear()", "steps": 800, "batch_size": 64},
    )


ROWS = (
    Row("vowels-lstm", "LSTM on series", "aeon: Japanese vowels", vowels_lstm, ("vowels",)),
    Row("power-conv", "1-D convolutions, 67 samples", "aeon: power demand", power_conv, ("power",)),
    Row("leaf-conv", "1-D convolutions, batch norm", "aeon: OSU leaf", leaf_conv, ("leaf",)),
    Row("motions-gru", "GRU on series, dropout", "aeon: basic motions", motions_gru, ("motions",)),
    Row(
        "sunspots-gru", "GRU forecast, Huber loss", "statsmodels: sunspots", sunspots_gru,
        ("sunspots",),
    ),
    Row(
        "seattle-attention", "forecast by attention, dropout", "vega_datasets: Seattle",
        seattle_attention, ("temperatures",),
    ),
    Row(
        "temperatures-lora", "fine-tuning by low-rank matrices", "vega_datasets: two cities",
        temperatures_lora, ("temperatures",),
    ),
    Row(
        "carbon-quantiles", "quantile regression", "statsmodels: co2", carbon_quantiles,
        ("carbon",),
    ),
)  # fmt: skip
