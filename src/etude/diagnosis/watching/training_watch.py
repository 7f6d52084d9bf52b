"""`TrainingWatch`: the hooks in a training loop, and what is told of what they read."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.find import find
from etude.diagnosis.finding import Diagnosis, Finding
from etude.diagnosis.history import History
from etude.diagnosis.symptoms.departure import too_short
from etude.diagnosis.symptoms.rising import BLOCK, LossLevels, warning
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.judge import judge
from etude.diagnosis.watching.attachment import HOOKLESS, Attachment
from etude.diagnosis.watching.curvature import CurvatureTimes
from etude.diagnosis.watching.layers import unwrapped
from etude.diagnosis.watching.loop_reader import LoopReader, rate_of
from etude.diagnosis.watching.losses import kept
from etude.diagnosis.watching.overview import seen, unseen
from etude.diagnosis.watching.sink import Sink, SinkFeed
from etude.torch_internals import compiles

FEED_EVERY = 16
"""Sinks get new readings when so many updates were sampled."""


class TrainingWatch:
    """Reads a training loop while it is open; `etude.watch` makes one.

    It is closed by the end of its `with` block, by `close`, or when it is no longer referenced.
    """

    def __init__(
        self,
        models: dict[str, nn.Module],
        optimizers: Sequence[Optimizer],
        *,
        every: int | None = None,
        loss: Callable[[], Any] | None = None,
        times: CurvatureTimes | None = None,
        on_finding: Callable[[Finding], object] | None = None,
        logger: logging.Logger | None = None,
        sinks: Sequence[Sink] = (),
        known: Sequence[Finding] = (),
        arrange: Callable[[History], History] | None = None,
        one_loss: bool = True,
        close_on_error: bool = False,
    ) -> None:
        self._inner = {prefix: unwrapped(model) for prefix, model in models.items()}
        self._reader = LoopReader(self._inner, optimizers, every=every, loss=loss, times=times)
        self._reader.one_loss = one_loss
        self._on_finding, self._logger = on_finding, logger
        self._findings: list[Finding] = list(known)
        self._told = {_key(one) for one in known}
        self._levels = LossLevels()
        self._arrange = arrange
        self._feeds = [SinkFeed(sink, self._warn) for sink in sinks]
        self._next_look = 3
        self._next_feed = 1
        self._thread: int | None = None
        self._entered = 0
        self._depth: dict[int, int] = {}
        self._moved = self._nested = False
        self._rest, self._rates = 0, list[float]()
        self._compiled = any(compiles(model) for model in models.values())
        self._hookless = [m for m in self._inner.values() if isinstance(m, HOOKLESS)]
        self._error = ""
        self._ended = False
        self._closed = False
        self._close_on_error = close_on_error
        self._optimizers = tuple(optimizers)
        self._remove: weakref.finalize[Any, Any] | None = None
        self.attach()

    def attach(self) -> None:
        """Attach the hooks, unless they are attached or the watch is closed."""
        if self.closed or self._remove is not None:
            return
        self._thread = None
        listened = [] if self._compiled else [*self._inner.values()]
        self._attachment = Attachment(self, self._optimizers, listened)
        self._remove = weakref.finalize(self, self._attachment.remove)
        self._remove.atexit = False

    def detach(self) -> None:
        """Remove the hooks; `attach` goes on."""
        self._count_rested()
        self._rest = 0
        self._reader.give_up_forward()
        remove, self._remove = self._remove, None
        if remove is not None:
            remove()

    # ---- what the user calls -------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self.closed:
            self._warn("this watch is closed, so nothing is read: make a new one with etude.watch")
        elif self._entered:
            self._warn("this watch is entered twice: the first block that ends closes it")
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it no longer reads."""
        return self._closed or bool(self._error)

    @property
    def updates(self) -> int:
        """How many updates were seen, the one that goes on included."""
        return self._reader.updates + len(self._rates)

    def will_measure(self) -> bool:
        """Return whether `loss` will be called after the step of the update that begins."""
        return not self.closed and not self._rest and self._reader.will_measure()

    def close(self) -> None:
        """Look once more at what was read, and remove all hooks; may be called twice."""
        self.detach()
        if not self._closed:
            self._ended = self._ended or sys.exc_info()[0] is None
            self._closed = True
            self._guarded(self._finish)
        for feed in self._feeds:
            feed.close()

    def log(self, *, loss: Any) -> None:
        """State the loss of this update, where no call of `backward` shows it.

        Call it before the optimizer's step. A tensor is read later.

        Args:
            loss: A number, or a tensor with one.
        """
        if not self.closed:
            self._reader.log(kept(loss))

    def evidence(self) -> Evidence:
        """Return what was seen until now, for a verdict; tell what is new."""
        history = self._history()
        self._tell(find(history))
        self._feed(history)
        return Evidence(tuple(self._findings), history)

    def report(self) -> Diagnosis:
        """Return all that was found until now, with a verdict; tell what is new."""
        known = self.evidence()
        history = known.history
        assert history is not None
        short = too_short(history)
        untold = not history.samples or (short and not known.findings)
        return Diagnosis(
            known.findings,
            verdict=None if untold else judge(known),
            too_short=short,
            seen=seen(history, self._reader),
            unseen=unseen(
                history,
                self._reader,
                compiled=self._compiled,
                hookless=[type(m).__name__ for m in self._hookless],
                error=self._error,
            ),
            history=history,
        )

    # ---- what the loop calls -------------------------------------------------------------------

    def begin_forward_of(self, module: nn.Module, args: Any) -> None:
        """Begin to read where a part of the model is called, unless the model itself is.

        For a trainer that calls parts of a model; `end_forward` ends it, before the backward pass.
        """
        if self._here() and not self.closed and not self._reader.is_reading_forward:
            self._guarded(self._reader.before_forward, module)

    def end_forward(self, output: Any) -> None:
        """End to read a forward pass that `begin_forward_of` began."""
        if self._here() and self._reader.is_reading_forward:
            self._guarded(self._reader.after_forward, None, (), {}, output)

    def before_backward(self, tensors: Any) -> None:
        """Read what is due when a backward pass starts."""
        self._moved = True
        if self._here():
            self._guarded(self._reader.before_backward, tensors)

    def after_backward(self, tensors: Any) -> None:
        """Read what is due when a backward pass has ended."""
        if self._here():
            self._guarded(self._reader.after_backward, tensors)

    def backward_failed(self) -> None:
        """End the watch if it is to end at an error: nobody else may do so."""
        if self._close_on_error and self._here():
            self.close()

    def scaled(self, given: Any, result: Any) -> None:
        """Keep the loss that a `GradScaler` scales."""
        self._guarded(self._reader.losses.scaled, given, result)

    def before_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Begin to read a forward pass."""
        self._moved = True
        if self._here():
            self._guarded(self._reader.before_forward, module)

    def after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """End to read a forward pass; `output` is None where it failed."""
        if self._here():
            self._guarded(self._reader.after_forward, module, args, kwargs, output)
            if output is None and self._close_on_error:
                self.close()

    def before_step(self, number: int, closure: bool) -> None:
        """Read what is due before a step; not before one that a step of a subclass calls."""
        nested = bool(self._depth.get(number, 0)) and not self._moved
        self._nested |= nested
        self._depth[number] = self._depth[number] + 1 if nested else 1
        self._moved = False
        if not nested:
            self._thread = threading.get_ident()
            self._guarded(self._reader.before_step, number, closure=closure)

    def after_step(self, number: int, closure: bool) -> None:
        """Read what is due after a step."""
        if self._rest:
            self._rested()
            return
        self._depth[number] = max(0, self._depth.get(number, 0) - 1)
        if self._depth[number]:
            return
        self._guarded(self._reader.after_step, number, closure=closure)
        self._guarded(self._choose_hooks)
        if self._levels.rise is None and self._reader.updates % BLOCK == 0:
            self._guarded(self._look_ahead)
        rows = len(self._reader.recorder.rows)
        if rows >= self._next_look or (self._feeds and rows >= self._next_feed):
            self._guarded(self._look)

    def _choose_hooks(self) -> None:
        """Hear the next forward pass if it is to be read; rest where listening costs too much."""
        reader = self._reader
        if not reader.is_between:
            return
        alone = len(self._optimizers) == 1 and not self._nested and reader.may_rest
        self._rest = reader.sampler.rest() if alone else 0
        if self._rest:
            self._attachment.rest()
        else:
            self._attachment.listen_forward(reader.wants_forward or self._close_on_error)

    def _rested(self) -> None:
        """Count a step that was not listened to, and listen again when the rest is over."""
        self._rates.append(rate_of(self._optimizers[0]))
        if len(self._rates) >= self._rest:
            self._guarded(self._wake)

    def _wake(self) -> None:
        """Listen again."""
        self._count_rested()
        self._rest = 0
        self._attachment.listen()
        self._attachment.listen_forward(self._reader.wants_forward or self._close_on_error)

    def _count_rested(self) -> None:
        rates, self._rates = self._rates, []
        if rates:
            self._rest = max(1, self._rest - len(rates))
            self._reader.skip(rates)

    def _here(self) -> bool:
        """Return whether the loop calls, in its own thread: `DataParallel` has others."""
        if self._reader.is_measuring:
            return False
        return self._thread is None or threading.get_ident() == self._thread

    # ---- findings ------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """Warn of a divergence; on an accelerator `_look` does, since reading a loss waits."""
        if self._reader.on_cpu and self._reader.one_loss:
            started = time.perf_counter()
            self._levels.follow(self._reader.losses.read())
            self._reader.own += time.perf_counter() - started
            if self._levels.rise is not None:
                self._tell([warning(self._levels.rise)])

    def _history(self) -> History:
        self._count_rested()
        history = replace(self._reader.history(), ended=self._ended)
        return history if self._arrange is None else self._arrange(history)

    def _look(self) -> None:
        started = time.perf_counter()
        rows = len(self._reader.recorder.rows)
        history = self._history()
        findings = []
        if rows >= self._next_look:
            self._next_look = 2 * rows  # a look costs more than a sample: few are enough
            findings = find(history)
        self._next_feed = rows + min(FEED_EVERY, max(1, rows // 2))
        self._feed(history)
        self._reader.own += time.perf_counter() - started
        self._tell(findings)

    def _finish(self) -> None:
        self._reader.close()
        history = self._history()
        self._tell(find(history))
        self._feed(history)

    def _feed(self, history: History) -> None:
        for feed in self._feeds:
            feed.new_readings(history)

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            key = _key(finding)
            if key not in self._told:
                self._told.add(key)
                self._findings.append(finding)
                self._say(finding)

    def _say(self, finding: Finding) -> None:
        for feed in self._feeds:
            feed.finding(finding)
        if self._on_finding is not None:
            try:
                self._on_finding(finding)
            except Exception as error:  # noqa: BLE001 - the user's training goes on
                self._warn(
                    f"on_finding failed and is not called again: {type(error).__name__}: {error}"
                )
                self._on_finding = _ignore
        if self._logger is not None:
            self._logger.warning("%s", finding)
        if self._on_finding is None and self._logger is None:
            print(f"etude: {finding}", file=sys.stderr)

    # ---- errors --------------------------------------------------------------------------------

    def _guarded(self, call: Callable[..., object], *args: Any, **options: Any) -> None:
        """Call a function of ours; where it fails, stop watching and let the training go on."""
        if self._error:
            return
        try:
            call(*args, **options)
        except Exception as error:  # noqa: BLE001 - the user's training goes on
            self._error = f"{type(error).__name__}: {error}"
            self.detach()
            self._warn(
                f"the watch stopped at update {self._reader.updates} with {self._error}; "
                "the training goes on"
            )

    def _warn(self, text: str) -> None:
        warnings.warn(f"etude.watch: {text}", stacklevel=3)


def _key(finding: Finding) -> tuple[str, str | None, bool]:
    """Return what makes a finding another than those that were told."""
    return str(finding.what), finding.layer, "warning" in finding.evidence


def _ignore(finding: Finding) -> None:
    """Do nothing: the callback failed before."""
