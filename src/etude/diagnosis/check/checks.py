"""`check`: looks at a task and a recipe before training, and tells what is wrong."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch

from etude.diagnosis.check.broadcast import broadcast
from etude.diagnosis.check.decay import decay
from etude.diagnosis.check.duplicates import duplicates
from etude.diagnosis.check.first_pass import first_pass
from etude.diagnosis.check.independence import independence
from etude.diagnosis.check.initial_loss import initial_loss
from etude.diagnosis.check.inputs_used import inputs_used
from etude.diagnosis.check.labels import labels
from etude.diagnosis.check.one_batch import one_batch
from etude.diagnosis.check.order import order
from etude.diagnosis.check.outputs import outputs
from etude.diagnosis.check.reach import gradients, graph, optimized, untrainable
from etude.diagnosis.check.repeat import same_seed
from etude.diagnosis.check.scale import inputs as input_scale
from etude.diagnosis.check.scale import targets as target_scale
from etude.diagnosis.check.subject import Look, Subject, prepare
from etude.diagnosis.check.values import constant_features, not_finite
from etude.diagnosis.finding import Diagnosis, Finding
from etude.errors import EtudeError, TaskError
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.recipe import Recipe
from etude.tasks.task import Task
from etude.training.checks.device_asserts import bounds_checked
from etude.training.checks.validation import check_given
from etude.warning_filters import filters_kept

Check = Callable[[Subject], Look]

OF_DATA: tuple[Check, ...] = (
    not_finite, constant_features, duplicates, labels, order, input_scale, target_scale,
)  # fmt: skip
"""Checks that train nothing; all of them work where the loss cannot be computed."""

OF_NETWORK: tuple[Check, ...] = (
    outputs, broadcast, independence, graph, optimized, decay,
)  # fmt: skip
"""Checks of the network before its first update."""

OF_TRAINING: tuple[Check, ...] = (
    initial_loss, first_pass, gradients, same_seed, one_batch, inputs_used,
)  # fmt: skip
"""Checks that train for some updates; left out where the loss cannot be computed."""


@filters_kept()
def check(
    task: Task, recipe: Recipe | None = None, *, device: str | torch.device | None = None
) -> Diagnosis:
    """Check a task and a recipe before training, in a few seconds.

    It looks at the data (NaN and Inf, features that never change, copies of rows, labels that do
    not fit the loss, their order, the scale of inputs and targets), at the network (an activation
    too many before the loss, the loss before training, samples that are mixed, parameters that the
    optimizer lacks), and at some updates (gradients that reach every parameter, the same loss from
    the same seed, one batch that can be fitted, inputs that are used). What is found is stated with
    its numbers. What could not be looked at is listed in `unseen`, with the reason.

    The task, its model, the data and the random state are left as they were.

    Args:
        task: What is to be learned.
        recipe: How; None takes the task's defaults.
        device: Where to compute; None takes the model's own device, else an accelerator.

    Returns:
        The diagnosis; `healthy` if nothing was found.

    Raises:
        TaskError: If model, data and loss do not fit together, and no check says why.
        BadValueError: If a value of the recipe does not fit the task.

    >>> from torch import nn
    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> net = lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> recipe = Recipe(lr=0.01, steps=100, batch_size=32)
    >>> print(check(Task(net, (x, y), loss=nn.functional.cross_entropy), recipe))
    healthy
    >>> late = lambda: nn.Sequential(net(), nn.Softmax(1))
    >>> found = check(Task(late, (x, y), loss=nn.functional.cross_entropy), recipe)
    >>> str(found.findings[0].what)
    'wrong_loss_or_output'
    """
    check_given(task, recipe)
    recipe = recipe or Recipe(**task.defaults)
    with random_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A model function may hand out one network again and again: what it holds is kept.
        own = apart(task)
        try:
            subject = prepare(own, recipe, device)
        except TaskError:
            if not (found := untrainable(own.build())):
                raise
            return Diagnosis(
                found, ("the network's parameters",), ("all else: nothing is trained",)
            )
        with bounds_checked(subject.run.device):
            return _looked(subject)


def apart(task: Task) -> Task:
    """Return a task whose network, if it is given as one, is a copy."""
    if not isinstance(task.model, torch.nn.Module):
        return task
    same = copy.copy(task)
    object.__setattr__(same, "model", copy_model(task.model))
    return same


def _looked(subject: Subject) -> Diagnosis:
    """Do all checks that can be done."""
    looks = [one(subject) for one in (*OF_DATA, *OF_NETWORK)]
    findings = _findings(looks)
    error = subject.error or _refused(subject)
    if error is None:
        looks += [one(subject) for one in OF_TRAINING]
    elif not findings:
        raise error
    else:
        looks.append(Look(unseen=f"what training shows: {error}"))
    return Diagnosis(
        tuple(_findings(looks)),
        tuple(look.seen for look in looks if look.seen),
        tuple(look.unseen for look in looks if look.unseen),
    )


def _findings(looks: list[Look]) -> list[Finding]:
    return [finding for look in looks for finding in look.findings]


def _refused(subject: Subject) -> EtudeError | None:
    """Return why the run would not begin; None if it would."""
    try:
        subject.run.check()
    except EtudeError as error:
        return error
    return None
