"""`train`: trains one task with one recipe; saved during training and resumable to the bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from etude.errors import BadValueError, Interrupted
from etude.recipe import Recipe
from etude.record import Record, Status
from etude.storage.run_folder import RunFolder
from etude.tasks.references.fingerprint import Parts, identified
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.interrupt import broken_by, stop_on_signal
from etude.training.observer import Observer, Reading, named_functions
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.checkpointer import Checkpointer
from etude.training.state.extension import grown, refuse_further
from etude.training.state.kept_record import check_record
from etude.training.state.state import RunState
from etude.training.world import World, given, refuse_sharded
from etude.warning_filters import filters_kept


@filters_kept()
def train(
    task: Task,
    recipe: Recipe | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    steps: int | str | None = None,
    more: int | None = None,
    accept_changes: bool = False,
    device: str | torch.device | None = None,
    evaluations: int | None = None,
    checkpoint_every: int | str = "5%",
    observers: Sequence[Observer] = (),
    probes: Mapping[str, Callable[[RunState], Reading]] | None = None,
    on_step: Callable[[RunState], None] | None = None,
    world: World | None = None,
) -> Record:
    """Train a task's model with a recipe and return the record, with the trained model.

    The user's model, generators and the global random state do not change. A NaN or Inf ends the
    run as 'diverged'; this is not an error.

    Args:
        task: What to learn.
        recipe: How to learn it; None takes the task's defaults, or the folder's recipe when
            resuming.
        folder: The folder for recipe, record, series, checkpoints and the trained model. With a
            folder, Ctrl-C and SIGTERM save the run and then raise; without one nothing is written.
        resume: Whether to continue from the newest checkpoint in `folder`. The result equals that
            of a run that was never interrupted, to the bit. It is an error if the data, the model
            or the loss are known to differ from those of the run.
        steps: Another length for the recipe. With `resume`, the run is trained further, even if it
            has finished: from its weights, moments and evaluations, on the schedule of the new
            length. `record.extended` gives the updates at which this was done.
        more: With `resume`, so many updates beside those of the run, instead of `steps`.
        accept_changes: Whether to continue even if data, model or loss differ from those of the
            run. The folder keeps a note of this.
        device: Where to train; None takes the model's own device, else an accelerator.
        evaluations: The number of evaluations in the run, besides the one before training.
        checkpoint_every: The updates between checkpoints, as a number or text ('5%', '1 epochs').
        observers: Called during training; what they return becomes series of the record. See
            `etude.Observer`.
        probes: Functions of the run's state, by name: a short form for observers that call them at
            every update, before the optimizer's step.
        on_step: Called after every update with the run's state, for instance to show progress.
        world: The processes that train the run together, from `etude.distributed.join()`; each of
            them makes the same call. None trains in one process.

    Returns:
        The record; `record.model` is the trained network.

    Warns:
        UserWarning: If a resumed run's data keep a random generator of their own, whose state is
            not saved.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a value of the recipe does not fit the task.
        StorageError: If the folder cannot be written, or holds another run.
        Interrupted: After Ctrl-C or SIGTERM; the message says how to resume.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> print(train(task, Recipe(lr=0.1, steps=50, batch_size=16)).status)
    finished
    """
    check_given(task, recipe)
    world = given(world)
    home = None if folder is None else RunFolder(Path(folder))
    if resume and home is None:
        raise BadValueError("resume=True needs folder=, the run folder to continue from")
    with world.active():
        if resume and home is not None:
            recipe = world.from_main(partial(home.kept_recipe, recipe))
        recipe = recipe or Recipe(**task.defaults)
        steps = grown(task, recipe, steps, more, resume=resume)
        if steps is not None:
            recipe = recipe.replace(steps=steps)
        if evaluations is not None:
            recipe = recipe.replace(evaluations=evaluations)
        parts: Parts = {}
        if home is not None and world.is_main:
            task, parts = identified(task)
        seen = [*observers, *named_functions(probes or {})]
        if seen:
            refuse_sharded(world, "an observer")
        run = Run(task, recipe, device=device, observers=seen, world=world)
        state = world.from_main(home.newest_state) if home is not None and resume else None
        if state is not None:
            run.load_state_dict(state)
            refuse_further(run, state)
            _warn_of_generators(run)
        elif not world.shards:  # with shards, the copy that is tested would be whole
            run.check()
        request = AdvanceRequest(
            evaluation_steps=run.state.evenly_spaced(recipe.evaluations),
            on_step=None if on_step is None else lambda state, _: on_step(state),
        )
        if home is None:
            run.advance(request)
        else:
            every = max(1, round(run.state.clock.steps(checkpoint_every)))
            world.from_main(partial(_claim, home, run, parts, resume=resume, accept=accept_changes))
            _train_in(home, run, request, every)
        run.release()
        return run.record()


def _warn_of_generators(run: Run) -> None:
    """Warn of a resumed run whose data draw from generators that are not where they were."""
    names = run.task.train.own_generators()
    if names and run.step and not run.ended:
        warnings.warn(
            f"the training data draw from a generator of their own ({', '.join(names)}), whose "
            f"state no checkpoint holds: from update {run.step} on the run differs from one that "
            "was never interrupted. Draw from torch.rand, np.random or random instead, whose "
            "state is the run's",
            stacklevel=4,
        )


def _claim(folder: RunFolder, run: Run, parts: Parts, *, resume: bool, accept: bool) -> None:
    """Claim a folder for a new run, or check that it is of the same task as a resumed one."""
    ref = run.task.ref
    if not resume:
        folder.claim(run.recipe, parts, ref)
        return
    folder.check_task(parts, run.step, accept=accept)
    check_record(folder.path, run.recipe, run.step)
    if ref is not None:
        folder.task.write(ref)
    if run.recipe != folder.recipe():
        folder.write_recipe(run.recipe)


def _train_in(folder: RunFolder, run: Run, request: AdvanceRequest, every: int) -> None:
    """Train in a folder: save at intervals, after a signal or an error, and at the end."""
    keeper = Checkpointer(run, folder, every, request.on_step)
    with stop_on_signal() as signal:

        def asked() -> bool:
            return bool(signal)

        alone = run.state.world.size == 1  # else every process must come to the save below
        with keeper.rescue(), broken_by(asked if alone else bool):
            stop = partial(keeper.stops, asked)
            run.advance(replace(request, stop=stop, on_step=keeper.after_step))
        keeper.save()
        if (keeper.stopped or signal) and run.status == Status.STOPPED:
            name = signal.signal.name if signal.signal else None
            raise Interrupted(
                f"stopped by {name or 'a signal to another process'} after update {run.step} of "
                f"{run.length}; the state is saved",
                keeper.saved(name),
            )
    if run.status == Status.FINISHED:
        weights = run.state.world.whole_weights(run.model)
        run.state.world.from_main(partial(folder.save_model, run.model, weights))
