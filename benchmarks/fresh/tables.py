"""Tasks on tables: classes, labels, counts, survival, categories."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fresh import losses, networks, parts
from benchmarks.fresh.data import arrays
from benchmarks.fresh.row import ADAMW, MOMENTUM, PLAIN, STABLE, Row
from etude.tasks.task import Task

Pair = tuple[Tensor, Tensor]


def classes(name: str, share: float = 0.25) -> tuple[Pair, Pair]:
    """Return scaled features and classes, (x, y) of the training and of the validation part."""
    content = arrays(name)
    (x, y), (held, answers) = parts.divided(content["x"], content["y"], share=share)
    x, held = parts.scaled(x, held)
    return (x, y), (held, answers)


def segment_sgd() -> Task:
    """Which of seven surfaces a region of a picture shows: plain gradient descent."""
    train, valid = classes("segment")
    return Task(
        partial(networks.mlp, 18, 64, 64, 7),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="segment-sgd",
        defaults={**PLAIN, "steps": 1000, "batch_size": 32},
    )


def bananas_lion() -> Task:
    """Two clusters in the shape of bananas, in the plane: Lion."""
    train, valid = classes("bananas")
    return Task(
        partial(networks.mlp, 2, 64, 64, 2),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="bananas-lion",
        defaults={"optimizer": "lion", "schedule": "cosine()", "steps": 800, "batch_size": 64},
    )


def yeast_labels() -> Task:
    """Fourteen labels of a gene from 103 measurements: several at once, dropout."""
    content = arrays("yeast")
    (x, y), (held, answers) = parts.divided(content["x"], content["y"])
    x, held = parts.scaled(x, held)
    return Task(
        partial(networks.mlp, 103, 128, 14, dropout=0.3),
        (x, y),
        valid=(held, answers),
        loss=F.binary_cross_entropy_with_logits,
        metric="accuracy",
        name="yeast-labels",
        defaults={**ADAMW, "steps": 800, "batch_size": 64},
    )


def shuttle_rare() -> Task:
    """Faults of a space shuttle, 7 in 100 samples: imbalanced classes, a constant rate."""
    content = arrays("shuttle")
    (x, y), (held, answers) = parts.divided(content["x"], content["y"].astype(np.float32))
    # A few readings are a thousand times the others: their square roots keep the order.
    x, held = parts.scaled(*[part.sign() * part.abs().sqrt() for part in (x, held)])
    return Task(
        partial(networks.single, 9, 48, 48, 1),
        (x, y),
        valid=(held, answers),
        loss=F.binary_cross_entropy_with_logits,
        metric="average_precision",
        name="shuttle-rare",
        defaults={
            "optimizer": "rmsprop", "schedule": "constant()", "steps": 600, "batch_size": 64,
        },
    )  # fmt: skip


def visits_poisson() -> Task:
    """Visits to a physician from insurance and health: counts, the Poisson loss."""
    content = arrays("visits")
    (x, y), (held, answers) = parts.divided(content["x"], content["y"])
    x, held = parts.scaled(x, held)
    return Task(
        partial(networks.single, 9, 64, 64, 1),
        (x, y),
        valid=(held, answers),
        loss=losses.poisson,
        name="visits-poisson",
        defaults={"optimizer": "adamw", "schedule": STABLE, "steps": 800, "batch_size": 64},
    )


def affairs_embedding() -> Task:
    """Whether a woman had an affair: embeddings of four categories beside four numbers."""
    content = arrays("affairs")
    (categories, x, y), (others, held, answers) = parts.divided(
        content["categories"], content["x"], content["y"]
    )
    x, held = parts.scaled(x, held)
    sizes = [int(size) + 1 for size in content["categories"].max(axis=0)]
    return Task(
        partial(networks.Categories, sizes, 4, 6, (48, 48, 1), flat=True),
        (categories, x, y),
        valid=(others, held, answers),
        loss=F.binary_cross_entropy_with_logits,
        metric="auroc",
        name="affairs-embedding",
        defaults={**ADAMW, "steps": 700, "batch_size": 64},
    )


def airports_states() -> Task:
    """In which of 43 states an airport lies, by latitude and longitude: many classes."""
    content = arrays("airports")
    (x, y), (held, answers) = parts.divided(content["place"], content["state"])
    x, held = parts.scaled(x, held)
    return Task(
        partial(networks.mlp, 2, 96, 96, int(content["state"].max()) + 1),
        (x, y),
        valid=(held, answers),
        loss=F.cross_entropy,
        metric="accuracy",
        name="airports-states",
        defaults={"optimizer": "adamw", "schedule": "linear()", "steps": 1000, "batch_size": 64},
    )


def trials_cox() -> Task:
    """How long patients stay free of events: survival, Cox's partial likelihood."""
    content = arrays("trials")
    time = np.stack([content["days"] / 365.25, content["event"]], axis=1)
    (x, y), (held, answers) = parts.divided(content["x"], time)
    x, held = parts.scaled(x, held)
    return Task(
        partial(networks.single, 16, 32, 1, dropout=0.2),
        (x, y),
        valid=(held, answers),
        loss=losses.cox,  # type: ignore[arg-type]
        name="trials-cox",
        defaults={**ADAMW, "steps": 400, "batch_size": 128},
    )


YEARS = (1, 2, 3, 4, 5, 7, 9, 12, 18, 1000)
"""The last years of the intervals in which a government is looked at."""


