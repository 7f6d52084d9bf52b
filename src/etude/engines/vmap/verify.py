"""The first updates of a user's own model, by the loop and in a stack, held side by side."""

from __future__ import annotations

import copy
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
from etude.randomness import random_state_kept
from etude.tasks.data import Cursor
from etude.training.run import Run

STEPS = 3
"""Updates that are compared."""

GRADIENT, LOSS = 1e-3, 1e-3
"""Largest difference that is roundoff: of gradients, as a share of their norm; of losses, as a
share of the first."""


@dataclass(frozen=True)
class Verified:
    """A program that a trial has approved, and what one forward pass draws."""

    program: BatchedUpdate
    masks: list[Mask]


class VerificationError(Exception):
    """The trial failed; the message says at what."""


def fit(runs: list[Run]) -> Verified:
    """Build the program of runs of one kind, and try it on two of them.

    The runs are left as they are.

    Raises:
        UnfitError: If vmap cannot take the model, or answers otherwise than the loop.
    """
    # Two, for what mixes members shows only between them; those of the smallest rates, at which
    # roundoff grows least.
    chosen = sorted(runs, key=lambda run: run.recipe.lr)[:2]
    loops = [copied(run) for run in chosen]
    masks, untouched, gradients, weighs = zip(*(_first(run) for run in loops), strict=True)
    if masks[0] != masks[-1] or untouched[0] != untouched[-1]:
        raise VerificationError("two runs of it do not compute the same way")
    net = copy.deepcopy(chosen[0].model)
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
                break  # it diverged, or is at its end
            stack.advance(count, program.step)
            _compare(stack, loops, count)
            if stack.members[0].step == chosen[0].step + 1:
                # Later ones may differ by more than roundoff where a bias meets a normalisation: it
                # has no gradient but roundoff, which Adam makes whole steps of.
                _compare_buffers(stack, loops)
    except VerificationError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise VerificationError(_first_line(error)) from error
    return Verified(program, masks[0])


def copied(run: Run) -> Run:
    """Return a run that stands where another stands, and shares nothing with it but the data."""
    other = Run(run.task, run.recipe, device=run.device)
    # By way of bytes: a state refers to the tensors of the run it is of.
    other.load_state_dict(unpack(pack(run.state_dict())))
    return other


def _first(run: Run) -> tuple[list[Mask], tuple[str, ...], dict[str, Tensor], bool]:
    """Return what the next forward pass draws, the parameters without gradient, the gradients.

    And whether the batch's targets decide what the loss is a mean over. The run is left as it is.
    """
    state = run.state_dict()
    model = copy.deepcopy(run.model)
    names = dict(model.named_parameters())
    batches = run.task.train.stream(run.batch_size, run.recipe.seed, Cursor(**state["place"]))
    plan = MaskRecorder()
    # Recurrent layers must be seen to draw, and draw in the same order step by step.
    seen = copy.deepcopy(model)
    unroll(seen)
    with random_state_kept(0):
        batch = next(batches)
        try:
            with plan:
                run.objective.task.forward(seen, batch)
        except Exception as error:
            raise VerificationError(_first_line(error)) from error
        loss, _, _ = run.objective.task.weighed(model.train(), batch)
        loss.times(1.0).backward()  # type: ignore[no-untyped-call]
    untouched = tuple(n for n, p in names.items() if p.requires_grad and p.grad is None)
    gradients = {n: p.grad for n, p in names.items() if p.grad is not None}
    return plan.masks, untouched, gradients, isinstance(loss.weight, Tensor)


def _compare_gradients(stack: Stack, expected: tuple[dict[str, Tensor], ...]) -> None:
    """Hold the gradients of one batch side by side, where dropout does not come between them."""
    program = stack.program
    places = [member.inputs.place() for member in stack.members]
    feeds, _ = stack.feeds(1)
    for member, place in zip(stack.members, places, strict=True):
        member.inputs.go_to(place)
    if feeds[0].masks or program.batches > 1 or program.penalised:
        return  # the losses after some updates speak for these
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
    """Return the beginning of the deepest cause's message."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."
