"""What is given that is no task or recipe is answered; what is handed back is short in print."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import etude
from etude.errors import BadTypeError
from etude.measure.sensitivity import sensitivity
from etude.measure.traits import measure
from etude.tasks import rows

X = torch.linspace(-1, 1, 64)[:, None]
TASK = etude.Task(lambda: nn.Linear(1, 1), (X, X), loss=mse_loss)
VERBS = [etude.train, etude.tune, sensitivity, measure]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("task", "fix"),
    [
        *((row.name, rf"give etude\.tasks\.get\('{row.name}'\)") for row in rows()[:2]),
        ("mine.py:task", r"give etude\.tasks\.load\('mine\.py:task'\)"),
        ("nope", r"no bundled task: give etude\.Task\("),
        (3, r"task is an int: give etude\.Task\("),
        (None, r"task is a NoneType: give etude\.Task\("),
        (nn.Linear(1, 1), r"task is a Linear: give etude\.Task\(model,"),
    ],
)
def test_what_is_no_task_is_answered_with_one(verb, task, fix):
    with pytest.raises(BadTypeError, match=fix):
        verb(task)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("recipe", "fix"),
    [
        ({"lr": 0.1}, r"give etude\.Recipe\(\*\*recipe\)"),
        ("sgd", r"give etude\.Recipe\(optimizer='sgd'\)"),
        ({"leer": 0.1}, "such as etude.Recipe"),
        (0.1, "recipe is a float"),
    ],
)
def test_what_is_no_recipe_is_answered_with_one(verb, recipe, fix):
    with pytest.raises(BadTypeError, match=fix):
        verb(TASK, recipe)


@pytest.mark.parametrize("metric", ["mse", None])
def test_what_is_handed_back_is_one_line_however_long_the_run(metric):
    task = etude.Task(lambda: nn.Linear(1, 1), (X, X), loss=mse_loss, metric=metric, name="line")
    record = etude.train(task, etude.Recipe(lr=0.1, steps=300, batch_size=16))
    assert len(repr(record)) < 200
    assert "\n" not in repr(record)
    said = f"finished, lr 0.1, validation loss {record.valid_loss:.4g}"
    assert said in repr(record)
    assert (f"mse {record.valid_metric or 0:.4g}" in repr(record)) == (metric is not None)
    assert repr(record).endswith("300 of 300 updates>")
