"""`apply`: multipliers laid into an optimizer's parameter groups, slices into its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.layerwise.capabilities import refuse, row_of
from etude.layerwise.flow import Flow
from etude.layerwise.multipliers import Multiplier, checked
from etude.layerwise.planning import Plan, PlanRow, plan
from etude.layerwise.rest import KeptCounts, Rest, Resting
from etude.layerwise.spec import LrMult
from etude.layerwise.updates import Slices, TrustRatios
from etude.optimizers.own_values import own_values
from etude.schedules import Clock, Schedule

_ATTRIBUTE = "layer_rates"


@dataclass(frozen=True)
class GroupRate:
    """The multiplier of one parameter group: the largest of those of its rows.

    Attributes:
        multipliers: Of the rows; more than one where slices and schedules meet.
        decay: Multiplier of the weight decay.
        rule: What to call it in an error.
    """

    multipliers: tuple[Multiplier, ...]
    decay: float
    rule: str

    def at(self, step: int) -> float:
        """Return the multiplier of update `step`."""
        return max(at(one, step, self.rule) for one in self.multipliers)


class Rates:
    """The multipliers of one optimizer; `rates.plan` is the table.

    Constant multipliers need nothing more: they live in the groups' rates, which any torch
    scheduler goes on from. Multipliers that follow a schedule need `set` before every update.

    What has multiplier 0 has no say, as if its `requires_grad` were False: the optimizer's step
    does not see its gradient, so that its averages, its count of updates and its weight decay
    begin with the first update that moves it. A loop that clips calls `silence` between the
    backward pass and the clipping, so that the norm is that of what moves. Rows of a tensor that
    will move later have no part in a norm either, but their averages go on, since they share the
    tensor's count of updates; rows that never move have a gradient of 0.

    Args:
        optimizer: Whose groups were split.
        plan: What every parameter's rate is multiplied by.
        groups: The multiplier of each of its parameter groups.
        slices: The rows whose change is rescaled.
        of_slice: For each of them the group's place and the row.
        trust: The tensors whose change has a trust ratio.
        resting: The tensors that stand still, or of which rows do, in some update.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        plan: Plan,
        groups: list[GroupRate],
        slices: Slices,
        of_slice: list[tuple[int, PlanRow]],
        trust: TrustRatios | None,
        resting: Resting,
    ) -> None:
        self.plan = plan
        self.groups = groups
        self._optimizer = optimizer
        self._slices = slices
        self._of_slice = of_slice
        self._trust = trust
        self._resting = resting
        self._counts = KeptCounts(optimizer)
        self._dropped: list[tuple[Tensor, Tensor]] = []
        self.rest = Rest()
        self._moves = plan.moves
        self._is_set = not self._moves
        if slices.places or trust is not None or self._moves or resting:
            optimizer.register_step_pre_hook(self._before)
            optimizer.register_step_post_hook(self._after)
        if not self._moves:
            self._set_slices(0)
            self.look(0)

    def bind(self, clock: Clock | int) -> None:
        """Bind scheduled multipliers to the length of a run.

        Args:
            clock: The run's clock, or its length in updates.
        """
        bound = self.plan.over(clock)
        swap = {
            id(old.multiplier): new.multiplier
            for old, new in zip(self.plan.rows, bound.rows, strict=True)
        }
        self.groups = [
            GroupRate(tuple(swap.get(id(m), m) for m in g.multipliers), g.decay, g.rule)
            for g in self.groups
        ]
        rows = {id(old): new for old, new in zip(self.plan.rows, bound.rows, strict=True)}
        self._of_slice = [(group, rows[id(row)]) for group, row in self._of_slice]
        self._resting = self._resting.bound(rows)
        self.plan = bound

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        """The tensors that never move."""
        return self._resting.frozen

    def look(self, step: int) -> Rest:
        """Return what stands still in update `step`, and remember it as `rest`."""
        if self._resting:
            own = {id(row): at(row.multiplier, step, row.rule) for row in self._resting.rows()}
            self.rest = self._resting.at(own)
        return self.rest

    def silence(self) -> None:
        """Drop the gradient of what stands still in this update, before it is clipped.

        Multipliers that follow a schedule must have been `set` for the update.
        """
        self._refuse_unset()
        self._drop()

    def _drop(self) -> list[tuple[Tensor, Tensor]]:
        groups = self._optimizer.param_groups
        return self.rest.silence([p for group in groups for p in group["params"]])

    def set(self, lr: float, step: int) -> None:
        """Write the rate of one update into every group: lr · multiplier(step).

        Args:
            lr: The rate that the multipliers multiply.
            step: The update's number, from 0.

        Raises:
            BadValueError: If a scheduled multiplier is negative or not finite there.
        """
        for group, own in zip(self._optimizer.param_groups, self.groups, strict=True):
            rate = lr * own.at(step)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self._moves:
            self._set_slices(step)
            self.look(step)
            self._is_set = True

    def decay(self, value: float) -> None:
        """Write the weight decay into every group, where policies spare some."""
        for group, own in zip(self._optimizer.param_groups, self.groups, strict=True):
            group["weight_decay"] = value * own.decay

    def _set_slices(self, step: int) -> None:
        ratios = []
        for group, row in self._of_slice:
            largest = self.groups[group].at(step)
            own = at(row.multiplier, step, row.rule)
            ratios.append(own / largest if largest else 1.0)
        self._slices.set(ratios)

    def _refuse_unset(self) -> None:
        if not self._is_set:
            raise BadValueError(
                "a multiplier follows a schedule, and the optimizer was not told which update this "
                "is: call etude.layerwise.rates_of(optimizer).set(lr, step) before every step()"
            )

    def _before(self, *_: Any) -> None:
        self._refuse_unset()
        if self._resting:
            self._dropped = self._drop()
            self._counts.keep({id(tensor) for tensor in self.rest.whole})
        if self._slices.places:
            self._slices.keep()
        if self._trust is not None:
            self._trust.keep()

    def _after(self, *_: Any) -> None:
        if self._trust is not None:
            self._trust.rescale([group["lr"] for group in self._optimizer.param_groups])
        if self._slices.places:
            self._slices.rescale()
        self._counts.put_back()
        for parameter, gradient in self._dropped:
            parameter.grad = gradient
        self._dropped = []
        self._is_set = not self._moves


