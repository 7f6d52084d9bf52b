"""Schedules in PyTorch: a scheduler for any hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any, SupportsFloat
from weakref import ref

from torch import Tensor
from torch.optim import Optimizer

from etude.errors import BadTypeError, BadValueError, kind_of
from etude.interop.torch import checks as _checks
from etude.interop.torch import slots as _slots
from etude.interop.torch import state as _state
from etude.interop.torch.columns import Column, Relative, column
from etude.optimizers import own_values
from etude.schedules import EventLog
from etude.torch_internals import ComposableScheduler


def relative(shape: Any) -> Relative:
    """Return a schedule that multiplies each group's base value instead of replacing it.

    Args:
        shape: A schedule, or its text, of factors.

    Returns:
        An argument for `Scheduler`, instead of a schedule. `scale=s` is short for `lr=relative(s)`.

    Examples:
        >>> import torch
        >>> from etude.schedules import linear
        >>> weights = {"params": [torch.zeros(1)], "weight_decay": 0.5}
        >>> biases = {"params": [torch.zeros(1)], "weight_decay": 0.0}
        >>> optimizer = torch.optim.SGD([weights, biases], lr=0.1)
        >>> Scheduler(optimizer, weight_decay=relative(linear(10))).seek(5)
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.25, 0.0]
    """
    return Relative(shape)


class Scheduler(ComposableScheduler):
    """Sets the hyperparameters of an optimizer from schedules: group[name] = s(t).

    t is the number of calls of `step()`, starting at 0; call it after each update. Values are
    computed from t alone, never from the current value, so that a resumed run has the right rate
    whatever was loaded, in any order. Tensors are written in place; groups that share a tensor
    each get a separate one. Groups that are added later are scheduled too. Values must stay within
    the bounds of the optimizer's row in the table, or for any other optimizer: no negative rate or
    decay, no momentum of 1 or more.

    `lr` replaces the groups' rates, `scale` keeps their ratios. A warning is issued if one schedule
    of `lr` makes different rates equal, or looks like a factor: its peak is 1 and the optimizer's
    rate is not. Write `lr={'*': s}` if this is intended.

    Each argument is one of
    - a schedule, or its text: for every group;
    - a list: one schedule per group, or None to leave the group unchanged;
    - a mapping from a group's number or name (`group["name"]`), or '*' for all others.

    Args:
        optimizer: The optimizer.
        lr: Learning rates, absolute: `0.1 * cosine(10_000)`.
        scale: The rate as a multiple of each group's own base rate: `cosine(10_000)`; the base is
            the group's `initial_lr`, as in torch. Instead of `lr`.
        momentum: Momentum, or the first of `betas`.
        weight_decay: Weight decay.
        hyperparameters: Other hyperparameters, by their names in the group; also `beta1` and
            `beta2`.

    Raises:
        BadValueError: A schedule lacks a length (`.over(steps)` sets it) or exceeds the bounds of
            its hyperparameter, nothing is scheduled, both `lr` and `scale` are given, or the
            schedules react to different metrics.
        UnknownNameError: A group has no such hyperparameter, or there is no such group.

    Examples:
        >>> import torch
        >>> from etude.schedules import cosine, warmup
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> s = 0.5 * (warmup(10) >> cosine(90))
        >>> scheduler = Scheduler(optimizer, lr=s, momentum=0.5 * warmup(10))
        >>> for _ in range(5):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr(), optimizer.param_groups[0]["momentum"]
        ([0.25], 0.25)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr: Any = None,
        *,
        scale: Any = None,
        momentum: Any = None,
        weight_decay: Any = None,
        **hyperparameters: Any,
    ) -> None:
        # LRScheduler's own construction would wrap `optimizer.step` to warn about the order of
        # calls, falsely where a step is skipped, and would move the live rate.
        self.optimizer = _unwrapped(optimizer)
        self._columns = _columns(
            self.optimizer.param_groups,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **hyperparameters},
            scale,
        )
        if not self._columns:
            raise BadValueError("nothing is scheduled: give lr=, scale= or another hyperparameter")
        _checks.one_signal(self._columns)
        _checks.values(self.optimizer, self._columns)
        _checks.warn_of_lost_values(self.optimizer, self._columns)
        self._current = self._columns  # with the events so far
        self._log = EventLog()
        self._bases: list[dict[str, float]] = []
        self._go_to(0)
        self._watch()

    # ---- steps -----------------------------------------------------------------------------

    def step(self, metric: SupportsFloat | None = None) -> None:
        """Advance to the next update, and write its values.

        Args:
            metric: The metric for schedules with feedback, such as a validation loss, measured
                after the updates so far; it takes effect from the next update on.

        Raises:
            BadValueError: A metric is given, but no schedule reacts to one (to go to a step, call
                `seek`); or a value is out of bounds, and the scheduler keeps its step.
        """
        t = self.last_epoch + 1
        if metric is not None and t > 0:  # an older torch's SequentialLR starts a part by step(0)
            self._record(t, metric)
        self.last_epoch = t
        self._calls += 1
        try:
            self._write()
        except BadValueError:
            self.last_epoch, self._calls = t - 1, self._calls - 1
            raise

    def record(self, metric: SupportsFloat) -> None:
        """Report a metric after the updates so far, without advancing to the next update.

        Raises:
            BadValueError: No schedule reacts to a metric.
        """
        self._record(self.last_epoch, metric)
        self._write()

    def seek(self, step: int) -> None:
        """Go to any step, and write its values; recorded events are kept."""
        self._go_to(_state.whole_step(step))

    @property
    def has_feedback(self) -> bool:
        """Whether some schedule reacts to a metric."""
        return any(c.has_feedback for c in self._columns)

    def _go_to(self, step: int) -> None:
        before = getattr(self, "last_epoch", step), self._calls
        self.last_epoch, self._calls = step, step + 1
        try:
            self._lay_out()
            self._write()
        except BadValueError:
            self.last_epoch, self._calls = before
            raise

    def _record(self, step: int, metric: SupportsFloat) -> None:
        if not self.has_feedback:
            raise BadValueError(
                f"a metric is given ({metric!r}), but no schedule here reacts to one: call step() "
                "without it, or seek(step) to go to a step"
            )
        event = EventLog.of([(step, metric)])
        self._log = self._log.plus(step, metric)  # type: ignore[arg-type]
        self._current = tuple(c.with_events(event) for c in self._current)
        self._lay_out()

    # ---- writing ---------------------------------------------------------------------------

    def _write(self) -> None:
        """Write the values of the current step; this runs at every update."""
        groups = self.optimizer.param_groups
        if groups is not self._groups or len(groups) != self._count:
            self._lay_out()
        t = self.last_epoch
        for row in self._rows:
            schedule, slot, key, low, high, members = row
            value = schedule.at(t)
            for group, base in members:
                own = value if base is None else base * value
                if not low <= own < high:
                    _checks.refuse(row, t, own)
                if type(group[key]) is float:
                    group[key] = own
                else:
                    own_values.write(group, slot, own)

    def _lay_out(self) -> None:
        """Collect which groups follow which schedule, so that writing values is fast."""
        groups = self.optimizer.param_groups
        rows: dict[Any, _checks.ScheduledSlot] = {}
        written = []
        for place, group in enumerate(groups):
            self._keep_base("lr", group, _slots.Slot("lr"), place, group["lr"] is not None)
            for moved in self._current:
                entry = moved.of(place, group)
                if entry is None:
                    continue
                slot = _slots.find(moved.name, group, place)
                bounds = _checks.bounds(self.optimizer, moved.name, group, slot)
                row = rows.setdefault(
                    (slot, id(entry), bounds),
                    _checks.ScheduledSlot(entry.schedule, slot, slot.key, *bounds.limits, []),
                )
                base = None
                if entry.relative:
                    base = self._keep_base(moved.name, group, slot, place, True)
                row.members.append((group, base))
                written.append((group, slot))
        own_values.own_values(self.optimizer, written)
        self._groups, self._count = groups, len(groups)
        self._rows = list(rows.values())

    def _keep_base(
        self, name: str, group: dict[str, Any], slot: _slots.Slot, place: int, wanted: bool
    ) -> float | None:
        """Return a group's base value: its value when it was added."""
        while len(self._bases) <= place:
            self._bases.append({})
        known = self._bases[place]
        if name not in known and wanted:
            known[name] = _slots.base(name, group, slot, place)
        if name in known:
            group[f"initial_{name}"] = known[name]
        return known.get(name)

    # ---- new groups ------------------------------------------------------------------------

    def add_param_group(
        self, group: dict[str, Any], lr: Any = None, *, scale: Any = None, **hyperparameters: Any
    ) -> None:
        """Add a group to the optimizer, with its own schedules.

        If a single schedule, or '*', applies to later groups, `optimizer.add_param_group` is
        sufficient.

        Args:
            group: The argument of `optimizer.add_param_group`.
            lr: A schedule, or its text, of the group's rates.
            scale: A schedule of multiples of the group's rate. Instead of `lr`.
            hyperparameters: Schedules of other hyperparameters of the group.
        """
        place = len(self.optimizer.param_groups)
        forms = _with_scale({"lr": lr, **hyperparameters}, scale)
        before = self._columns, self._current
        names = [c.name for c in self._columns]
        later = [Column(name, {}).plus(place, form) for name, form in forms.items()]
        added = tuple(c for c in later if c.name not in names and c.entries)
        self._columns = (*(c.plus(place, forms.get(c.name)) for c in self._columns), *added)
        self._current = (*(c.plus(place, forms.get(c.name)) for c in self._current), *added)
        try:
            _checks.one_signal(self._columns)
            self.optimizer.add_param_group(group)
        except BaseException:
            self._columns, self._current = before
            raise

    def _watch(self) -> None:
        """Rewrite the values when groups are added to the optimizer or its state is loaded."""
        me, optimizer = ref(self), self.optimizer
        them = ref(optimizer)
        add = vars(optimizer).get("add_param_group")

        def rewrite(_: Optimizer) -> None:
            scheduler = me()
            if scheduler is not None:
                scheduler._lay_out()
                scheduler._write()

        @wraps(optimizer.add_param_group)
        def add_param_group(group: dict[str, Any]) -> None:
            owner = them()
            assert owner is not None
            if add is None:
                type(owner).add_param_group(owner, group)
            else:
                add(group)
            rewrite(owner)

        optimizer.register_load_state_dict_post_hook(rewrite)
        vars(optimizer)["add_param_group"] = add_param_group

    # ---- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the texts of the schedules, the step and the log of events, as plain data."""
        return _state.state_dict(self.last_epoch, self._columns, self._bases, self._log)

    def load_state_dict(self, state_dict: Mapping[str, Any], on_difference: str = "error") -> None:
        """Restore a saved state; the optimizer may load its state before or after this.

        Args:
            state_dict: The result of `state_dict`.
            on_difference: What to do if the saved schedules, or the base values that they multiply,
                differ from this Scheduler's: 'error' raises an error that lists the differences,
                'keep' uses this Scheduler's, 'replace' uses the saved ones.

        Raises:
            BadValueError: The schedules differ, or this is not the state of a Scheduler.
        """
        state = _state.check(state_dict)
        lines = _state.explain(state, self._columns, self._bases)
        _state.refuse(lines, state.step, on_difference)
        log = EventLog.of(state.events)
        if lines and on_difference == "replace":
            self._columns = _state.saved_columns(state)
            self._bases[: len(state.bases)] = [dict(base) for base in state.bases]
        self._log = log
        self._current = tuple(c.with_events(log) for c in self._columns)
        self._go_to(state.step)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the attributes that are rebuilt."""
        derived = ("_groups", "_count", "_rows")
        return {key: value for key, value in vars(self).items() if key not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lay_out()
        self._watch()

    # ---- the interface of LRScheduler --------------------------------------------------------

    @property
    def base_lrs(self) -> list[float | Tensor]:  # type: ignore[override]
        """The rate of each group when it was added."""
        return [base.get("lr", 0.0) for base in self._bases]

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the rate of each group for the next update, as floats."""
        rates: list[float | Tensor] = []
        for place, group in enumerate(self.optimizer.param_groups):
            found = (c.of(place, group) for c in self._current if c.name == "lr")
            entry = next(found, None)
            if entry is None:
                rates.append(float(group["lr"]))
            else:
                base = self._bases[place]["lr"] if entry.relative else 1.0
                rates.append(base * entry.schedule.at(self.last_epoch))
        return rates

    def get_lr(self) -> list[float | Tensor]:
        """Return the same as `get_last_lr`."""
        return self.get_last_lr()

    def follow(self, step: int | None) -> None:
        """Go to a step, or to the next where none is given, as torch's compositions ask for it."""
        self.last_epoch = self.last_epoch + 1 if step is None else step
        self._write()

    def __repr__(self) -> str:
        moved = ", ".join(f"{c.name}={c.texts()}" for c in self._columns)
        return f"Scheduler({moved}, step={self.last_epoch})"


def _unwrapped(optimizer: Any) -> Optimizer:
    """Return the optimizer inside a wrapper such as accelerate's."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        return _unwrapped(inner)
    if not isinstance(optimizer, Optimizer):
        raise BadTypeError(
            f"optimizer is {kind_of(optimizer)}; it must be a torch.optim.Optimizer, such "
            "as torch.optim.AdamW(model.parameters())"
        )
    return optimizer


def _with_scale(forms: dict[str, Any], scale: Any) -> dict[str, Any]:
    if scale is None:
        return {name: form for name, form in forms.items() if form is not None}
    if forms.get("lr") is not None:
        raise BadValueError(
            "both lr and scale are given: lr sets the rate, scale multiplies each group's own; "
            "give one of them"
        )
    return _with_scale({**forms, "lr": Relative(scale)}, None)


def _columns(groups: list[dict[str, Any]], forms: dict[str, Any], scale: Any) -> tuple[Column, ...]:
    given = _with_scale(forms, scale)
    made = []
    for name, form in given.items():
        spread = isinstance(form, Relative) and isinstance(form.shape, list | tuple | Mapping)
        made.append(column(name, form.shape if spread else form, groups, relative=spread))
    return tuple(made)
