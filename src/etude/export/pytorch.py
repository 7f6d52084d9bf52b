"""Writes a recipe as a PyTorch training loop, to paste into your own program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude import optimizers
from etude.errors import BadValueError
from etude.optimizers import OptimizerRow
from etude.optimizers.importable import own_factory
from etude.optimizers.table import OWN
from etude.recipe import Recipe

if TYPE_CHECKING:
    from etude.schedules import Schedule
    from etude.tasks.task import Task

ELSEWHERE = (
    "batch_size",
    "clip_adaptive",
    "clip_percentile",
    "spikes",
    "compress",
    "l1",
    "l2",
    "activity",
    "dropout",
    "label_smoothing",
    "early_stopping",
    "evaluations",
    "initialisation",
    "seed",
)
"""Fields that the loop does not apply; the last line of the code lists them in a comment."""

ENDLESS = (
    "def endless(loader):",
    "    while True:  # one epoch after another",
    "        yield from loader",
)
"""Repeats a DataLoader, which yields one epoch, for as many updates as the recipe asks for."""


def pytorch_code(recipe: Recipe, steps: int, *, task: Task | None = None) -> str:
    """Return a training loop of `steps` updates that does what the recipe says.

    Its first line names what you must define: `model`, `train_loader` (a DataLoader, repeated as
    often as the updates need it), and `loss_function` or `step`. If a schedule reacts to the
    validation loss, the loop measures it on `valid_loader` at the recipe's evaluations; if one
    reacts to the task's metric, the loop calls `metric_of(model)` there.

    Args:
        recipe: The recipe to write.
        steps: The number of updates, to which the schedules are bound.
        task: The task, for its `step` and its `param_groups`. If it has a step, the loss is
            `step(model, batch)`, with parts updated in turns if it yields; otherwise, and without a
            task, the loss is `loss_function(model(inputs), targets)`. If it has groups, the loop
            calls `param_groups(model)`, which you define.

    Returns:
        The code, with its imports.
    """
    own_step = task is not None and task.step is not None
    turns = task is not None and task.alternates
    grouped = task is not None and task.param_groups is not None
    return _Loop(recipe, steps, own_step, turns, grouped).text()


@dataclass(frozen=True)
class _Loop:
    """Writes the code, part by part."""

    recipe: Recipe
    steps: int
    own_step: bool
    turns: bool
    grouped: bool

    @property
    def row(self) -> OptimizerRow:
        return optimizers.get(self.recipe.optimizer.name)

    @property
    def moving(self) -> bool:
        """Whether multipliers follow schedules, so that they write the rate, not a scheduler."""
        return self.recipe.lr_mult is not None and self.recipe.lr_mult.moves

    @property
    def drops_frozen(self) -> bool:
        """Whether a part may be frozen, so that its gradient must be dropped before clipping."""
        mult = self.recipe.lr_mult
        if mult is None or self.recipe.clip_norm is self.recipe.clip_value is None:
            return False
        frozen = any(rule.multiplier == 0.0 for rule in mult.rules)
        return frozen or mult.moves or any(policy.name == "freeze" for policy in mult.policies)

    @property
    def scheduled(self) -> dict[str, Schedule]:
        """The schedules that a scheduler applies, by the name of its argument."""
        rate = {} if self.moving else {"scale": self.recipe.schedule}
        return {**rate, **self.recipe.schedules}

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that the loop must measure: 'loss', 'metric', both or neither."""
        schedules = (self.recipe.schedule, *self.recipe.schedules.values())
        return tuple(sorted({signal for s in schedules for signal in s.signals}))

    @property
    def rate_signals(self) -> tuple[str, ...]:
        """The signals that the loop must record in the rate's schedule itself."""
        return self.recipe.schedule.signals if self.moving else ()

    @property
    def schedulers(self) -> dict[str, tuple[str, ...]]:
        """The signals of each scheduler, by its variable; `step` takes one signal at most."""
        signals = sorted({signal for s in self.scheduled.values() for signal in s.signals})
        if len(signals) < 2:
            return {"scheduler": tuple(signals)} if self.scheduled else {}
        return {f"{signal}_scheduler": (signal,) for signal in signals}

    @property
    def own_schedulers(self) -> bool:
        """Whether the loop needs Etude's scheduler, because torch's own cannot do it."""
        return bool(self.recipe.schedules) or any(self.schedulers.values())

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled."""
        return self.recipe.precision == "float16"

    @property
    def batch(self) -> str:
        return "batch" if self.own_step else "inputs, targets"

    def text(self) -> str:
        """Return the whole code."""
        imports = ["import torch", "from etude.schedules import parse"]
        setup = [*self.optimizer(imports), *self.schedules(imports), "", *ENDLESS]
        if "loss" in self.signals:
            setup += ["", *self.valid_loss()]
        if "metric" in self.signals:
            setup += ["", *self.valid_metric()]
        loop = ["", *self.before(), f"for update in range({self.steps}):"]
        if self.moving:
            loop.append(f"    rates.set({self.recipe.lr!r} * schedule(update), update)")
        loop += self.closure() if self.row.closure else self.plain()
        loop += self.after()
        given = ["model", "train_loader", *(["valid_loader"] if "loss" in self.signals else [])]
        given.append("step(model, batch)" if self.own_step else "loss_function")
        if "metric" in self.signals:
            given.append("metric_of(model) on the validation data")
        if self.grouped:
            given.append("param_groups(model)")
        return "\n".join(
            [f"# You define: {', '.join(given)}.", *imports, "", *setup, *loop, *self.rest()]
        )

    def optimizer(self, imports: list[str]) -> list[str]:
        """Return the lines that build the optimizer: by torch alone, if that is enough."""
        recipe, row = self.recipe, self.row
        values = "".join(f", {k}={v!r}" for k, v in recipe.optimizer.hyperparameters.items())
        if recipe.lr_mult is None and not self.grouped and row.module == "torch.optim":
            call = f"torch.optim.{row.attribute}(model.parameters(), lr={recipe.lr!r}{values})"
            return [f"optimizer = {call}"]
        if recipe.optimizer.name in OWN:
            return self.own_optimizer(imports, values)
        own = not row.package and row.module.partition(".")[0] not in ("torch", "etude")
        if (
            own and recipe.lr_mult is None and not self.grouped
        ):  # registered by the user: import its class directly
            imports.append(f"from {row.module} import {row.attribute}")
            call = f"{row.attribute}(model.parameters(), lr={recipe.lr!r}{values})"
            return [f"optimizer = {call}"]
        imports.append("from etude import optimizers")
        lines = []
        if own:
            lines.append(f"# Import the file that registers {recipe.optimizer.name!r} first.")
        if recipe.lr_mult is not None:
            values += f", lr_mult={recipe.lr_mult.plain()!r}"
            if (
                self.drops_frozen
                or recipe.lr_mult.moves
                or any(p.name == "mup" for p in recipe.lr_mult.policies)
            ):
                imports[-1] = "from etude import layerwise, optimizers"
            for policy in recipe.lr_mult.policies:
                if policy.name == "mup":
                    parsed = f"layerwise.parse_policies({repr(policy)!r})[0]"
                    lines.append(f"layerwise.rescale(model, {parsed})  # once, on fresh weights")
        if self.grouped:
            imports.append("from etude.tasks.groups import freeze_rest, groups_of")
            values += ", groups=groups"
            lines += [
                "groups = groups_of(param_groups, model)  # their rates keep their proportion",
                "freeze_rest(model, groups)  # parameters in no group are not trained",
            ]
        call = f"optimizers.build({recipe.optimizer.name!r}, model, lr={recipe.lr!r}{values})"
        return [*lines, f"optimizer = {call}"]

    def own_optimizer(self, imports: list[str], values: str) -> list[str]:
        """Return the lines that build an optimizer that the recipe was given as an object.

        Raises:
            BadValueError: If it cannot be imported, or the recipe has multipliers of the rate.
        """
        name = self.recipe.optimizer.name
        made = own_factory(name)
        if made is None or self.recipe.lr_mult is not None:
            why = "has lr_mult" if made is not None else "names what no module holds"
            raise BadValueError(
                f"the optimizer {name} of a recipe that {why} has no code of its own: put it in a "
                "module, and leave lr_mult out"
            )
        imports.append(f"from {made.__module__} import {made.__qualname__.partition('.')[0]}")
        lr = repr(self.recipe.lr)
        if isinstance(made, type):
            return [f"optimizer = {made.__qualname__}(model.parameters(), lr={lr}{values})"]
        groups = '[{"params": list(model.parameters())}]'
        return [f"optimizer = {made.__qualname__}({groups}, {lr})"]

    def schedules(self, imports: list[str]) -> list[str]:
        """Return the lines that bind the schedules to the run's length and to the optimizer."""
        lines = [f"schedule = {self.bound(repr(self.recipe.schedule))}"]
        if self.moving or self.drops_frozen:
            lines.append("rates = layerwise.rates_of(optimizer)")
        if self.moving:
            lines.append(f"rates.bind({self.steps})")
        if self.own_schedulers:
            imports.append("from etude.interop.torch import Scheduler")
            for place, (variable, signals) in enumerate(self.schedulers.items()):
                arguments = [
                    f"{name}={'schedule' if name == 'scale' else self.bound(repr(s))}"
                    for name, s in self.scheduled.items()
                    if s.signals == signals or (not s.signals and place == 0)
                ]
                lines.append(f"{variable} = Scheduler(optimizer, {', '.join(arguments)})")
        elif not self.moving:
            lines.append("scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)")
        return lines

    def bound(self, schedule: str) -> str:
        return f"parse({schedule!r}).over({self.steps})"

    def valid_loss(self) -> list[str]:
        """Return the function that measures the validation loss, for schedules that react to it."""
        mode = self.row.eval_mode
        return [
            "def valid_loss():",
            *(("    optimizer.eval()",) if mode else ()),
            "    model.eval()",
            "    total = count = 0",
            "    with torch.no_grad():",
            f"        for {self.batch} in valid_loader:",
            *self.forward(" " * 12, whole=True),
            f"            size = {'1' if self.own_step else 'len(targets)'}",
            "            total, count = total + size * loss.item(), count + size",
            "    model.train()",
            *(("    optimizer.train()",) if mode else ()),
            "    return total / count",
        ]

    def valid_metric(self) -> list[str]:
        """Return the function that measures the task's metric, for schedules that react to it."""
        mode = self.row.eval_mode
        return [
            "def valid_metric():",
            *(("    optimizer.eval()",) if mode else ()),
            "    model.eval()",
            "    with torch.no_grad():",
            "        value = float(metric_of(model))",
            "    model.train()",
            *(("    optimizer.train()",) if mode else ()),
            "    return value",
        ]

    def before(self) -> list[str]:
        """Return the lines before the loop."""
        lines = ["batches = endless(train_loader)"]
        if self.scaled:
            device = "next(model.parameters()).device.type"
            lines.append(f"scaler = torch.amp.GradScaler({device})")
        if self.signals:
            count = self.recipe.evaluations
            steps = f"{{{self.steps} * i // {count} for i in range(1, {count})}}"
            lines.append(f"evaluation_steps = {steps}")
        if self.row.eval_mode:
            lines.append("optimizer.train()  # call optimizer.eval() before you evaluate the model")
        return lines

    def after(self) -> list[str]:
        """Return the lines after an update, and those after the last update."""
        lines = [
            f"    {signal} = valid_{signal}() if update + 1 in evaluation_steps else None"
            for signal in self.signals
        ]
        for signal in self.rate_signals:
            lines += [f"    if {signal} is not None:"]
            lines += [f"        schedule = schedule.record(update + 1, {signal})"]
        lines += [
            f"    {name}.step({''.join(signals)})" for name, signals in self.schedulers.items()
        ]
        return [*lines, "optimizer.eval()"] if self.row.eval_mode else lines

    def forward(self, indent: str, whole: bool = False) -> list[str]:
        """Return the lines from a batch to its loss; `whole` adds up the losses of all turns."""
        loss = "step(model, batch)" if self.own_step else "loss_function(model(inputs), targets)"
        if whole and self.turns:
            loss = "sum(loss for _, loss in step(model, batch))"
        if self.recipe.precision == "float32":
            return [f"{indent}loss = {loss}"]
        device = "next(model.parameters()).device.type"
        return [
            f"{indent}with torch.autocast({device}, dtype=torch.{self.recipe.precision}):",
            f"{indent}    loss = {loss}",
        ]

    def plain(self) -> list[str]:
        """Return the body of the loop for an optimizer that only needs the gradient."""
        recipe = self.recipe
        if self.turns:
            return self.in_turns()
        lines = ["    optimizer.zero_grad()"]
        scale = "scaler.scale({})" if self.scaled else "{}"
        if recipe.accumulate == 1:
            lines += [f"    {self.batch} = next(batches)", *self.forward("    ")]
            lines.append(f"    {scale.format('loss')}.backward()")
        else:
            share = f"loss / {recipe.accumulate}"
            lines.append(f"    for _ in range({recipe.accumulate}):")
            lines += [f"        {self.batch} = next(batches)", *self.forward(" " * 8)]
            lines.append(f"        {(scale if self.scaled else '({})').format(share)}.backward()")
        if not self.scaled:
            return [*lines, *self.clipping("    "), "    optimizer.step()"]
        lines += ["    scaler.unscale_(optimizer)", *self.clipping("    ")]
        lines += [
            "    scale = scaler.get_scale()",
            "    scaler.step(optimizer)",
            "    scaler.update()",
        ]
        lines += ["    if scaler.get_scale() >= scale:", "        break"]
        again = "    while True:  # a step whose gradient overflows float16 is no update"
        return [again, *(f"    {line}" for line in lines)]

    def in_turns(self) -> list[str]:
        """Return the body of the loop for a step that yields (part, loss)."""
        turn = ["    for part, loss in step(model, next(batches)):"]
        if self.recipe.precision != "float32":
            device = "next(model.parameters()).device.type"
            turn = [
                "    turns = step(model, next(batches))",
                "    while True:",
                f"        with torch.autocast({device}, dtype=torch.{self.recipe.precision}):",
                "            part, loss = next(turns, (None, None))",
                "        if part is None:",
                "            break",
            ]
        named = "model.named_parameters()"
        return [
            *turn,
            "        optimizer.zero_grad()  # parameters without a gradient are not updated",
            f"        own = [p for name, p in {named} if f'{{name}}.'.startswith(f'{{part}}.')]",
            "        loss.backward(inputs=own)",
            *self.clipping(" " * 8),
            "        optimizer.step()",
        ]

    def clipping(self, indent: str) -> list[str]:
        recipe, clip, lines = self.recipe, f"{indent}torch.nn.utils.clip_grad_", []
        if self.drops_frozen:
            lines.append(
                f"{indent}rates.drop_frozen_gradients()  # the norm leaves out frozen parts"
            )
        if recipe.clip_norm is not None:
            lines.append(f"{clip}norm_(model.parameters(), {recipe.clip_norm!r})")
        if recipe.clip_value is not None:
            lines.append(f"{clip}value_(model.parameters(), {recipe.clip_value!r})")
        return lines

    def closure(self) -> list[str]:
        """Return the body of the loop for an optimizer that evaluates the loss itself."""
        graph = self.row.closure == "graph"
        return [
            f"    {self.batch} = next(batches)",
            "    def closure():",
            *(() if graph else ("        optimizer.zero_grad()",)),
            *self.forward(" " * 8),
            *(() if graph else ("        loss.backward()",)),
            "        return loss",
            "    optimizer.step(closure)",
        ]

    def rest(self) -> list[str]:
        """Return comments on what of the recipe the loop does not apply."""
        plain = self.recipe.plain()
        if self.row.closure and self.recipe.accumulate > 1:
            plain["batch_size"] = f"{self.recipe.accumulate} * {plain.get('batch_size', 64)}"
        if self.signals:
            plain.pop("evaluations")  # the loop applies it
        names = [*ELSEWHERE, *(["accumulate"] if self.turns and self.recipe.accumulate > 1 else [])]
        left = [f"{name}={plain[name]!r}" for name in names if plain.get(name)]
        lines = []
        if self.grouped and self.recipe.schedules:
            named = ", ".join(self.recipe.schedules)
            lines.append(
                f"# The recipe keeps a group's own {named}; this code schedules it in every group."
            )
        if left:
            lines.append(
                f"# The recipe also sets {', '.join(left)}: this code does not apply them."
            )
        return lines
