"""Studies made by a formula instead of by training, with Records to read."""

from __future__ import annotations

import math

import numpy as np

from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record
from etude.storage.study import TrialState
from etude.studies.result import StudyResult
from etude.studies.rows import RunKind, StudyRow

STEPS = 40


def kind(task="net", *, optimizer="sgd", schedule="cosine()", batch_size=16, **settings):
    return RunKind(
        task, tuple(sorted(settings.items())), optimizer, schedule, batch_size, None, STEPS
    )


def valley(middle=0.1, floor=0.5, noise=0.02, broken_above=math.inf):
    """Return a loss by rate and seed: a valley in log10 of the rate; infinite above a rate."""

    def loss(lr, seed):
        if lr > broken_above:
            return math.inf
        return floor + math.log10(lr / middle) ** 2 + noise * seed

    return loss


class Kept:
    """Stands for the folder of Records: makes one for the row whose digest is asked for."""

    def __init__(self, rows, points):
        self.rows, self.points, self.read = {str(row.number): row for row in rows}, points, []

    def record(self, digest, what):
        row = self.rows[digest]
        self.read.append(row.number)
        start, end = row.untrained_loss or 2.0, row.loss
        broken = not math.isfinite(end)
        places = np.linspace(0, STEPS, self.points).round().astype(int).tolist()
        seen = [step for step in places if not broken or step <= STEPS // 4]
        losses = [start + (5.0 if broken else end - start) * (step / STEPS) ** 0.5 for step in seen]
        return Record(
            task=row.kind.task,
            recipe=Recipe(lr=row.lr, steps=STEPS, batch_size=16, seed=row.seed),
            status="diverged" if broken else "finished",
            reason="NaN" if broken else "",
            length=STEPS,
            metric="accuracy",
            series={"loss": np.ones(STEPS), "lr": row.lr * np.linspace(1, 0.1, STEPS)},
            evaluations=tuple(
                Evaluation(step, loss, 0.5) for step, loss in zip(seen, losses, strict=True)
            ),
            cost=Cost(STEPS, 16 * STEPS, 0.1),
            environment={},
        )


def made(kinds, *, lrs=(0.001, 0.01, 0.1, 1.0, 10.0), seeds=2, untrained=2.0, limits=None,
         halves=None, records=True, name="made", points=9):  # fmt: skip
    """Return a study.

    Args:
        kinds: For each kind its loss by rate and seed.
        lrs: The rates.
        seeds: The number of seeds.
        untrained: The loss before training.
        limits: For some kinds the predicted rate, stored with their first trial.
        halves: For some kinds the loss at half way by rate and seed; else between start and end.
        records: Whether Records can be read.
        name: The study's name.
        points: The number of evaluations of a run.
    """
    rows = []
    for one, loss in kinds.items():
        first = len(rows)
        for lr in lrs:
            for seed in range(seeds):
                end, number = loss(lr, seed), len(rows)
                half = (halves or {}).get(one, lambda lr, seed, end=end: (untrained + end) / 2)
                rows.append(
                    StudyRow(
                        number,
                        one,
                        lr,
                        seed,
                        TrialState.DONE,
                        end,
                        0.5,
                        not math.isfinite(end),
                        untrained,
                        half(lr, seed) if math.isfinite(end) else None,
                        None,
                        2 / limits[one] if number == first and one in (limits or {}) else None,
                        limits[one] if number == first and one in (limits or {}) else None,
                        str(number) if records else None,
                    )
                )
    return StudyResult(name, tuple(rows), Kept(rows, points) if records else None)
