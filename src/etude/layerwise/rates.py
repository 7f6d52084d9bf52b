"""`apply`: multipliers in an optimizer's parameter groups, and slices in hooks of its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.optim import Optimizer

from etude.errors import BadTypeError, BadValueError, MovedError, TaskError
from etude.layerwise.capabilities import refuse, row_of
from etude.layerwise.flow import Flow
from etude.layerwise.frozen_tensors import FreezePlan, FrozenTensors, KeptCounts
from etude.layerwise.multipliers import Multiplier, checked
from etude.layerwise.planning import Plan, PlanRow, plan
from etude.layerwise.policies.hyperball import Hyperball, refuse_hyperball
from etude.layerwise.policies.trust import Trust
from etude.layerwise.rescaling.fixed_norms import FixedNorms
from etude.layerwise.rescaling.slices import Slices
from etude.layerwise.rescaling.trust_ratios import TrustRatios
from etude.layerwise.spec import LrMult
from etude.optimizers.own_values import own_values
from etude.schedules import Clock, Schedule

_ATTRIBUTE = "layer_rates"

MOVED = {"look": "update_frozen", "rest": "frozen_now", "silence": "drop_frozen_gradients"}
"""The old name of an attribute of `Rates`, and the new one."""


@dataclass(frozen=True)
class GroupRate:
    """The multiplier of one parameter group: the largest multiplier of its rows.

    Attributes:
        multipliers: The multipliers of the rows; more than one if slices have schedules.
        decay: Multiplier of the weight decay.
        rule: The name of its rule, for error messages.
    """

    multipliers: tuple[Multiplier, ...]
    decay: float
    rule: str

    def at(self, step: int) -> float:
        """Return the multiplier of update `step`."""
        return max(at(multiplier, step, self.rule) for multiplier in self.multipliers)


class Rates:
    """The multipliers of one optimizer; `rates.plan` is the table.

    Constant multipliers are part of the groups' rates, which any torch scheduler starts from.
    Multipliers that follow a schedule need a call of `set` before every update.

    A parameter with multiplier 0 takes no part in training, as with `requires_grad=False`: the
    optimizer's step does not see its gradient, so that its averages, its count of updates and its
    weight decay begin with its first update. A loop that clips must call `drop_frozen_gradients`
    between the backward pass and the clipping, so that the norm leaves out frozen parameters. Norms
    also leave out rows that are frozen for a time, but their averages continue, because they share
    the tensor's count of updates. Rows that are always frozen have a gradient of 0.

    Args:
        optimizer: The optimizer whose groups were split.
        plan: The multipliers of all parameters.
        groups: The multiplier of each parameter group.
        slices: The rows whose update is rescaled.
        of_slice: For each slice, the index of its group, and its row in the plan.
        trust: The tensors whose update has a trust ratio or a fixed norm.
        freezing: The tensors that are frozen, as a whole or in part, in some update.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        plan: Plan,
        groups: list[GroupRate],
        slices: Slices,
        of_slice: list[tuple[int, PlanRow]],
        trust: TrustRatios | FixedNorms | None,
        freezing: FreezePlan,
    ) -> None:
        self.plan = plan
        self.groups = groups
        self._optimizer = optimizer
        self._slices = slices
        self._of_slice = of_slice
        self._trust = trust
        self._freezing = freezing
        self._counts = KeptCounts(optimizer)
        self._dropped: list[tuple[Tensor, Tensor]] = []
        self.frozen_now = FrozenTensors()
        self.moves = plan.moves
        """Whether a multiplier follows a schedule."""
        self._constant = [] if self.moves else [group.at(0) for group in groups]
        self._is_set = not self.moves
        if slices.places or trust is not None or self.moves or freezing:
            optimizer.register_step_pre_hook(self._before)
            optimizer.register_step_post_hook(self._after)
        if not self.moves:
            self._set_slices(0)
            self.update_frozen(0)

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
        self._freezing = self._freezing.bound(rows)
        self.plan = bound

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        """The tensors that are frozen for the whole run."""
        return self._freezing.frozen

    def update_frozen(self, step: int) -> FrozenTensors:
        """Determine what is frozen in update `step`; store it in `frozen_now`, and return it."""
        if self._freezing:
            own = {id(row): at(row.multiplier, step, row.rule) for row in self._freezing.rows()}
            self.frozen_now = self._freezing.at(own)
        return self.frozen_now

    def drop_frozen_gradients(self) -> None:
        """Drop the gradients of parameters that are frozen in this update, before clipping.

        Multipliers that follow a schedule must have been `set` for the update.
        """
        self._refuse_unset()
        self._drop()

    def __getattr__(self, name: str) -> NoReturn:
        """Say the new name of an attribute that was renamed.

        Raises:
            MovedError: If the name is an old one.
            AttributeError: If there never was such a name.
        """
        if name in MOVED:
            raise MovedError(f"Rates.{name} is now Rates.{MOVED[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _drop(self) -> list[tuple[Tensor, Tensor]]:
        if not self.frozen_now:
            return []
        groups = self._optimizer.param_groups
        return self.frozen_now.drop_gradients([p for group in groups for p in group["params"]])

    def set(self, lr: float, step: int) -> None:
        """Write the rate of one update into every group: lr · multiplier(step).

        Args:
            lr: The rate before multipliers.
            step: The update's number, from 0.

        Raises:
            BadValueError: If a scheduled multiplier is negative or not finite at this step.
        """
        multipliers = [own.at(step) for own in self.groups] if self.moves else self._constant
        for group, multiplier in zip(self._optimizer.param_groups, multipliers, strict=True):
            rate = lr * multiplier * group.get("lr_mult", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self.moves:
            self._set_slices(step)
            self.update_frozen(step)
            self._is_set = True

    def decay(self, value: float) -> None:
        """Write the weight decay into every group: value · multiplier of its decay."""
        for group, own in zip(self._optimizer.param_groups, self.groups, strict=True):
            if "weight_decay" not in group.get("own_values", ()):
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
                "a multiplier follows a schedule, and the number of this update is unknown: call "
                "etude.layerwise.rates_of(optimizer).set(lr, step) before every step()"
            )

    def _before(self, *_: Any) -> None:
        self._refuse_unset()
        if self._freezing:
            self._dropped = self._drop()
            self._counts.keep({id(tensor) for tensor in self.frozen_now.whole})
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
        self._is_set = not self.moves


def at(multiplier: Multiplier, step: int, rule: str) -> float:
    """Return a multiplier's value at an update.

    Raises:
        BadValueError: If it is negative or not finite at this step.
    """
    if not isinstance(multiplier, Schedule):
        return multiplier
    return checked(rule, multiplier(step), step)


def rates_of(optimizer: Optimizer) -> Rates | None:
    """Return the multipliers that were applied to an optimizer, or None."""
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
    """Apply multipliers to an optimizer that was built over a model's parameters.

    The groups are split so that each has one rate: group['lr'] is multiplied, and every other
    value is kept. Parameters with equal multipliers stay in one group. Rows of a tensor with
    separate multipliers are rescaled after each step; the model's parameters, its state keys and
    the optimizer's state do not change.

    Args:
        optimizer: Any torch optimizer, before a scheduler is built on it.
        model: The model that it trains.
        lr_mult: A table of selectors or a policy; see `LrMult.of`.
        linear: For an optimizer that Etude does not know: whether its update is linear in its
            rate, entry by entry, which slices and trust ratios need.
        flow: The result of `etude.layerwise.trace` for the model, for rules and policies that
            depend on the order of the layers, or on input and output.

    Returns:
        The rates, which `rates_of(optimizer)` returns too.

    Raises:
        BadValueError: If a rule does not fit the model, or the multipliers do not fit the
            optimizer.
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
    scaled = sliced or isinstance(laid.trust, Trust)
    refuse(type(optimizer), row, slices=not linear and scaled)
    if isinstance(laid.trust, Hyperball):
        refuse_hyperball(row.name if row else type(optimizer).__name__, row, linear=linear)
    rows_of = {id(p): by_name[n] for n, p in model.named_parameters() if n in by_name}
    groups, merged = _split(optimizer, rows_of)
    optimizer.param_groups[:] = groups
    own_values(optimizer, [(group, ("lr", None)) for group in groups])
    slices, of_slice = _slices(groups, rows_of)
    freezing = FreezePlan(
        [(p, rows_of[id(p)]) for g in groups for p in g["params"] if id(p) in rows_of]
    )
    trust = _trust(laid, groups, rows_of)
    rates = Rates(optimizer, laid, merged, slices, of_slice, trust, freezing)
    vars(optimizer)[_ATTRIBUTE] = rates
    return rates


def _check_fresh(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise for an optimizer that was changed before, or that lacks parameters of the model."""
    if rates_of(optimizer) is not None:
        raise BadValueError("this optimizer has multipliers already: build a new one")
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise BadValueError(
            "a scheduler was built on this optimizer already, and would not know the new groups: "
            "apply the multipliers first"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise TaskError(
            f"{lost[0]}{more} would not be trained: no group of the optimizer has it; give the "
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
    """Return the groups: one per old group, multiplier and decay, in order of appearance."""
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
    """Return the multipliers that set a tensor's rate: the largest constant, and schedules."""
    constants = [row.multiplier for row in rows if not isinstance(row.multiplier, Schedule)]
    moving = dict.fromkeys(r.multiplier for r in rows if isinstance(r.multiplier, Schedule))
    if not rows:
        return (1.0,), 1.0
    largest = (max(constants),) if constants else ()
    return (*largest, *moving), rows[0].decay


def _group(old: Mapping[str, Any], rate: GroupRate) -> dict[str, Any]:
    """Return a group without parameters: the old group's values, with a new rate and decay."""
    if rate.decay != 1 and "weight_decay" not in old:
        raise BadValueError(
            f"{rate.rule} changes the weight decay, and this optimizer has none: leave it out"
        )
    group = {**old, "params": []}
    if not any(isinstance(multiplier, Schedule) for multiplier in rate.multipliers):
        group["lr"] = old["lr"] * rate.at(0)
    if rate.decay != 1:
        group["weight_decay"] = old["weight_decay"] * rate.decay
    return group


def _slices(
    groups: list[dict[str, Any]], rows_of: Mapping[int, tuple[PlanRow, ...]]
) -> tuple[Slices, list[tuple[int, PlanRow]]]:
    """Return the rows to rescale: those whose rate can differ from that of their tensor."""
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
) -> TrustRatios | FixedNorms | None:
    if laid.trust is None:
        return None
    chosen = [
        (parameter, index)
        for index, group in enumerate(groups)
        for parameter in group["params"]
        if (rows := rows_of.get(id(parameter))) and laid.trust.scales(rows[0].part)
    ]
    if not chosen:
        inner = "hidden " if isinstance(laid.trust, Hyperball) else ""
        raise BadValueError(
            f"{laid.trust!r} scales nothing: the model has no {inner}weight of two axes"
        )
    if isinstance(laid.trust, Hyperball):
        return FixedNorms(chosen, [rows_of[id(parameter)][0].part.name for parameter, _ in chosen])
    return TrustRatios(laid.trust, chosen)
