"""Copies the optimizer's state from a run's torch optimizer into rows, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etude.engines.vmap.batched_update import BatchedUpdate
from etude.engines.vmap.member import Member
from etude.training.run import Run


def read(program: BatchedUpdate, run: Run) -> tuple[dict[str, float], list[Tensor]]:
    """Return (carried scalars, one row per moment) of a run's optimizer."""
    layout, rule, states = program.layout, program.rule, run.optimizer.state
    own = dict(run.model.named_parameters())
    rows = []
    for moment in rule.moments(program.flags):
        start = 0.0
        if moment in rule.begins:
            start = float(run.recipe.optimizer.value(rule.begins[moment]))
        parts = {}
        for name in layout.names:
            found = states[own[name]].get(moment) if own[name] in states else None
            parts[name] = torch.full_like(own[name], start) if found is None else found
        rows.append(layout.row(parts))
    first = states.get(own[layout.names[0]], {})
    carried: dict[str, float] = {}
    if rule.late and rule.late in first:
        carried["begun"] = float(first[rule.late] is not None)
    for name in rule.scalars:
        if name in first:
            carried[name] = float(first[name])
    return carried, rows


def write(
    program: BatchedUpdate, run: Run, moments: Sequence[Tensor], place: int, member: Member
) -> None:
    """Write a member's moments into its run's optimizer, as after the same updates in the loop."""
    step = member.step
    if not step:  # no update has changed it
        return
    rule, carried = program.rule, member.inputs.carried
    own = dict(run.model.named_parameters())
    names = rule.moments(program.flags)
    cuts = {
        moment: program.layout.cut(rows[place]) for moment, rows in zip(names, moments, strict=True)
    }
    for parameter in program.layout.names:
        entry: dict[str, Tensor | None] = {
            moment: parts[parameter].clone() for moment, parts in cuts.items()
        }
        if rule.step == "parameter":
            entry["step"] = torch.tensor(float(step))
        entry |= {name: torch.tensor(carried[name]) for name in rule.scalars}
        if rule.late and not carried.get("begun"):
            continue  # torch creates the buffer at the first update with momentum
        run.optimizer.state[own[parameter]] = entry
    if rule.step == "group":
        for group in run.optimizer.param_groups:
            group["step"] = step