def intervals(years: Tensor, event: Tensor) -> Tensor:
    """Return what each interval saw of each: 1 the end, 0 none, -1 nothing."""
    ends = years.new_tensor(YEARS)
    last = torch.searchsorted(ends, years)
    place = torch.arange(len(ends))
    seen = torch.where(place < last[:, None], 0.0, -1.0)
    # One that was lost from sight in an interval did not end there as far as one knows.
    return torch.where(place == last[:, None], event[:, None], seen)


def regimes_hazard() -> Task:
    """How long governments last: embeddings of region and kind, hazards of ten intervals."""
    content = arrays("regimes")
    (categories, start, years, event), (others, later, more, events) = parts.divided(
        content["categories"], content["start"][:, None], content["years"], content["event"]
    )
    start, later = parts.scaled(start, later)
    sizes = [int(size) + 1 for size in content["categories"].max(axis=0)]
    return Task(
        partial(networks.Categories, sizes, 1, 6, (48, len(YEARS))),
        (categories, start, intervals(years, event)),
        valid=(others, later, intervals(more, events)),
        loss=losses.hazard,  # type: ignore[arg-type]
        name="regimes-hazard",
        defaults={**MOMENTUM, "schedule": STABLE, "steps": 500, "batch_size": 32},
    )


def weather_kinds() -> Task:
    """The kind of a day's weather, rare ones too: an embedding of the month, dropout."""
    content = arrays("weather")
    (month, x, y), (others, held, answers) = parts.divided(
        content["month"][:, None], content["x"], content["y"]
    )
    x, held = parts.scaled(x, held)
    return Task(
        partial(networks.Categories, (12,), 4, 8, (64, 64, 5), dropout=0.2),
        (month, x, y),
        valid=(others, held, answers),
        loss=F.cross_entropy,
        metric="balanced_accuracy",
        name="weather-kinds",
        defaults={"optimizer": "adam", "schedule": "cosine()", "steps": 600, "batch_size": 32},
    )


def cars_huber() -> Task:
    """Miles per gallon of a car from seven facts, 196 cars each to learn and to judge."""
    content = arrays("cars")
    x = np.column_stack([content["x"], content["year"], content["origin"] == 2]).astype(np.float32)
    (x_train, y), (held, answers) = parts.divided(x, content["y"], share=0.5)
    x_train, held = parts.scaled(x_train, held)
    y, answers = parts.scaled(y, answers)
    return Task(
        partial(networks.single, 7, 32, 32, 1),
        (x_train, y),
        valid=(held, answers),
        loss=nn.HuberLoss(),
        metric="mae",
        name="cars-huber",
        defaults={**PLAIN, "schedule": "linear()", "steps": 300, "batch_size": 16},
    )


def wine_mlp() -> Task:
    """Which of three growers a wine is from: 178 samples in all, a run of a fifth of a second."""
    train, valid = classes("wine", share=0.5)
    return Task(
        partial(networks.mlp, 13, 32, 3),
        train,
        valid=valid,
        loss=F.cross_entropy,
        metric="accuracy",
        name="wine-mlp",
        defaults={**ADAMW, "steps": 200, "batch_size": 16},
    )


def names_gru() -> Task:
    """The next letter of an airport's name: padded sequences, GRU."""
    letters = arrays("airports")["names"][:, :16]
    # One more symbol ends a name; what follows it counts for nothing.
    end = np.full((len(letters), 1), -1)
    targets = np.concatenate([letters[:, 1:], end], axis=1)
    stop = (letters >= 0) & (targets < 0)
    targets = np.where(stop, 27, np.where(letters >= 0, targets, -100))
    (x, y), (held, answers) = parts.divided(np.where(letters < 0, 27, letters), targets, share=0.12)
    return Task(
        partial(networks.Recurrent, nn.GRU, 28, 48, 28, symbols=True, every=True),
        (x, y),
        valid=(held, answers),
        loss=symbols,
        metric="perplexity",
        name="names-gru",
        defaults={**ADAMW, "steps": 250, "batch_size": 32},
    )


def symbols(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over the symbols that count."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


ROWS = (
    Row("segment-sgd", "MLP, plain SGD", "river: image segments", segment_sgd, ("segment",)),
    Row("bananas-lion", "MLP in the plane, Lion", "river: bananas", bananas_lion, ("bananas",)),
    Row("yeast-labels", "multi-label, dropout", "river: yeast", yeast_labels, ("yeast",)),
    Row(
        "shuttle-rare", "imbalanced classes, constant rate", "river: shuttle", shuttle_rare,
        ("shuttle",),
    ),
    Row(
        "visits-poisson", "counts, WSD schedule", "statsmodels: RAND HIE", visits_poisson,
        ("visits",),
    ),
    Row(
        "affairs-embedding", "embeddings of categories", "statsmodels: Fair's affairs",
        affairs_embedding, ("affairs",),
    ),
    Row(
        "airports-states", "43 classes in the plane", "vega_datasets: airports", airports_states,
        ("airports",),
    ),
    Row(
        "trials-cox", "survival, Cox loss, dropout", "lifelines: ACTG 175", trials_cox, ("trials",)
    ),
    Row(
        "regimes-hazard", "survival, hazards, embeddings", "lifelines: governments",
        regimes_hazard, ("regimes",),
    ),
    Row(
        "weather-kinds", "imbalanced classes, embedding, dropout", "vega_datasets: weather",
        weather_kinds, ("weather",),
    ),
    Row("cars-huber", "Huber regression, plain SGD", "vega_datasets: cars", cars_huber, ("cars",)),
    Row("wine-mlp", "a tiny task", "scikit-learn: wine", wine_mlp, ("wine",)),
    Row("names-gru", "padded sequences, GRU", "vega_datasets: airports", names_gru, ("airports",)),
)  # fmt: skip
