"""`watch`: reads anyone's own training loop, and says what is wrong as it arises."""

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

import torch
from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.find import find
from etude.diagnosis.finding import Diagnosis, Finding
from etude.diagnosis.history import History
from etude.diagnosis.hooks import Hook
from etude.diagnosis.layers import Models, named_models, unwrapped
from etude.diagnosis.loop_reader import LoopReader
from etude.diagnosis.losses import kept
from etude.diagnosis.overview import seen, unseen
from etude.diagnosis.symptoms.rising import BLOCK, LossLevels, warning
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.judge import judge
from etude.errors import BadTypeError, BadValueError, shown
from etude.torch_internals import compiles, listen_to_backward

HOOKLESS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that compute an evaluation in another way where a hook is attached to them."""


class TrainingWatch:
    """Reads a training loop while it is open; `etude.watch` makes one.

    It is closed by the end of its `with` block, by `close`, or when it is no longer referenced.
    """

    def __init__(
        self,
        models: dict[str, nn.Module],
        optimizers: Sequence[Optimizer],
        *,
        every: int | None,
        loss: Callable[[], Any] | None,
        on_finding: Callable[[Finding], object] | None,
        logger: logging.Logger | None,
    ) -> None:
        inner = {prefix: unwrapped(model) for prefix, model in models.items()}
        self._reader = LoopReader(inner, optimizers, every=every, loss=loss)
        self._on_finding, self._logger = on_finding, logger
        self._findings: list[Finding] = []
        self._told: set[tuple[str, str | None, bool]] = set()
        self._levels = LossLevels()
        self._next_look = 3
        self._thread: int | None = None
        self._entered = 0
        self._compiled = any(compiles(model) for model in models.values())
        self._hookless = [m for m in inner.values() if isinstance(m, HOOKLESS)]
        self._error = ""
        self._ended = False
        removers = [listen_to_backward(self)]
        for number, optimizer in enumerate(optimizers):
            for register, method in (
                (optimizer.register_step_pre_hook, f"_before_step_{number}"),
                (optimizer.register_step_post_hook, f"_after_step_{number}"),
            ):
                removers.append(register(_StepHook(self, method)).remove)
        if not self._compiled:
            for module in inner.values():
                if isinstance(module, HOOKLESS):
                    continue
                before, after = Hook(self, "_before_forward"), Hook(self, "_after_forward")
                removers += [
                    module.register_forward_pre_hook(before, with_kwargs=True).remove,
                    module.register_forward_hook(after, with_kwargs=True, always_call=True).remove,
                ]
        self._remove = weakref.finalize(self, _call_all, removers)
        self._remove.atexit = False

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
        return not self._remove.alive

    def close(self) -> None:
        """Look once more at what was read, and remove all hooks; may be called twice."""
        if not self.closed:
            self._ended = self._ended or sys.exc_info()[0] is None
            self._remove()
            self._guarded(self._finish)

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
        return Evidence(tuple(self._findings), history)

    def report(self) -> Diagnosis:
        """Return all that was found until now, with a verdict; tell what is new."""
        known = self.evidence()
        history = known.history
        assert history is not None
        return Diagnosis(
            known.findings,
            verdict=judge(known) if history.samples else None,
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

    def before_backward(self, tensors: Any) -> None:
        """Read what is due when a backward pass starts."""
        if self._here():
            self._guarded(self._reader.before_backward, tensors)

    def after_backward(self, tensors: Any) -> None:
        """Read what is due when a backward pass has ended."""
        if self._here():
            self._guarded(self._reader.after_backward, tensors)

    def scaled(self, given: Any, result: Any) -> None:
        """Keep the loss that a `GradScaler` scales."""
        self._guarded(self._reader.losses.scaled, given, result)

    def _before_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._here():
            self._guarded(self._reader.before_forward, module)

    def _after_forward(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._here():
            self._guarded(self._reader.after_forward, module, args, kwargs, output)

    def before_step(self, number: int, closure: bool) -> None:
        """Read what is due before a step."""
        self._thread = threading.get_ident()
        self._guarded(self._reader.before_step, number, closure=closure)

    def after_step(self, number: int, closure: bool) -> None:
        """Read what is due after a step."""
        self._guarded(self._reader.after_step, number, closure=closure)
        if self._levels.rise is None and self._reader.updates % BLOCK == 0:
            self._guarded(self._look_ahead)
        if len(self._reader.recorder.rows) >= self._next_look:
            self._guarded(self._look)

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

    def _look(self) -> None:
        started = time.perf_counter()
        rows = len(self._reader.recorder.rows)
        self._next_look = 2 * rows  # a look costs more than a sample: few are enough
        findings = find(self._reader.history())
        self._reader.own += time.perf_counter() - started
        self._tell(findings)

    def _finish(self) -> None:
        self._reader.give_up_forward()
        self._reader.close()
        self._tell(find(self._history()))

    def _history(self) -> History:
        return replace(self._reader.history(), ended=self._ended)

    def _tell(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            key = str(finding.what), finding.layer, "warning" in finding.evidence
            if key not in self._told:
                self._told.add(key)
                self._findings.append(finding)
                self._say(finding)

    def _say(self, finding: Finding) -> None:
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
            self._reader.give_up_forward()
            self._remove()
            self._warn(
                f"the watch stopped at update {self._reader.updates} with {self._error}; "
                "the training goes on"
            )

    def _warn(self, text: str) -> None:
        warnings.warn(f"etude.watch: {text}", stacklevel=3)


class _StepHook(Hook):
    """A hook of an optimizer, whose method's name holds the optimizer's number."""

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Call the watch, except while torch compiles the step."""
        if torch.compiler.is_compiling():
            return
        watch: TrainingWatch | None = self._owner()  # type: ignore[assignment]
        if watch is not None:
            when, _, number = self._method.rpartition("_")
            given = [*args, *kwargs.values()]  # the optimizer itself is among them
            closure = any(callable(one) and one is not optimizer for one in given)
            (watch.before_step if when == "_before_step" else watch.after_step)(
                int(number), closure
            )