def at(multiplier: Multiplier, step: int, rule: str) -> float:
    """Return a multiplier's value at an update.

    Raises:
        BadValueError: If it is negative or not finite there.
    """
    if not isinstance(multiplier, Schedule):
        return multiplier
    return checked(rule, multiplier(step), step)


def rates_of(optimizer: Optimizer) -> Rates | None:
    """Return the multipliers laid into an optimizer, None where there are none."""
    found = vars(optimizer).get(_ATTRIBUTE)
    return found if isinstance(found, Rates) else None


def apply(
    optimizer: Optimizer,
    model: nn.Module | None,
    lr_mult: LrMult | Mapping[str, object] | str,
    *,
    linear: bool = False,
    flow: Flow | None = None,
) -> Rates:
    """Lay multipliers into an optimizer that was built over a model's parameters.

    Its groups are split so that each has one rate: group['lr'] is multiplied, every other value
    is kept, and groups that would be equal stay one. Rows of a tensor that have multipliers of
    their own are rescaled after each step; the model's parameters, its state keys and the
    optimizer's state stay as they are.

    Args:
        optimizer: Any torch optimizer, before a scheduler is built on it.
        model: The model that it trains.
        lr_mult: A table of selectors or a policy; see `LrMult.of`.
        linear: For an optimizer that Etude does not know: its update is linear in its rate,
            number by number, so that slices and trust ratios are right.
        flow: What `etude.layerwise.trace` returned for the model, for rules and policies that go
            by the order of the layers, or by input and output.

    Returns:
        The rates, also found by `rates_of(optimizer)`.

    Raises:
        BadValueError: If a rule does not fit the model, or the multipliers the optimizer.
        TaskError: If a trainable parameter reaches no group of the optimizer.

    >>> import torch
    >>> model = nn.LSTM(2, 4)
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    >>> rates = apply(optimizer, model, {"*[forget]": 3.0})
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.03]
    """
    if not isinstance(model, nn.Module):
        raise BadTypeError(
            "lr_mult selects parameters by their names: give the model, not its parameters"
        )
    _check_fresh(optimizer, model)
    row = row_of(type(optimizer))
    laid = plan(lr_mult, model, optimizer=row.name if row else type(optimizer).__name__, flow=flow)
    by_name = laid.of()
    sliced = any(len(rows) > 1 for rows in by_name.values())
    refuse(type(optimizer), row, slices=not linear and (sliced or laid.trust is not None))
    rows_of = {id(p): by_name[n] for n, p in model.named_parameters() if n in by_name}
    groups, merged = _split(optimizer, rows_of)
    optimizer.param_groups[:] = groups
    own_values(optimizer, [(group, ("lr", None)) for group in groups])
    slices, of_slice = _slices(groups, rows_of)
    resting = Resting(
        [(p, rows_of[id(p)]) for g in groups for p in g["params"] if id(p) in rows_of]
    )
    trust = _trust(laid, groups, rows_of)
    rates = Rates(optimizer, laid, merged, slices, of_slice, trust, resting)
    vars(optimizer)[_ATTRIBUTE] = rates
    return rates


