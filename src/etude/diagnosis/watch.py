"""`watch`: reads anyone's own training loop, and says what is wrong as it arises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from etude.diagnosis.finding import Finding
from etude.diagnosis.watching.layers import Models, named_models
from etude.diagnosis.watching.sink import Sink, listed_sinks
from etude.diagnosis.watching.training_watch import TrainingWatch
from etude.errors import BadTypeError, BadValueError, shown


def watch(
    model: Models,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    every: int | None = None,
    loss: Callable[[], Any] | None = None,
    on_finding: Callable[[Finding], object] | None = None,
    logger: logging.Logger | None = None,
    sink: Sink | Sequence[Sink] = (),
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
    then in every fourth, at least 16 updates apart. The rules for what is found are in
    `etude.diagnosis.facts` and `etude.diagnosis.symptoms`.

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
        sink: Gets the readings and findings, such as `etude.interop.tensorboard.TensorBoardSink`;
            or several.

    Returns:
        The watch: `report()` returns a `Diagnosis` at any time, `close()` ends it, and so does a
        `with` block. Keep a reference to it; it ends where it is no longer referenced.

    Raises:
        BadTypeError: If a model, an optimizer or a sink is something else.
        BadValueError: If `every` is not a positive integer, there is no optimizer, or `loss` is
            given with several optimizers, whose losses differ.

    >>> import etude, torch
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
        [torch_optimizer(one) for one in listed],
        every=checked_period(every),
        loss=loss,
        on_finding=on_finding,
        logger=logger,
        sinks=listed_sinks(sink),
    )


def checked_period(every: Any) -> int | None:
    """Return the number of updates from one sample to the next; None for an automatic one.

    Raises:
        BadValueError: If it is not a positive integer.
    """
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise BadValueError(f"every is {shown(every)}: give a positive integer, or None")
    return every


def torch_optimizer(optimizer: Any) -> Optimizer:
    """Return the optimizer inside a wrapper such as accelerate's."""
    if not isinstance(optimizer, Optimizer):
        raise BadTypeError(f"optimizer is {shown(optimizer)}: give a torch.optim.Optimizer")
    inner = getattr(optimizer, "optimizer", None)
    return torch_optimizer(inner) if isinstance(inner, Optimizer) else optimizer
