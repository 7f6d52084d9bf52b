"""Executes one call of the Ray engine: hands pieces of runs to Ray, and loads what comes back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from typing import Any

from etude.engines.base import describe, pending, with_run
from etude.engines.process.dispatcher import DEATHS
from etude.engines.process.state_transfer import pack, portable, take_back, unpack
from etude.engines.ray.cluster import RayCluster, cannot_run, first_line
from etude.engines.ray.sent import sent_run
from etude.engines.ray.worker import Piece, error_of
from etude.errors import TaskError
from etude.training.request import AdvanceRequest
from etude.training.run import Run

WAIT = 0.05
"""Seconds between two calls of the caller's `stop`."""

PATIENCE = 5.0
"""Seconds that pieces in training have to come back once the caller stops."""

REST = 0.5
"""Seconds before a run is handed in again whose worker was lost, times how often it was: Ray needs
a while to see that a node is gone."""

LOOK = 5.0
"""Seconds after which the size of the cluster is asked for again."""

KEPT = "every run keeps the updates that came back; go on when the cluster is there again"


class RayDispatcher:
    """Hands the runs of one call to Ray, piece by piece.

    Args:
        cluster: The cluster.
        task: The remote function, with its resources.
        common: Its first arguments for each run, which are there already: settings and task. The
            folds of a cross-validation are several tasks.
        runs: The runs.
        keep: Seconds after which a run's state comes back to this process.
        width: Returns how many pieces may be in training at the same time.
        request: As for `Engine.advance`.
    """

    def __init__(
        self,
        cluster: RayCluster,
        task: Any,
        common: Sequence[Sequence[Any]],
        runs: Sequence[Run],
        keep: float,
        width: Callable[[], int],
        request: AdvanceRequest,
    ) -> None:
        self.cluster, self.ray = cluster, cluster.ray
        self.task, self.common, self.runs = task, common, runs
        self.keep, self.width, self.request = keep, width, request
        self.told = [sent_run(run) for run in runs]
        self.running: dict[Any, tuple[int, Any]] = {}
        self.there: dict[int, Any] = {}
        self.losses: dict[int, int] = {}
        self.rests: dict[int, float] = {}
        self.failure: BaseException | None = None
        self._room, self._looked = 0, -LOOK

    def work(self) -> None:
        """Train every run as far as requested, or until `stop` returns True.

        Raises:
            BaseException: The error of a run, or of one of the caller's functions.
            EtudeError: If the cluster is gone.
        """
        try:
            while pending(self.runs, self.request) and not self._stops():
                self._submit()
                self._collect(WAIT)
            self._save_what_there_is()
        except BaseException:
            self.request = replace(self.request, on_step=None)  # it may be what failed
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._save_what_there_is()
            raise
        finally:
            self._cancel()
        if self.failure is not None:
            raise self.failure

    def _stops(self) -> bool:
        return self.failure is not None or self.request.stop()

    # ---- handing in ----------------------------------------------------------------------------

    def _submit(self) -> None:
        """Hand in runs while there is room, those with the most updates left first."""
        busy = {place for place, _ in self.running.values()}
        now = time.monotonic()
        free = [
            place
            for place in pending(self.runs, self.request)
            if place not in busy and self.rests.get(place, 0.0) <= now
        ]
        free.sort(key=lambda place: self.runs[place].step - self._target(place))
        for place in free[: max(0, self._places() - len(self.running))]:
            state = self.there.pop(place, None)
            if state is None:
                state = self.ray.put(pack(portable(self.runs[place])))
            steps = tuple(sorted(self.request.steps_of(self.runs[place].state)))
            piece = Piece(self._target(place), steps, self.keep)
            try:
                told, packed = self.task.remote(
                    *self.common[place], self.told[place], state, astuple(piece)
                )
            except (self.ray.exceptions.RayError, ConnectionError) as error:
                raise self.cluster.gone(error, KEPT) from error
            self.running[told] = place, packed

    def _target(self, place: int) -> int:
        return self.request.target(self.runs[place].state)

    def _places(self) -> int:
        """Return how many pieces the cluster can train now."""
        if time.monotonic() - self._looked > LOOK:
            self._room, self._looked = self.width(), time.monotonic()
        return max(1, self._room)

    # ---- taking back ---------------------------------------------------------------------------

    def _collect(self, seconds: float) -> None:
        if not self.running:
            time.sleep(seconds)  # every run rests, since its worker was lost
            return
        handed = list(self.running)
        try:
            ready, _ = self.ray.wait(handed, num_returns=1, timeout=seconds)
            if ready:
                ready, _ = self.ray.wait(handed, num_returns=len(handed), timeout=0)
        except ConnectionError as error:
            raise self.cluster.gone(error, KEPT) from error
        for told in ready:
            self._take(told, *self.running.pop(told))

    def _take(self, told: Any, place: int, packed: Any) -> None:
        run = self.runs[place]
        before = run.step
        try:
            failure, state = self.ray.get([told, packed])
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            if isinstance(cause, self.ray.exceptions.RayError):
                self._note_loss(place, cause)
                return
            raise cannot_run("a Ray worker", error) from error
        except ConnectionError as error:
            raise self.cluster.gone(error, KEPT) from error
        if state is not None:
            take_back(run, unpack(state))
        if run.step > before:
            self.losses.pop(place, None)
        if failure is None:
            self.there[place] = packed
        elif self.failure is None:
            self.failure = with_run(error_of(failure), run)
        if self.request.on_step is not None:
            self.request.on_step(run.state, run.step)

    def _note_loss(self, place: int, error: BaseException) -> None:
        """Let a run whose worker was lost be handed in again, or fail after too many losses."""
        if not self.cluster.nodes():
            raise self.cluster.gone(error, KEPT) from error
        self._looked = -LOOK
        self.losses[place] = count = self.losses.get(place, 0) + 1
        self.rests[place] = time.monotonic() + REST * count
        if count >= DEATHS and self.failure is None:
            run = self.runs[place]
            self.failure = TaskError(
                f"{describe(run)}: its worker was lost {count} times after update {run.step} "
                f"({first_line(error)}): it may need more memory than there is; train it with the "
                "loop to see why"
            )

    def _save_what_there_is(self) -> None:
        """Load the states of what is still in training, and wait a while for them."""
        end = time.monotonic() + self.keep + PATIENCE
        while self.running and time.monotonic() < end:
            self._collect(WAIT)

    def _cancel(self) -> None:
        for told in self.running:
            with contextlib.suppress(Exception):  # the cluster may be what is gone
                self.ray.cancel(told, force=True)
        self.running.clear()
