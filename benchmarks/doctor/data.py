"""Data that ship with what Etude depends on, or that a few lines of code make up.

Every function returns (train, valid) as tuples of tensors, the same at every call.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from importlib.resources import files as package_files

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

from benchmarks.doctor.setup import Tensors

Parts = tuple[Tensors, Tensors]


def drawing(seed: int) -> torch.Generator:
    """Return a generator of the data's own."""
    return torch.Generator().manual_seed(seed)


def split(*tensors: Tensor, valid: float = 0.3, most: int | None = None) -> Parts:
    """Return a share drawn by lot for validation and the rest, or part of it, for training."""
    places = torch.randperm(len(tensors[0]), generator=drawing(7))
    count = round(len(places) * valid)
    held, rest = places[:count], places[count:][:most]
    return tuple(t[rest] for t in tensors), tuple(t[held] for t in tensors)


def scaled(parts: Parts) -> Parts:
    """Return the inputs scaled by the training part's mean and deviation, column by column."""
    (x, y), (held, answers) = parts
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    return ((x - mean) / deviation, y), ((held - mean) / deviation, answers)


def table(name: str) -> tuple[Tensor, Tensor]:
    """Return a table of scikit-learn as it is: inputs and labels or targets."""
    content = getattr(datasets, f"load_{name}")()
    return torch.tensor(content.data).float(), torch.tensor(content.target)


@cache
def classes(name: str, most: int | None = None) -> Parts:
    """Return a scaled table with class labels."""
    return scaled(split(*table(name), most=most))


@cache
def cancer() -> Parts:
    """Return malignant or not, as a column of 0 and 1."""
    x, y = table("breast_cancer")
    return scaled(split(x, y.float()[:, None]))


@cache
def digits(most: int | None = None) -> Parts:
    """Return pictures (N, 1, 8, 8) from -1 to 1 and their digits."""
    x, y = table("digits")
    return split(x.view(-1, 1, 8, 8) / 8 - 1, y, most=most)


@cache
def digit_rows() -> Parts:
    """Return pictures as eight rows of eight."""
    (x, y), (held, answers) = digits()
    return (x.squeeze(1), y), (held.squeeze(1), answers)


@cache
def digit_copies(noise: float = 0.0) -> Parts:
    """Return flat pictures as targets, and the same with noise as inputs."""
    x, _ = table("digits")
    x = x / 8 - 1
    return split(x + noise * torch.randn(x.shape, generator=drawing(3)), x)


@cache
def diabetes() -> Parts:
    """Return ten measurements and the scaled progression of a disease."""
    x, y = table("diabetes")
    return scaled(split(x, ((y - y.mean()) / y.std()).float()[:, None]))


@cache
def countries() -> Parts:
    """Return year, population, income and continent of countries, and the scaled life span."""
    place = package_files("plotly").joinpath("package_data/datasets/gapminder.csv.gz")
    import csv
    import gzip

    with place.open("rb") as file, gzip.open(file, "rt") as text:
        rows = list(csv.DictReader(text))
    places = sorted({row["continent"] for row in rows})
    numbers = [
        [float(r["year"]), math.log(float(r["pop"])), math.log(float(r["gdpPercap"]))]
        + [float(r["continent"] == place) for place in places]
        for r in rows
    ]
    y = torch.tensor([[float(row["lifeExp"])] for row in rows])
    return scaled(split(torch.tensor(numbers), (y - y.mean()) / y.std()))


@cache
def friedman(samples: int = 900, noise: float = 0.5) -> Parts:
    """Return Friedman's first function of five of ten inputs, scaled."""
    x, y = datasets.make_friedman1(samples, noise=noise, random_state=0)
    target = torch.tensor((y - y.mean()) / y.std()).float()[:, None]
    return scaled(split(torch.tensor(x).float(), target))


@cache
def spirals(samples: int = 900) -> Parts:
    """Return two spirals in the plane."""
    draw = drawing(1)
    turn = torch.rand(samples, generator=draw).sqrt() * 2.2 * math.pi + 0.5
    side = torch.arange(samples) % 2
    x = torch.stack([turn.cos(), turn.sin()], 1) * (turn / 5)[:, None] * (1 - 2 * side)[:, None]
    return split(x + 0.04 * torch.randn(x.shape, generator=draw), side)


