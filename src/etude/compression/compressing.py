"""`compress`: makes a trained network smaller, trains it further, and measures what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from etude.compression.derived import compressible, joined, owners, weight_names
from etude.compression.fine_tuning import (
    TuningOptions,
    candidate_schedules,
    fine_tune,
    fine_tuning_recipe,
)
from etude.compression.linear_int8 import Int8Mode
from etude.compression.measuring import first_batches, judge, latency, zeros
from etude.compression.method import CompressionMethod
from etude.compression.plan import CompressionPlan, finished, planned
from etude.compression.result import CompressionResult, FineTuning, LayerChange, Stage
from etude.compression.saved import WeightsLayout, put_together, taken_apart
from etude.compression.source import TrainedNetwork, fresh_model, named_task, trained
from etude.engines import Engine
from etude.errors import BadValueError, StorageError
from etude.record import Record
from etude.storage.compressed_folder import CompressedFolder, file_bytes
from etude.tasks.task import Task
from etude.torch_internals import own_parameters
from etude.training.clock import batch_size_of, clock_of
from etude.trials.score import Goal, goal_for, usual_objective
from etude.tuning.result import TuneResult
from etude.tuning.search.ladder import full_runs
from etude.tuning.tune import BUDGET
from etude.warning_filters import filters_kept

VERSION = 1
"""Of the description of a compressed model."""


@filters_kept()
def compress(
    run: str | Path | Record | TuneResult,
    *,
    prune: float | None = None,
    structured: float | None = None,
    int8: str | None = None,
    scope: str | None = None,
    budget: float | None = None,
    steps: int | str | None = None,
    task: Task | None = None,
    folder: str | Path | None = None,
    objective: str | None = None,
    maximize: bool | None = None,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> CompressionResult:
    """Compress the trained network of a run, and return it with what that cost.

    After pruning, and for int8 'qat', the network is trained further; the tuner chooses the rate,
    and between the run's own schedule, rewound, and a constant rate. Where that is no better than
    no fine-tuning, the network stays as it was compressed. Size, latency, loss and metric are
    measured on the CPU.

    Args:
        run: A finished run folder, or what `train` or `tune` returned. It does not change.
        prune: The share of weights to set to zero, the smallest by absolute value, in [0, 1).
        structured: The share of the channels of every layer to remove, in [0, 1). Where the graph
            does not allow it, their weights are set to zero instead, and the result says so.
        int8: 'dynamic' (the range of a layer's inputs is that of each row), 'static' (measured
            once on training data), or 'qat' (trained with rounding, then dynamic). Linear layers
            are computed in int8 by torchao; other layers have int8 weights.
        scope: With `prune`, look for the smallest weights over all layers ('global', the default)
            or in each ('layer').
        budget: Of fine-tuning, in fine-tuning runs, the final one included; 0 for none. None
            is 3.0.
        steps: Updates of one fine-tuning run, or a duration such as '5 epochs'; None takes half of
            the run's.
        task: What the run learned; None takes the task that it names.
        folder: Where to save the network; None saves nothing. `etude.compression.load` reads it.
        objective: By what fine-tuning is compared; as in `etude.tune`.
        maximize: As there.
        engine: As there.
        device: Where to fine-tune; as there.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The network, and its size, latency, loss and metric before and after.

    Raises:
        BadValueError: If a share or budget is out of bounds, not exactly one way is given, or the
            network has no layer that can be compressed in this way.
        StorageError: If the run has no weights, or the folder cannot be written.
        MissingExtraError: If int8 is asked for and torchao is not installed.

    >>> from etude import Recipe
    >>> from etude.training.train import train
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> net = lambda: nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    >>> task = Task(net, (x, x**3), loss=nn.functional.mse_loss)
    >>> record = train(task, Recipe(lr=0.01, steps=60, batch_size=16))
    >>> found = compress(record, structured=0.5, task=task, budget=0)
    >>> found.model[0], round(found.sparsity, 2)
    (Linear(in_features=1, out_features=16, bias=True), 0.5)
    """
    method = CompressionMethod.of(prune, structured, int8, scope)
    if not method.trains and (budget is not None or steps is not None):
        raise BadValueError(
            f"budget= and steps= belong to fine-tuning, and int8={str(method.int8)!r} has none: "
            "leave them out, or give int8='qat'"
        )
    options = TuningOptions(
        BUDGET if budget is None else full_runs(budget),
        steps,
        objective,
        maximize,
        engine,
        device,
        progress,
    )
    if method.trains:
        options.check()
    if method.int8 == Int8Mode.QAT and options.budget == 0:
        raise BadValueError(
            "int8='qat' is training, so that budget=0 leaves nothing of it: give a budget, or "
            "int8='dynamic'"
        )
    found = trained(run, task)
    goal = goal_for(found.task, objective or usual_objective(found.task), maximize)
    recipe = fine_tuning_recipe(found, options.steps) if method.trains else found.recipe
    home = None if folder is None else CompressedFolder(Path(folder))
    with nullcontext() if home is None else home.claimed():
        plan, start = planned(found, method)
        tuned = None
        if method.trains and options.budget:
            tuned = fine_tune(found, start, recipe, options)
        result, table, tensors = _measured(found, plan, start, tuned, goal)
        if home is None:
            return result
        table = {"version": VERSION, "seed": found.recipe.seed, **table, "result": result.plain()}
        home.write(table, tensors, found.task.ref)
    return replace(result, folder=home.path)


def load(folder: str | Path, task: Task | None = None) -> nn.Module:
    """Return the network that `compress` saved, in evaluation mode on the CPU.

    Its outputs equal those of the network that was saved, to the bit on the same machine. No code
    comes from the folder: the network is built by its task, which is a bundled one, one that was
    run on this machine as it is, or given.

    Args:
        folder: The folder.
        task: What the network learned; None takes the task that the folder names.

    Raises:
        StorageError: If it holds no compressed network, is damaged, or names a task that is not
            trusted here.
        MissingExtraError: If the network is int8 and torchao is not installed.
    """
    home = CompressedFolder(Path(folder))
    table, tensors = home.read()
    seed = table.get("seed")
    if table.get("version") != VERSION or isinstance(seed, bool) or not isinstance(seed, int):
        raise StorageError(
            f"{str(folder)!r} was not written by this version of Etude, or is damaged"
        )
    layout = WeightsLayout.of(table.get("layout"))
    known = task or named_task(home.task, str(folder))
    return put_together(fresh_model(known, seed), layout, tensors)


# ---- what it cost ------------------------------------------------------------------------------


def _measured(
    found: TrainedNetwork,
    plan: CompressionPlan,
    start: nn.Module,
    tuned: TuneResult | None,
    goal: Goal,
) -> tuple[CompressionResult, dict[str, object], dict[str, Tensor]]:
    """Return the result, and what is saved of it."""
    size = batch_size_of(found.task, found.recipe)
    before = _stage(found.task, found.model, size, taken_apart(found.model, {}, ())[1])
    compressed, saved, rebuilt = _judged(found, plan, start)
    after, used = compressed, False
    if tuned is not None:
        other = _judged(found, plan, tuned.model)
        used = goal.score(other[0].evaluation) < goal.score(compressed.evaluation)
        if used:
            after, saved, rebuilt = other
    layout, tensors = saved
    batch = first_batches(found.task, size, 1, train=False)[0]
    samples = min(size, found.task.valid.samples or size)
    result = CompressionResult(
        task=found.task.name,
        method=str(plan.method),
        goal=goal,
        metric=found.task.metric_name,
        maximize=None if found.task.metric is None else found.task.metric.maximize,
        before=before,
        compressed=compressed,
        after=after,
        latency=latency(found.task, found.model, rebuilt, batch, samples),
        layers=_layers(plan, found.model, rebuilt),
        tuning=None if tuned is None else _tuning(found, tuned, used),
        notes=(*plan.notes, *_emptied(plan, rebuilt)),
        model=rebuilt,
        tuned=tuned,
    )
    return result, {"layout": layout.plain()}, tensors


Saved = tuple[WeightsLayout, dict[str, Tensor]]


def _judged(
    found: TrainedNetwork, plan: CompressionPlan, model: nn.Module
) -> tuple[Stage, Saved, nn.Module]:
    """Return how good a network is once it is saved and loaded, what is saved, and the network."""
    layout, tensors = taken_apart(finished(plan, model), plan.sizes, plan.masks)
    rebuilt = put_together(fresh_model(found.task, found.recipe.seed), layout, tensors)
    size = batch_size_of(found.task, found.recipe)
    return _stage(found.task, rebuilt, size, tensors), (layout, tensors), rebuilt


def _stage(task: Task, model: nn.Module, batch_size: int, tensors: Mapping[str, Tensor]) -> Stage:
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return Stage(len(file_bytes(tensors)), held, judge(task, model, batch_size))


def _layers(plan: CompressionPlan, before: nn.Module, after: nn.Module) -> tuple[LayerChange, ...]:
    layers = dict(after.named_modules())
    first = {
        joined(name, one): owners(before)[id(own_parameters(layer)[one])][0]
        for name, layer in compressible(before)
        for one in weight_names(layer)
    }
    rows = []
    for name, layer in compressible(before):
        weights = kept = 0
        for one in weight_names(layer):
            parameter = own_parameters(layer)[one]
            assert parameter is not None
            weights += parameter.numel()
            now = own_parameters(layers[name]).get(one)
            masked = plan.masks.get(first[joined(name, one)])
            if masked is not None:
                kept += int(masked.sum())
            elif plan.method.int8 is not None or now is None:
                kept += parameter.numel()
            else:
                kept += now.numel()
        treatment = plan.treatments.get(name, "left whole")
        rows.append(LayerChange(name, type(layer).__name__, weights, kept, treatment))
    return tuple(rows)


def _emptied(plan: CompressionPlan, model: nn.Module) -> tuple[str, ...]:
    names = [
        name
        for name, parameter in model.named_parameters()
        if name in plan.masks and parameter.numel() and zeros(parameter) == parameter.numel()
    ]
    if not names:
        return ()
    return (
        f"All weights of {', '.join(names)} are zero, so that nothing passes there: give a smaller "
        "share, or look for the smallest weights in each layer (scope 'layer').",
    )


def _tuning(found: TrainedNetwork, tuned: TuneResult, used: bool) -> FineTuning:
    length = clock_of(found.task, tuned.recipe).horizon
    schedule = str(tuned.recipe.schedule)
    kinds = candidate_schedules(found, length)
    selection = tuned.selection
    tried = [] if selection is None else [
        (str(one.values.get("schedule", schedule)), one.lr, one.scores[-1])
        for one in selection.tried if one.scores
    ]  # fmt: skip
    return FineTuning(
        schedule,
        kinds.get(schedule, "constant" if schedule.startswith("constant") else "rewound"),
        tuned.lr,
        length,
        tuned.cost,
        tuple(tried),
        used,
    )
