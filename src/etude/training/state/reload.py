"""Saves the state of a run, and restores it: of the same recipe, or of one of another length."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import torch

from etude.errors import EtudeError, StorageError, member, shorten, shown
from etude.optimizers.state import restore
from etude.recipe import Recipe
from etude.record import Evaluation, Status
from etude.storage.model_weights import load_state, load_unsaved, unsaved_state
from etude.tasks.sources.source import Cursor
from etude.training.evaluation.evaluation_steps import own_evaluation_steps
from etude.training.evaluation.evaluation_weights import EvaluationWeights
from etude.training.state.rng import RunRandomness
from etude.training.state.state import RunState


def saved_state(state: RunState) -> dict[str, Any]:
    """Return what `reload` restores a run from."""
    stopping = state.early_stopping
    return {
        "recipe": state.recipe_digest,
        "steps": state.recipe.steps,
        "length": state.length,
        "extended": [list(pair) for pair in state.extended],
        "step": state.step,
        "status": state.status,
        "reason": state.reason,
        "seconds": state.seconds,
        "evaluation_seconds": state.evaluation_seconds,
        "extra": state.extra_gradients,
        "stopping": None if stopping is None else stopping.state(),
        "threads": state.threads,
        "model": dict(state.model.state_dict()),
        "unsaved": unsaved_state(state.model),
        "optimizer": state.optimizer.state_dict(),
        "random": state.randomness.tree(),
        "place": asdict(state.cursor),
        "series": {n: torch.tensor(v, dtype=torch.float64) for n, v in state.series.items()},
        "evaluations": [asdict(e) for e in state.evaluations],
    }


def reload(
    state: RunState, saved: Mapping[str, Any], weights: EvaluationWeights | None = None
) -> None:
    """Restore a run to a saved state; see `Run.load_state_dict`.

    Args:
        state: The state of the run.
        saved: What `Run.state_dict` returned.
        weights: The evaluation weights, if the optimizer trains at other weights.

    Raises:
        StorageError: If the saved state is damaged, or of another recipe or model.
    """
    try:
        _reload(state, saved, weights)
    except EtudeError:
        raise
    except Exception as error:
        raise StorageError(f"the checkpoint is damaged: {type(error).__name__}: {error}") from error


def _reload(state: RunState, saved: Mapping[str, Any], weights: EvaluationWeights | None) -> None:
    same = saved["recipe"] == state.recipe_digest or state.recipe.has_digest(saved["recipe"])
    if not same and not _of_another_length(state.recipe, saved):
        raise StorageError(
            f"the checkpoint is of recipe {saved['recipe']}, not {state.recipe_digest}: "
            "resume with the recipe that is saved with it"
        )
    saved = state.world.parted(saved, state.model, state.optimizer)
    try:
        load_state(state.model, saved["model"])
        load_unsaved(state.model, saved.get("unsaved", {}))
        restore(state.optimizer, saved["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise StorageError(f"the checkpoint is of another model: {shorten(said, 300)}") from error
    _check_plain(saved)
    state.step, state.status, state.reason = (
        saved["step"],
        member(Status, saved["status"], "status"),
        saved["reason"],
    )
    _set_length(state, saved, same)
    if state.status == Status.FINISHED and state.step == saved.get("length", state.length) < (
        state.length
    ):
        state.status = Status.STOPPED
        if weights is not None and weights.settled:
            weights.unsettle()
    if state.status == Status.STOPPED:
        state.reason = ""  # what stopped it no longer applies
    state.seconds, state.threads = saved["seconds"], saved["threads"]
    state.evaluation_seconds = saved.get("evaluation_seconds", 0.0)
    state.extra_gradients, state.gradient_step = saved["extra"], -1
    if state.early_stopping is not None:
        state.early_stopping.load(saved["stopping"])
    state.series = {name: values.tolist() for name, values in saved["series"].items()}
    state.evaluations = [Evaluation.of(e) for e in saved["evaluations"]]
    state.react(state.evaluations, anew=True)
    _load_random(state, saved)
    state.cursor = Cursor(**saved["place"])
    state.loaded_step = state.step


def _set_length(state: RunState, saved: Mapping[str, Any], same: bool) -> None:
    """Note a change of the length, and set the evaluation steps that follow from it."""
    state.extended = [(step, length) for step, length in saved.get("extended", ())]
    if not same and saved["length"] != state.length:
        state.extended.append((state.step, saved["length"]))
    state.evaluation_steps = own_evaluation_steps(
        state.extended, state.length, state.recipe.evaluations
    )


def _load_random(state: RunState, saved: Mapping[str, Any]) -> None:
    """Restore the random state of this process, or say that there is none for it."""
    world = state.world
    told = saved.get("world") or {"size": 1}
    if told["size"] == world.size:
        kept = told.get("random")
        state.randomness.load(saved["random"] if kept is None else kept[world.rank])
        return
    if world.is_main:
        state.randomness.load(saved["random"])
    else:
        state.randomness = RunRandomness(state.recipe.seed, world.rank, saved["step"])
    count = told["size"]
    before = "1 process" if count == 1 else f"{count} processes"
    now = "1" if world.size == 1 else f"{world.size}"
    warnings.warn(
        f"the run was trained in {before} up to update {saved['step']} and goes on in {now}: its "
        "batches stay the same, and its weights differ by rounding alone unless it draws random "
        "numbers (dropout, augmentation), which other processes draw differently",
        stacklevel=2,
    )


def refuse_state(error: Exception) -> NoReturn:
    """Raise an error that says that an optimizer cannot continue from its loaded state.

    Each optimizer chooses the shapes and types of its state, so only its first update shows
    whether those in a file are right.

    Args:
        error: The error of the first update after the state was restored.

    Raises:
        StorageError: In place of the optimizer's own error.
        Exception: The error itself, if the state cannot be its cause.
    """
    if isinstance(error, (EtudeError, torch.linalg.LinAlgError, torch.OutOfMemoryError)):  # type: ignore[attr-defined]
        raise error
    reason = str(error).partition("\n")[0]
    raise StorageError(
        f"the checkpoint holds an optimizer's state that does not fit: {reason}; continue "
        "from an earlier checkpoint, or start a new run in another folder"
    ) from error


def _of_another_length(recipe: Recipe, saved: Mapping[str, Any]) -> bool:
    """Return whether the saved state is of the same recipe except for its `steps`."""
    steps = saved.get("steps")
    return steps is not None and recipe.replace(steps=steps).has_digest(saved["recipe"])


def _check_plain(state: Mapping[str, Any]) -> None:
    """Raise for numbers and texts that no run can have written."""
    whole = {"step": 0, "threads": 1, "extra": 0}
    for name, least in whole.items():
        value = state[name]
        if not _whole(value) or value < least:
            raise StorageError(f"the checkpoint is damaged: its {name} is {shown(value)}")
    if state["status"] not in set(Status):
        raise StorageError(f"the checkpoint is damaged: its status is {shown(state['status'])}")
    seconds = (state["seconds"], state.get("evaluation_seconds", 0.0))
    if not isinstance(state["reason"], str) or not all(map(_real, seconds)):
        raise StorageError("the checkpoint is damaged: its reason or its seconds are invalid")
    place = state["place"]
    if not all(_whole(place[name]) for name in ("epoch", "batch")):
        raise StorageError(f"the checkpoint is damaged: its place is {shown(place)}")
    for one in state["evaluations"]:
        known = (one[name] for name in ("metric", "weight") if one.get(name) is not None)
        numbers = [one["loss"], *one["parts"], *(one.get("metric_parts") or ()), *known]
        if not _whole(one["step"]) or not all(_real(number) for number in numbers):
            raise StorageError(f"the checkpoint is damaged: an evaluation is {shown(one)}")
    for name in ("parts", "metric_parts"):
        # States from before the metric's parts were saved have none.
        if len({len(one[name]) for one in state["evaluations"] if one.get(name)}) > 1:
            raise StorageError(f"the checkpoint is damaged: its evaluations differ in their {name}")
    if not all(_whole(n) for pair in state.get("extended", ()) for n in pair):
        raise StorageError("the checkpoint is damaged: its extensions are invalid")
    lengths = {len(values) for values in state["series"].values()}
    if lengths != {state["step"]}:
        raise StorageError(
            f"the checkpoint is damaged: its series are {sorted(lengths)} long after "
            f"{state['step']} updates"
        )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53


def _real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