def _check_fresh(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer that was changed before, or that does not hold the model."""
    if rates_of(optimizer) is not None:
        raise BadValueError("this optimizer has multipliers already: build a new one")
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise BadValueError(
            "a scheduler was built on this optimizer already, and would not know the new groups: "
            "lay the multipliers in first"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise TaskError(
            f"{lost[0]}{more} would not be trained: no group of the optimizer holds it; give the "
            "optimizer every trainable parameter, or set requires_grad=False"
        )
    known = {id(p) for p in model.parameters()}
    foreign = sum(p.requires_grad and id(p) not in known for g in optimizer.param_groups
                  for p in g["params"])  # fmt: skip
    if foreign:
        raise TaskError(
            f"the optimizer holds {foreign} parameters that are not the model's: give the module "
            "that has them all"
        )


def _split(
    optimizer: Optimizer, rows_of: Mapping[int, tuple[PlanRow, ...]]
) -> tuple[list[dict[str, Any]], list[GroupRate]]:
    """Return the groups, one for each old group, multiplier and decay, in order of appearance."""
    groups: list[dict[str, Any]] = []
    rates: list[GroupRate] = []
    for old in optimizer.param_groups:
        made: dict[tuple[Any, ...], int] = {}
        for parameter in old["params"]:
            rows = rows_of.get(id(parameter), ())
            multipliers, decay = _of_tensor(rows)
            key = (multipliers, decay)
            if key not in made:
                made[key] = len(groups)
                rule = " | ".join(dict.fromkeys(row.rule for row in rows))
                rate = GroupRate(multipliers, decay, rule)
                groups.append(_group(old, rate))
                rates.append(rate)
            groups[made[key]]["params"].append(parameter)
    return groups, rates


def _of_tensor(rows: tuple[PlanRow, ...]) -> tuple[tuple[Multiplier, ...], float]:
    """Return what makes the rate of one tensor: its largest constant, and its schedules."""
    constants = [row.multiplier for row in rows if not isinstance(row.multiplier, Schedule)]
    moving = dict.fromkeys(r.multiplier for r in rows if isinstance(r.multiplier, Schedule))
    if not rows:
        return (1.0,), 1.0
    largest = (max(constants),) if constants else ()
    return (*largest, *moving), rows[0].decay


def _group(old: Mapping[str, Any], rate: GroupRate) -> dict[str, Any]:
    """Return a group without parameters: the old one's values, with its own rate and decay."""
    if rate.decay != 1 and "weight_decay" not in old:
        raise BadValueError(
            f"{rate.rule} changes the weight decay, and this optimizer has none: leave it out"
        )
    group = {**old, "params": []}
    if not any(isinstance(one, Schedule) for one in rate.multipliers):
        group["lr"] = old["lr"] * rate.at(0)
    if rate.decay != 1:
        group["weight_decay"] = old["weight_decay"] * rate.decay
    return group


def _slices(
    groups: list[dict[str, Any]], rows_of: Mapping[int, tuple[PlanRow, ...]]
) -> tuple[Slices, list[tuple[int, PlanRow]]]:
    """Return the rows to rescale: those that do not always have their tensor's own rate."""
    places, owners = [], []
    for index, group in enumerate(groups):
        for parameter in group["params"]:
            rows = rows_of.get(id(parameter), ())
            if len({row.multiplier for row in rows}) < 2:
                continue
            for row in rows:
                for first, last in row.spans:
                    places.append((parameter, first, last))
                    owners.append((index, row))
    return Slices(places), owners


def _trust(
    laid: Plan, groups: list[dict[str, Any]], rows_of: Mapping[int, tuple[PlanRow, ...]]
) -> TrustRatios | None:
    if laid.trust is None:
        return None
    chosen = [
        (parameter, index)
        for index, group in enumerate(groups)
        for parameter in group["params"]
        if (rows := rows_of.get(id(parameter))) and laid.trust.scales(rows[0].part)
    ]
    if not chosen:
        raise BadValueError(f"{laid.trust!r} scales nothing: the model has no weight of two axes")
    return TrustRatios(laid.trust, chosen)