@cache
def clusters(samples: int = 1500, features: int = 20, count: int = 5) -> Parts:
    """Return overlapping clusters in twenty dimensions."""
    x, y = datasets.make_classification(
        samples, features, n_informative=8, n_classes=count, class_sep=1.6, random_state=2
    )
    return scaled(split(torch.tensor(x).float(), torch.tensor(y)))


@cache
def parity(bits: int = 12, of: int = 3, samples: int = 2000) -> Parts:
    """Return signs, and whether the product of the first few is positive."""
    x = torch.randint(0, 2, (samples, bits), generator=drawing(4)).float() * 2 - 1
    return split(x, (x[:, :of].prod(1) > 0).long())


@cache
def waves(length: int = 32, samples: int = 900) -> Parts:
    """Return noisy series (N, length, 1): sine, square, saw or two sines of any phase."""
    draw = drawing(5)
    kind = torch.arange(samples) % 4
    phase = torch.rand(samples, 1, generator=draw)
    pace = 1.5 + 1.5 * torch.rand(samples, 1, generator=draw)
    turn = pace * torch.linspace(0, 1, length) + phase
    angle = 2 * math.pi * turn
    shapes = torch.stack(
        [
            angle.sin(),
            angle.sin().sign(),
            2 * (turn % 1) - 1,
            (angle.sin() + (2 * angle).sin()) / 1.5,
        ]
    )
    x = shapes[kind, torch.arange(samples)]
    x = x + 0.2 * torch.randn(x.shape, generator=draw)
    return split(x[..., None], kind)


