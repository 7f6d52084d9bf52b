"""What the tests of the tuner share: small tasks, and how to hold two tunings side by side."""

from __future__ import annotations

import dataclasses
import math
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, TuneResult, tune
from tests import helpers

BASE = Recipe(optimizer="adamw", steps=64, batch_size=16)


def data(count: int = 120) -> tuple[Tensor, Tensor]:
    return helpers.data(count, tilt=0.5)


mlp = partial(helpers.mlp, 6, 16, 2, activation=nn.ReLU)
noisy = partial(helpers.noisy, 16, 0.2)


def task(model: Any = mlp, **more: Any) -> Task:
    return Task(model, data(), loss=cross_entropy, metric="accuracy", **more)


def quick(of: Task, recipe: Recipe = BASE, budget: float = 3.0, **more: Any) -> TuneResult:
    return tune(of, recipe, budget, progress=False, **more)


def weights(model: nn.Module) -> list[float]:
    return torch.cat([v.flatten().double() for v in model.state_dict().values()]).tolist()


def facts(result: TuneResult) -> dict[str, Any]:
    """Return all that a tuning found, but for the seconds it took."""
    plain = {k: v for k, v in result.plain().items() if not k.endswith("seconds")}
    series = [{n: s.tolist() for n, s in t.record.series.items()} for t in result.trials]
    evaluations = [[dataclasses.asdict(e) for e in t.record.evaluations] for t in result.trials]
    final = [dataclasses.asdict(e) for e in result.record.evaluations]
    return {**plain, "series": series, "all": evaluations, "final": final}


def same(one: TuneResult, two: TuneResult) -> bool:
    return facts(one) == facts(two)


def beats_a_constant(best: TuneResult) -> bool:
    """Say whether the chosen rate's last losses are below a constant's, by 2 errors and 0.5%."""
    own = next(t for t in best.trials if t.lr == best.lr).record.evaluations[-1]
    floor = best.constant
    gains = [b - a for a, b in zip(own.parts, floor.parts, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return floor.loss - own.loss > max(2 * error, 0.005 * abs(floor.loss))


def said_of_a_constant(best: TuneResult) -> bool:
    """Say whether the outcome tells rightly that the best is no better than a constant, or is."""
    return (best.outcome == "no better than a constant") != beats_a_constant(best)
