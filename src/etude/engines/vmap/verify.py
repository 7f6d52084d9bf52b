"""Compares the first updates of a model in a stack with those of the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.engines.process.state_transfer import pack, unpack
from etude.engines.vmap.batched_update import BatchedUpdate
from etude.engines.vmap.dropout import Mask, MaskRecorder
from etude.engines.vmap.layout import Layout
from etude.engines.vmap.member import Member
from etude.engines.vmap.optimizers import flags_of
from etude.engines.vmap.recurrent import unroll
from etude.engines.vmap.stack import Stack
from etude.model_copy import copy_model
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor
from etude.training.run import Run

STEPS = 3
"""The number of updates that are compared."""

GRADIENT, LOSS = 1e-3, 1e-3
"""The largest difference that counts as roundoff: of gradients, relative to their norm; of losses,
relative to the first loss."""


@dataclass(frozen=True)
class Verified:
    """A program whose first updates agree with the loop's, and the masks of one forward pass."""

    program: BatchedUpdate
    masks: list[Mask]


class VerificationError(Exception):
    """A model cannot be stacked; the message says why."""


def verify(runs: list[Run]) -> Verified:
    """Build the program for runs of one kind, and verify it on two of them.

    The runs do not change.

    Raises:
        VerificationError: If vmap does not support the model, or its results differ from the
            loop's.
    """
    # Two, because only then a model that mixes members shows. Those with the smallest rates,
    # because roundoff grows least there.
    chosen = sorted(runs, key=lambda run: run.recipe.lr)[:2]
    loops = [copied(run) for run in chosen]
    masks, untouched, gradients, weighs = zip(*(_first(run) for run in loops), strict=True)
    if masks[0] != masks[-1] or untouched[0] != untouched[-1]:
        raise VerificationError("two runs of it do not compute the same way")
    net = copy_model(chosen[0].model)
    unroll(net)
    layout = Layout.of(net, untouched[0])
    if not layout.names:
        raise VerificationError("no parameter gets a gradient")
    flags = flags_of(chosen[0].recipe.optimizer, chosen[0].state.hyperparameter_schedules)
    program = BatchedUpdate(chosen[0], net, layout, flags, weighs=weighs[0])
    try:
        stack = Stack(program, chosen, masks[0])
        _compare_gradients(stack, gradients)
        for count in (1, STEPS - 1):
            for run in loops:
                run.advance(run.step + count)
            if any(run.step < member.step + count for run, member in _pairs(loops, stack)):
                break  # it has diverged or ended
            stack.advance(count, program.step)
            _compare(stack, loops, count)
            if stack.members[0].step == chosen[0].step + 1:
                # Only after the first update: the gradient of a bias before a normalisation is
                # pure roundoff, which Adam turns into full steps.
                _compare_buffers(stack, loops)
    except VerificationError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise VerificationError(_first_line(error)) from error
    return Verified(program, masks[0])


def copied(run: Run) -> Run:
    """Return a copy of a run, in the same state, that shares only the data with it."""
    other = Run(run.task, run.recipe, device=run.device)
    # Packed as bytes, because a state refers to the tensors of its run.
    other.load_state_dict(unpack(pack(run.state_dict())))
    return other


def _first(run: Run) -> tuple[list[Mask], tuple[str, ...], dict[str, Tensor], bool]:
    """Return the masks of the next forward pass, the parameters without gradient, the gradients.

    The last value says whether the number of targets that the loss averages over depends on the
    batch. The run does not change.
    """
    state = run.state_dict()
    model = copy_model(run.model)
    names = dict(model.named_parameters())
    batches = run.task.train.stream(run.batch_size, run.recipe.seed, Cursor(**state["place"]))
    recorder = MaskRecorder()
    # In unrolled recurrent layers dropout can be recorded; it draws in the same order.
    seen = copy_model(model)
    unroll(seen)
    with random_state_kept(0):
        batch = next(batches)
        try:
            with recorder:
                run.objective.task.forward(seen, batch)
        except Exception as error:
            raise VerificationError(_first_line(error)) from error
        loss, _, _ = run.objective.task.weighed(model.train(), batch)
        loss.times(1.0).backward()  # type: ignore[no-untyped-call]
    untouched = tuple(n for n, p in names.items() if p.requires_grad and p.grad is None)
    gradients = {n: p.grad for n, p in names.items() if p.grad is not None}
    return recorder.masks, untouched, gradients, isinstance(loss.weight, Tensor)


def _compare_gradients(stack: Stack, expected: tuple[dict[str, Tensor], ...]) -> None:
    """Compare the gradients of one batch, if the model has no dropout."""
    program = stack.program
    places = [member.inputs.position() for member in stack.members]
    feeds, _ = stack.feeds(1)
    for member, place in zip(stack.members, places, strict=True):
        member.inputs.set_position(place)
    if feeds[0].masks or program.batches > 1 or program.penalised:
        return  # for these, only the losses after some updates are compared
    columns = dict(zip(program.names, feeds[0].columns.unsqueeze(2).unbind(1), strict=True))
    gradient, _, _ = program.gradient(stack.state, feeds[0], stack.data, columns)
    for row, wanted in zip(gradient, expected, strict=True):
        whole = program.layout.row(wanted)
        if not torch.isfinite(whole).all():
            continue
        off = float((row - whole).norm()) / max(float(whole.norm()), 1e-12)
        if not off <= GRADIENT:
            raise VerificationError(f"its gradient differs from the loop's by {100 * off:.2g}%")


def _pairs(loops: list[Run], stack: Stack) -> list[tuple[Run, Member]]:
    return list(zip(loops, stack.members, strict=True))


def _compare(stack: Stack, loops: list[Run], count: int) -> None:
    for run, member in _pairs(loops, stack):
        ours, theirs = member.series["loss"][-count:], run.series["loss"][-count:]
        scale = max(abs(theirs[0]), 1e-6)
        for stacked, looped in zip(ours, theirs, strict=True):
            if math.isfinite(looped) and abs(stacked - looped) > LOSS * max(scale, abs(looped)):
                raise VerificationError(f"its loss is {stacked:g}, and the loop's {looped:g}")


def _compare_buffers(stack: Stack, loops: list[Run]) -> None:
    for place, run in enumerate(loops):
        buffers: dict[str, Any] = dict(run.model.named_buffers())
        for name, tensor in zip(stack.program.layout.fixed, stack.state.fixed, strict=True):
            if name not in buffers:
                continue
            wanted = buffers[name]
            if not torch.allclose(tensor[place].double(), wanted.double(), rtol=1e-2, atol=1e-4):
                raise VerificationError(f"its buffer {name} differs from the loop's")


def _first_line(error: BaseException) -> str:
    """Return the first line of the message of the deepest cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