@cache
def outlying_waves(length: int = 40, samples: int = 900) -> Parts:
    """Return series and the mean of their second half, with rare bursts in the training part."""
    draw = drawing(6)
    steps = torch.randn(samples, length, generator=draw)
    x = steps.cumsum(1) / math.sqrt(length)
    y = x[:, length // 2 :].mean(1, keepdim=True) + x[:, :5].mean(1, keepdim=True)
    (x, y), held = split(x[..., None], y / y.std())
    burst = torch.rand(len(x), generator=draw) < 0.02
    return (torch.where(burst[:, None, None], 25 * x, x), y), held


@cache
def chaos(window: int = 24, samples: int = 1200) -> Parts:
    """Return windows of the Mackey-Glass series and the value six steps on; the end is held out."""
    series = [1.2] * 18
    for _ in range(samples + window + 300):
        late, now = series[-18], series[-1]
        series.append(now + 0.2 * late / (1 + late**10) - 0.1 * now)
    values = torch.tensor(series[200:])
    values = (values - values.mean()) / values.std()
    x = values.unfold(0, window, 1)[: samples - 6]
    y = values[window + 5 :][: len(x)]
    cut = round(0.7 * len(x))
    x, y = x[..., None], y[:, None]
    return (x[:cut], y[:cut]), (x[cut + window :], y[cut + window :])


@cache
def text() -> tuple[Tensor, int]:
    """Return the descriptions of scikit-learn's tables as numbers of characters, and how many."""
    names = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
    words = "".join(getattr(datasets, f"load_{name}")().DESCR for name in names).lower()
    kept = sorted(set(words))
    places = {letter: place for place, letter in enumerate(kept)}
    return torch.tensor([places[letter] for letter in words]), len(kept)


@cache
def windows(length: int = 24, every: int = 5) -> Parts:
    """Return windows of text and the next characters; blocks of it are held out."""
    ids, _ = text()
    rows = ids.unfold(0, length + 1, every)
    place = torch.arange(len(rows)) * every % 2000
    held, train = place >= 1600, place < 1600 - length
    return (rows[train, :-1], rows[train, 1:]), (rows[held, :-1][::2], rows[held, 1:][::2])


@cache
def sources(length: int = 60) -> Parts:
    """Return snippets of text and the table that they describe."""
    names = ("breast_cancer", "diabetes", "digits", "wine")
    x, y = [], []
    for label, name in enumerate(names):
        letters = getattr(datasets, f"load_{name}")().DESCR.encode("ascii", "replace")
        pairs = [(a * 31 + b * 7) % 512 for a, b in itertools.pairwise(letters)]
        rows = torch.tensor(pairs).unfold(0, length, 9)
        x.append(rows)
        y.append(torch.full((len(rows),), label))
    return split(torch.cat(x), torch.cat(y))


@cache
def recall(pairs: int = 4, samples: int = 3000) -> Parts:
    """Return sequences key value key value ... key, and the value of the last key."""
    draw = drawing(8)
    keys = torch.rand(samples, 8, generator=draw).argsort(1)[:, :pairs]
    values = torch.randint(0, 8, (samples, pairs), generator=draw)
    asked = torch.randint(0, pairs, (samples, 1), generator=draw)
    shown = torch.stack([keys, 8 + values], 2).flatten(1)
    return split(torch.cat([shown, keys.gather(1, asked)], 1), values.gather(1, asked)[:, 0])


@cache
def patches(size: int = 8, samples: int = 1400) -> Parts:
    """Return patches (N, 3, size, size) of two photographs and which of them each is from."""
    pictures = datasets.load_sample_images().images
    draw = np.random.default_rng(0)
    found, labels = [], []
    for index in range(samples):
        picture = pictures[index % 2]
        top, left = draw.integers(0, 426 - 2 * size), draw.integers(0, 638 - 2 * size)
        found.append(picture[top : top + 2 * size : 2, left : left + 2 * size : 2])
        labels.append(index % 2)
    x = torch.tensor(np.stack(found)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return split(x.contiguous(), torch.tensor(labels))


@cache
def turned() -> Parts:
    """Return digits that were turned by 0, 90, 180 or 270 degrees, and the turn."""
    x, _ = table("digits")
    turns = torch.arange(len(x)) % 4
    pictures = x.view(-1, 1, 8, 8) / 8 - 1
    every = torch.stack([pictures.rot90(turn, (2, 3)) for turn in range(4)])
    return split(every[turns, torch.arange(len(x))], turns)


@cache
def grey_patches(size: int = 8, samples: int = 1200) -> Parts:
    """Return grey patches with noise, and the patches without it."""
    pictures = [p.mean(2) / 127.5 - 1 for p in datasets.load_sample_images().images]
    draw = np.random.default_rng(2)
    found = []
    for index in range(samples):
        top, left = draw.integers(0, 426 - 2 * size), draw.integers(0, 638 - 2 * size)
        found.append(pictures[index % 2][top : top + 2 * size : 2, left : left + 2 * size : 2])
    x = torch.tensor(np.stack(found)).float()[:, None]
    return split(x + 0.3 * torch.randn(x.shape, generator=drawing(9)), x)


@cache
def ring(samples: int = 1200) -> Parts:
    """Return points around six centres on a ring; the target is not used."""
    draw = drawing(10)
    angle = 2 * math.pi * torch.randint(0, 6, (samples,), generator=draw) / 6
    x = torch.stack([angle.cos(), angle.sin()], 1)
    return split(x + 0.08 * torch.randn(x.shape, generator=draw), angle)


@cache
def curve(samples: int = 1200) -> Parts:
    """Return points along a bent curve in the plane; the target is not used."""
    draw = drawing(11)
    along = 3 * torch.rand(samples, generator=draw) - 1.5
    x = torch.stack([along, along**2 - 0.8], 1)
    return split(x + 0.05 * torch.randn(x.shape, generator=draw), along)


@cache
def shops(samples: int = 2000) -> Parts:
    """Return pairs of numbers of users and things, and the scaled rating of one by the other."""
    draw = drawing(12)
    people, things = torch.randn(60, 4, generator=draw), torch.randn(40, 4, generator=draw)
    who = torch.randint(0, 60, (samples,), generator=draw)
    what = torch.randint(0, 40, (samples,), generator=draw)
    y = (people[who] * things[what]).sum(1, keepdim=True) / 2
    return split(torch.stack([who, what], 1), y + 0.2 * torch.randn(y.shape, generator=draw))
