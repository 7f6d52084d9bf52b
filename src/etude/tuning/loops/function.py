"""Drives a function of the user's own that trains and reports, or a generator that yields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etude.errors import BadTypeError, TaskError, shown
from etude.randomness import OwnRandomness
from etude.tuning.loops.driver import StartDriver
from etude.tuning.loops.reports import Reported, RunReports


class TrialPaused(BaseException):
    """Ends a loop where its trial is paused; it is no error.

    It is no `Exception`, so that an `except Exception` in the loop does not catch it; `finally`
    and `with` blocks run as usual.
    """


class LoopReport:
    """What a loop calls with its losses: `report(step, loss)`.

    It pauses the loop, by raising `TrialPaused`, where the search has seen enough for now.

    Args:
        reports: Where they are noted.
    """

    def __init__(self, reports: RunReports) -> None:
        self._reports = reports
        self.saved: Any = None

    def __call__(
        self, step: int, loss: Reported, *, training: float | None = None, state: Any = None
    ) -> None:
        """LoopReport how good the model is after some updates.

        Args:
            step: The number of updates done (0 before the first), or of epochs: the unit of the
                tuning's `steps`.
            loss: What is compared: the validation loss, as a number; as a list of numbers, one for
                each part of the validation data, whose spread tells what ties; or as a function
                that returns either, which is called only where a value is needed.
            training: The mean training loss since the last report. It shows where a rate overfits.
            state: What the loop needs to go on from here, or a function that returns it, which is
                called only at a pause. It is handed back as `resume`, as it is, once. None cannot
                be resumed: the run starts over, and its updates are paid again.
        """
        if self._reports.take(step, loss, training):
            return
        if self._reports.paused and self.saved is None:
            self.saved = state() if callable(state) else state
        raise TrialPaused


class FunctionDriver:
    """Drives `train(lr, report)` or `train(lr, report, resume)`.

    Args:
        train: The function.
        lr: The rate.
        seed: Seeds the random numbers of Python, NumPy and torch at the start; they are kept over
            a pause.
    """

    def __init__(self, train: Callable[..., Any], lr: float, seed: int) -> None:
        self.train, self.lr, self.seed = train, lr, seed
        self.value: Any = None
        self._state: Any = None
        self._random = OwnRandomness(seed)
        self._resume = takes_resume(train)

    @property
    def resumable(self) -> bool:
        """Whether the loop saved its state where it was paused."""
        return self._state is not None

    def drive(self, reports: RunReports) -> None:
        """Call the function, with what it saved."""
        if self._state is None and reports.step:
            until = reports.until
            reports.restart()
            reports.begin(until)
            self._random = OwnRandomness(self.seed)
        report = LoopReport(reports)
        resume, self._state = self._state, None
        try:
            with self._random:
                self.value = _called(self.train, self.lr, report, resume, resumes=self._resume)
        except TrialPaused:
            pass
        else:
            reports.end()
        if self._resume:
            self._state = report.saved

    def close(self) -> None:
        """Forget the state."""
        self._state = None


class GeneratorDriver:
    """Drives a generator: `train(lr)` that yields (step, loss) or (step, loss, training loss).

    It is paused where it yields, in memory, and nothing needs to be saved.

    Args:
        train: The generator function.
        lr: The rate.
        seed: As in `FunctionDriver`; each run has its own random numbers.
    """

    resumable = True

    def __init__(self, train: Callable[[float], Iterable[Any]], lr: float, seed: int) -> None:
        self.value: Any = None
        self._random = OwnRandomness(seed)
        with self._random:
            given = train(lr)
        if not isinstance(given, Iterable):
            raise TaskError(
                f"the loop returned {shown(given)}: a function of the rate alone is a generator "
                "that yields step, loss; another takes the rate and what it reports to, as "
                "train(lr, report)"
            )
        self._generator: Iterator[Any] | None = iter(given)

    def drive(self, reports: RunReports) -> None:
        """Take what it yields, until that is enough."""
        assert self._generator is not None
        with self._random:
            while True:
                try:
                    given = next(self._generator)
                except StopIteration as end:
                    self.value = end.value
                    reports.end()
                    return
                if not isinstance(given, tuple) or len(given) not in (2, 3):
                    raise TaskError(
                        f"the loop yielded {shown(given)}: yield step, loss, or step, loss, "
                        "training loss"
                    )
                if not reports.take(*given):
                    return

    def close(self) -> None:
        """Close the generator: its `finally` blocks run."""
        generator, self._generator = self._generator, None
        if generator is not None and hasattr(generator, "close"):
            with self._random:
                generator.close()


def starter_of(train: Callable[..., Any], seed: int) -> StartDriver:
    """Return what starts a run of a function, by what kind of function it is.

    Raises:
        BadTypeError: If it is no function, or one that takes neither form.
    """
    if not callable(train):
        raise BadTypeError(
            f"train={shown(train)} is not a function: give train(lr, report) that calls "
            "report(step, loss), or a generator train(lr) that yields step, loss"
        )
    if _generates(train):
        return lambda lr, fold: GeneratorDriver(train, lr, seed)
    takes_resume(train)
    return lambda lr, fold: FunctionDriver(train, lr, seed)


def _generates(train: Callable[..., Any]) -> bool:
    """Return whether a function yields: by what it is, or because it takes the rate alone."""
    call = getattr(train, "__call__", None)  # noqa: B004 - an object whose call is a generator
    if inspect.isgeneratorfunction(train) or inspect.isgeneratorfunction(call):
        return True
    try:
        inspect.signature(train).bind(0.1)
    except (TypeError, ValueError):
        return False
    return True


def takes_resume(train: Callable[..., Any]) -> bool:
    """Return whether a function takes what it saved at a pause: `resume`, or a third argument.

    Raises:
        BadTypeError: If it cannot be called as train(lr, report), with resume or without.

    >>> takes_resume(lambda lr, report, resume: None), takes_resume(lambda lr, report: None)
    (True, False)
    """
    try:
        signature = inspect.signature(train)
    except (TypeError, ValueError):
        return False
    named = "resume" in signature.parameters
    for given, options, found in (
        ((0.1, None), {"resume": None}, True),
        ((0.1, None), {}, False),
        ((0.1, None, None), {}, True),
    ):
        if options and not named:
            continue
        try:
            signature.bind(*given, **options)
        except TypeError:
            continue
        return found
    name = getattr(train, "__name__", shown(train))
    raise BadTypeError(
        f"{name}{signature} cannot be called as train(lr, report), or as train(lr, report, "
        "resume): give a function of these, or a generator train(lr) that yields step, loss"
    )


def _called(
    train: Callable[..., Any], lr: float, report: LoopReport, resume: Any, *, resumes: bool
) -> Any:
    """Call a loop in the form that it takes."""
    if not resumes:
        return train(lr, report)
    if "resume" in inspect.signature(train).parameters:
        return train(lr, report, resume=resume)
    return train(lr, report, resume)
