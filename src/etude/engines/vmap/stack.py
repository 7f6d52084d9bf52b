"""The states of several members in common tensors, and their updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.engines.vmap.batched_update import BatchedUpdate, Feed, Leaves, Stacked
from etude.engines.vmap.dropout import Mask
from etude.engines.vmap.inputs import InputPosition, Inputs
from etude.engines.vmap.layout import multipliers
from etude.engines.vmap.member import Member
from etude.engines.vmap.optimizer_state import read, write
from etude.record import Status
from etude.training.run import Run

Step = Callable[[Stacked, Feed, Leaves, tuple[Tensor, Tensor] | None], tuple[Stacked, Tensor]]


class Stack:
    """The members' states, one row each.

    Args:
        program: The update of the members.
        runs: The runs of the members.
        masks: The dropout masks of one forward pass.
    """

    def __init__(self, program: BatchedUpdate, runs: Sequence[Run], masks: list[Mask]) -> None:
        self.program = program
        self.members: list[Member] = []
        rows, moments, fixed = [], [], []
        for run in runs:
            carried, remembered = read(program, run)
            inputs = Inputs(run, run.state_dict(), carried, masks)
            self.members.append(Member(run, inputs, {}))
            named = {**dict(run.model.named_parameters()), **dict(run.model.named_buffers())}
            rows.append(program.layout.row(named))
            moments.append(remembered)
            fixed.append([named[name].detach().clone() for name in program.layout.fixed])
        self.state = Stacked(
            torch.stack(rows),
            tuple(torch.stack(parts) for parts in zip(*moments, strict=True)),
            tuple(torch.stack(parts) for parts in zip(*fixed, strict=True)),
        )
        self.data: Leaves = runs[0].task.train.tensors
        scales = [multipliers(run, program.layout) for run in runs]
        self.scales: tuple[Tensor, Tensor] | None = None
        if any(scale is not None for scale in scales):
            ones = torch.ones_like(rows[0])
            pairs = [(ones, ones) if scale is None else scale for scale in scales]
            self.scales = (
                torch.stack([pair[0] for pair in pairs]),
                torch.stack([pair[1] for pair in pairs]),
            )

    def __len__(self) -> int:
        return len(self.members)

    @property
    def shared(self) -> bool:
        """Whether all members read the same samples."""
        active = self.active
        first = active[0].inputs
        return all(
            m.inputs.cursor == first.cursor and m.run.recipe.seed == first.run.recipe.seed
            for m in active
        )

    @property
    def active(self) -> list[Member]:
        """The members that are still in training."""
        return [member for member in self.members if not member.idle]

    def advance(self, count: int, step: Step) -> dict[int, float]:
        """Do up to `count` updates of every member.

        The updates end before the first one with a loss that is not finite.

        Returns:
            The losses of that update that are not finite, by the member's index.
        """
        before = [member.inputs.position() for member in self.members]
        try:
            return self._advance(count, step, before)
        except BaseException:
            # No update was applied: the next attempt must get the same samples and masks.
            self._reset_inputs(before)
            raise

    def _reset_inputs(self, places: list[InputPosition]) -> None:
        for member, place in zip(self.members, places, strict=True):
            member.inputs.set_position(place)

    def _advance(self, count: int, step: Step, before: list[InputPosition]) -> dict[int, float]:
        state, report, rates = self._run(count, step)
        losses = report[:, 0]
        idle = np.array([member.idle for member in self.members])
        good = (np.isfinite(losses) | idle).all(axis=1)
        broken: dict[int, float] = {}
        if not good.all():
            whole = int(np.argmin(good))
            broken = {
                i: float(losses[whole, i])
                for i in range(len(self))
                if not (idle[i] or math.isfinite(losses[whole, i]))
            }
            self._reset_inputs(before)
            state, count = self.state, whole
            if whole:
                # Repeat the updates with finite losses; they give the same bits.
                state, report, rates = self._run(whole, step)
        self.state = state
        for i, member in enumerate(self.members):
            if member.idle:
                continue
            for name, values in zip(self.program.reports, report[:count, :, i].T, strict=True):
                member.series.setdefault(name, []).extend(values.tolist())
            member.series.setdefault("lr", []).extend(rates[i][:count].tolist())
            member.inputs.mark_done(count)
        return broken

    def _run(
        self, count: int, step: Step
    ) -> tuple[Stacked, np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
        """Compute `count` updates from the present state, which does not change."""
        feeds, rates = self.feeds(count)
        state, reports = self.state, []
        for feed in feeds:
            state, report = step(state, feed, self.data, self.scales)
            reports.append(report)
        return state, torch.stack(reports).cpu().double().numpy(), rates

    def feeds(self, count: int) -> tuple[list[Feed], list[np.ndarray[Any, Any]]]:
        """Return the inputs of the next updates, and each member's rates."""
        device = self.state.rows.device
        shared = self.shared
        active = self.active
        own: dict[int, Any] = {}
        for member in active:
            inputs = member.inputs
            if shared and member is not active[0]:
                samples = own[id(active[0])][0]
                inputs.copy_data_position(active[0].inputs)
            else:
                samples = inputs.samples(count)
            table, values = inputs.columns(self.program, count)
            own[id(member)] = samples, table, values.lr, inputs.draw(count)
        # An idle row repeats the computation of the first active one; its result is not used.
        each = [own[id(active[0] if member.idle else member)] for member in self.members]
        every, tables, rates, drawn = (list(parts) for parts in zip(*each, strict=True))
        index = (every[0] if shared else torch.stack(every, 1)).to(device)
        columns = torch.from_numpy(np.stack(tables, 1)).float().to(device)
        feeds = [
            Feed(
                columns[t],
                index[t],
                tuple(torch.stack(parts) for parts in zip(*(d[t] for d in drawn), strict=True)),
            )
            for t in range(count)
        ]
        return feeds, rates

    def write_weights(self, place: int) -> None:
        """Write a member's weights and buffers into its run's model, but no other state."""
        member, layout = self.members[place], self.program.layout
        values = layout.cut(self.state.rows[place])
        fixed = zip(layout.fixed, self.state.fixed, strict=True)
        values |= {name: tensor[place] for name, tensor in fixed}
        member.run.adopt_weights(values, member.step)

    def write_back(self, place: int, broken: float | None = None) -> None:
        """Write a member's complete state into its run.

        Args:
            place: The index of the member.
            broken: The loss of its next update, if that is not finite.
        """
        member = self.members[place]
        run = member.run
        ended = run.ended
        if not ended:
            self.write_weights(place)
        write(self.program, run, self.state.moments, place, member)
        state = run.state_dict()
        series = {name: list(values) for name, values in run.series.items()}
        for name, values in member.series.items():
            series.setdefault(name, []).extend(values)
        run.observers.write(series, member.step)
        state |= {
            "step": member.step,
            "seconds": run.seconds + member.seconds,
            "random": member.inputs.random_tree(),
            "place": vars(member.inputs.cursor).copy(),
            "series": {n: torch.tensor(v, dtype=torch.float64) for n, v in series.items()},
        }
        if not ended:
            state["status"] = Status.FINISHED if member.step >= run.length else Status.STOPPED
        run.load_state_dict(state)
        if broken is not None:
            run.diverge(member.step, f"the training loss became {broken}", True)
        member.series, member.seconds = {}, 0.0

    def keep_only(self, places: Sequence[int]) -> None:
        """Keep only some members, in this order."""
        index = torch.tensor(places, dtype=torch.long, device=self.state.rows.device)
        self.members = [self.members[i] for i in places]
        self.state = Stacked(
            self.state.rows[index],
            tuple(t[index] for t in self.state.moments),
            tuple(t[index] for t in self.state.fixed),
        )
        if self.scales is not None:
            self.scales = (self.scales[0][index], self.scales[1][index])