def watch(
    model: Models,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    every: int | None = None,
    loss: Callable[[], Any] | None = None,
    on_finding: Callable[[Finding], object] | None = None,
    logger: logging.Logger | None = None,
) -> TrainingWatch:
    """Watch a training loop of your own, and say what is wrong with it, as it arises.

    Nothing of the loop changes: weights, random numbers and modes are the same to the bit with and
    without the watch. Updates are found by the optimizer's own hooks, losses where `backward` is
    called. Readings are taken at sampled updates:

    - per layer: the norms of gradient and weight, ‖Δw‖/‖w‖ of the update that was really made, the
      cosine of consecutive updates, the gradient's signal to noise c/(1 - c) from the cosine c of
      consecutive gradients, mean and variance of the output, dead and saturated units;
    - of the run: loss, rate, the share of clipped updates, the mode of the model, whether gradients
      were cleared, how much the outputs of a batch differ, the gradient noise scale in batches;
    - with `loss`, in few updates, the critical sharpness 2/η_c and η/η_c, where η_c is the smallest
      rate at which the step would have raised the loss of its own batch: see
      `etude.measure.critical_rate`.

    The outputs, dead and saturated units, and clipping are read in the first 12 sampled updates and
    then in every fourth. The rules for what is found are in `etude.diagnosis.facts` and
    `etude.diagnosis.symptoms`.

    By default an update is sampled when that keeps the watch's own time below 2% of the loop's; the
    first updates are always sampled, so that a short run pays more. The
    time is measured by the host's clock around everything that the watch does; on an accelerator
    this is the time to queue its work, not to compute it. `report().seen` says how many updates
    were sampled.

    Args:
        model: The network; or several, in a list or by name. Wrappers such as
            `DistributedDataParallel` are looked through.
        optimizer: What updates it; or several.
        every: Sample updates 0, every, 2·every ...; None chooses.
        loss: A function that returns the loss of the current batch, without calling `backward`,
            such as `lambda: cross_entropy(model(x), y)`. It is called up to 6 times after the steps
            of updates 0, 1, 2, 4, 8 ... and later once in 256 updates, at weights along the step
            that was made. What forward passes change is put back: weights, buffers, attributes and
            modes of the modules, random numbers. None measures no curvature.
        on_finding: Called once with each finding.
        logger: Each finding is logged there as a warning, once. Without both, each is printed to
            standard error.

    Returns:
        The watch: `report()` returns a `Diagnosis` at any time, `close()` ends it, and so does a
        `with` block. Keep a reference to it; it ends where it is no longer referenced.

    Raises:
        BadTypeError: If a model or an optimizer is something else.
        BadValueError: If `every` is not a positive integer, or `loss` is given with several
            optimizers, whose losses differ.

    >>> import etude
    >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> with etude.watch(net, optimizer) as w:
    ...     for _ in range(50):
    ...         optimizer.zero_grad()
    ...         loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
    ...         loss.backward()
    ...         _ = optimizer.step()
    >>> print(w.report())
    healthy
    """
    models = named_models(model) if isinstance(model, (nn.Module, list, tuple, dict)) else {}
    for one in models.values():
        if not isinstance(one, nn.Module):
            raise BadTypeError(f"model is {shown(one)}: give a torch.nn.Module, or several")
    if not models:
        raise BadTypeError(f"model is {shown(model)}: give a torch.nn.Module, or several")
    listed = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    if not isinstance(listed, (list, tuple)) or not listed:
        raise BadTypeError(
            f"optimizer is {shown(optimizer)}: give a torch.optim.Optimizer, or several"
        )
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise BadValueError(f"every is {shown(every)}: give a positive integer, or None")
    if loss is not None and not callable(loss):
        raise BadTypeError(
            f"loss is {shown(loss)}: give a function that returns the loss of the current batch, "
            "such as lambda: cross_entropy(model(x), y)"
        )
    if loss is not None and len(listed) > 1:
        raise BadValueError(
            f"loss is given with {len(listed)} optimizers: the loss along a step is known for one "
            "optimizer alone, so leave loss out"
        )
    return TrainingWatch(
        models,
        [_inner(one) for one in listed],
        every=every,
        loss=loss,
        on_finding=on_finding,
        logger=logger,
    )


def _inner(optimizer: Any) -> Optimizer:
    """Return the optimizer inside a wrapper such as accelerate's."""
    if not isinstance(optimizer, Optimizer):
        raise BadTypeError(f"optimizer is {shown(optimizer)}: give a torch.optim.Optimizer")
    inner = getattr(optimizer, "optimizer", None)
    return _inner(inner) if isinstance(inner, Optimizer) else optimizer


def _call_all(removers: Sequence[Callable[[], None]]) -> None:
    for remove in removers:
        remove()


def _ignore(finding: Finding) -> None:
    """Do nothing: the callback failed before."""
