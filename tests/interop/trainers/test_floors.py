"""A scheduler whose floor lies above the tuned rate is named, with the floor to set."""

from __future__ import annotations

import warnings

import pytest
import torch

from etude.interop.trainers.floors import Floor, floor_of, warn_of_floor
from etude.interop.transformers import tune
from tests.interop.trainers.hugging_face import classifier, trainer_of, transformers


def optimizer(groups: int = 1) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(groups)], lr=0.1)


def test_floors_are_read_from_the_schedulers_that_have_one() -> None:
    kinds = torch.optim.lr_scheduler
    plateau = kinds.ReduceLROnPlateau(optimizer(2), min_lr=[1e-4, 1e-3])
    assert floor_of(plateau) == Floor("ReduceLROnPlateau", "min_lr", 1e-3)
    cosine = kinds.CosineAnnealingWarmRestarts(optimizer(), 5, eta_min=0.02)
    assert floor_of(cosine) == Floor("CosineAnnealingWarmRestarts", "eta_min", 0.02)
    greedy = transformers.optimization.GreedyLR(optimizer())
    assert floor_of(greedy) == Floor("GreedyLR", "min_lr", 1e-3)
    assert floor_of(kinds.StepLR(optimizer(), 5)) is None


def test_only_a_floor_above_the_rate_warns() -> None:
    floor = Floor("GreedyLR", "min_lr", 1e-3)
    with pytest.warns(
        UserWarning, match=r"GreedyLR never goes below min_lr=0\.001.*0\.0003.*set min_lr=3e-06"
    ):
        warn_of_floor(floor, 3e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_floor(floor, 1e-3)
        warn_of_floor(None, 1e-9)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"lr_scheduler_type": "greedy", "eval_strategy": "epoch"}, True),
        (
            {
                "lr_scheduler_type": "greedy",
                "eval_strategy": "epoch",
                "lr_scheduler_kwargs": {"min_lr": 1e-9},
            },
            False,
        ),
        ({"lr_scheduler_type": "linear"}, False),
    ],
)
def test_a_trainers_own_scheduler_is_judged_by_the_tuned_rate(tmp_path, options, warned) -> None:
    trainer = trainer_of(tmp_path, classifier(), max_steps=16, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = tune(
            trainer, 1.2, schedule="cosine()", lr_range=(1e-6, 5e-4), progress=False, engine="loop"
        )
    said = [str(w.message) for w in caught if "never goes below" in str(w.message)]
    assert found.lr <= 5e-4
    assert bool(said) == warned
    assert all("min_lr=0.001" in text for text in said)
