"""A recipe as code for a PyTorch loop of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etude import optimizers
from etude.optimizers import OptimizerRow
from etude.recipe import Recipe

if TYPE_CHECKING:
    from etude.schedules import Schedule
    from etude.tasks.task import Task

ELSEWHERE = (
    "batch_size",
    "clip_adaptive",
    "clip_percentile",
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
"""Fields that do not live in the loop, or that only `etude.train` applies: named in a comment."""

ENDLESS = (
    "def endless(loader):",
    "    while True:  # one epoch after another",
    "        yield from loader",
)
"""A DataLoader gives one epoch; a run has as many updates as the recipe says."""


def pytorch_code(recipe: Recipe, steps: int, *, task: Task | None = None) -> str:
    """Return a training loop of `steps` updates that does what the recipe says.

    Its first line names what is the reader's: `model`, `train_loader` (a DataLoader, gone through
    as often as the updates need it), and `loss_function` or `step`. Where a schedule reacts to the
    validation loss, the loop measures it on `valid_loader` at the recipe's evaluations; where one
    reacts to the task's metric, it calls `metric_of(model)` there.

    Args:
        recipe: What to write down.
        steps: The number of updates, to which the schedules are bound.
        task: Where it has a `step`, the loss is `step(model, batch)`, in turns if it yields; else,
            and without a task, `loss_function(model(inputs), targets)`.
    """
    own_step = task is not None and task.step is not None
    return _Loop(recipe, steps, own_step, task is not None and task.alternates).text()


@dataclass(frozen=True)
class _Loop:
    """What the parts of the loop depend on."""

    recipe: Recipe
    steps: int
    own_step: bool
    turns: bool

    @property
    def row(self) -> OptimizerRow:
        return optimizers.get(self.recipe.optimizer.name)

    @property
    def moving(self) -> bool:
        """Whether multipliers move, so that they, and not a scheduler, write the rate."""
        return self.recipe.lr_mult is not None and self.recipe.lr_mult.moves

    @property
    def silences(self) -> bool:
        """Whether some part may stand still, and must be kept out of the clipping."""
        mult = self.recipe.lr_mult
        if mult is None or self.recipe.clip_norm is self.recipe.clip_value is None:
            return False
        still = any(rule.multiplier == 0.0 for rule in mult.rules)
        return still or mult.moves or any(policy.name == "freeze" for policy in mult.policies)

    @property
    def scheduled(self) -> dict[str, Schedule]:
        """What a scheduler moves, by its argument."""
        rate = {} if self.moving else {"scale": self.recipe.schedule}
        return {**rate, **self.recipe.schedules}

    @property
    def signals(self) -> tuple[str, ...]:
        """What the loop must measure: 'loss', 'metric', both or neither."""
        schedules = (self.recipe.schedule, *self.recipe.schedules.values())
        return tuple(sorted({signal for s in schedules for signal in s.hears}))

    @property
    def shape_hears(self) -> tuple[str, ...]:
        """What the loop itself must tell the rate's shape."""
        return self.recipe.schedule.hears if self.moving else ()

    @property
    def schedulers(self) -> dict[str, tuple[str, ...]]:
        """The schedulers by their variable, with what each hears: one scheduler hears one thing."""
        heard = sorted({signal for s in self.scheduled.values() for signal in s.hears})
        if len(heard) < 2:
            return {"scheduler": tuple(heard)} if self.scheduled else {}
        return {f"{signal}_scheduler": (signal,) for signal in heard}

    @property
    def own_schedulers(self) -> bool:
        """Whether torch's own scheduler is not enough."""
        return bool(self.recipe.schedules) or any(self.schedulers.values())

    @property
    def batch(self) -> str:
        return "batch" if self.own_step else "inputs, targets"

    def text(self) -> str:
        """Return the whole."""
        imports = ["import torch", "from etude.schedules import parse"]
        setup = [*self.optimizer(imports), *self.schedules(imports), "", *ENDLESS]
        if "loss" in self.signals:
            setup += ["", *self.valid_loss()]
        if "metric" in self.signals:
            setup += ["", *self.valid_metric()]
        loop = ["", *self.before(), f"for update in range({self.steps}):"]
        if self.moving:
            loop.append(f"    rates.set({self.recipe.lr!r} * shape(update), update)")
        loop += self.closure() if self.row.closure else self.plain()
        loop += self.after()
        given = ["model", "train_loader", *(["valid_loader"] if "loss" in self.signals else [])]
        given.append("step(model, batch)" if self.own_step else "loss_function")
        if "metric" in self.signals:
            given.append("metric_of(model) on the validation data")
        return "\n".join(
            [f"# Yours: {', '.join(given)}.", *imports, "", *setup, *loop, *self.rest()]
        )

    def optimizer(self, imports: list[str]) -> list[str]:
        """Return the lines that build the optimizer: torch's own, where that is all it takes."""
        recipe, row = self.recipe, self.row
        values = "".join(f", {k}={v!r}" for k, v in recipe.optimizer.hyperparameters.items())
        if recipe.lr_mult is None and row.module == "torch.optim":
            call = f"torch.optim.{row.attribute}(model.parameters(), lr={recipe.lr!r}{values})"
            return [f"optimizer = {call}"]
        own = not row.package and row.module.partition(".")[0] not in ("torch", "etude")
        if own and recipe.lr_mult is None:  # a row of the user's, which another program lacks
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
                self.silences
                or recipe.lr_mult.moves
                or any(p.name == "mup" for p in recipe.lr_mult.policies)
            ):
                imports[-1] = "from etude import layerwise, optimizers"
            for policy in recipe.lr_mult.policies:
                if policy.name == "mup":
                    parsed = f"layerwise.parse_policies({repr(policy)!r})[0]"
                    lines.append(f"layerwise.rescale(model, {parsed})  # once, on fresh weights")
        call = f"optimizers.build({recipe.optimizer.name!r}, model, lr={recipe.lr!r}{values})"
        return [*lines, f"optimizer = {call}"]

    def schedules(self, imports: list[str]) -> list[str]:
        """Return the lines that bind the schedules to the run and to the optimizer."""
        lines = [f"shape = {self.bound(repr(self.recipe.schedule))}"]
        if self.moving or self.silences:
            lines.append("rates = layerwise.rates_of(optimizer)")
        if self.moving:
            lines.append(f"rates.bind({self.steps})")
        if self.own_schedulers:
            imports.append("from etude.interop.torch import Scheduler")
            for place, (variable, heard) in enumerate(self.schedulers.items()):
                moved = [
                    f"{name}={'shape' if name == 'scale' else self.bound(repr(s))}"
                    for name, s in self.scheduled.items()
                    if s.hears == heard or (not s.hears and place == 0)
                ]
                lines.append(f"{variable} = Scheduler(optimizer, {', '.join(moved)})")
        elif not self.moving:
            lines.append("scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)")
        return lines

    def bound(self, schedule: str) -> str:
        return f"parse({schedule!r}).over({self.steps})"

    def valid_loss(self) -> list[str]:
        """Return the function that measures what schedules with feedback hear."""
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
        """Return the function that measures the task's metric, for schedules that hear it."""
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
        """Return what stands right before the loop."""
        lines = ["batches = endless(train_loader)"]
        if self.signals:
            count = self.recipe.evaluations
            lines.append(f"looks = {{{self.steps} * i // {count} for i in range(1, {count})}}")
        if self.row.eval_mode:
            lines.append("optimizer.train()  # and optimizer.eval() before the model is judged")
        return lines

    def after(self) -> list[str]:
        """Return what follows an update, and what follows the last."""
        lines = [
            f"    {signal} = valid_{signal}() if update + 1 in looks else None"
            for signal in self.signals
        ]
        for signal in self.shape_hears:
            lines += [f"    if {signal} is not None:"]
            lines += [f"        shape = shape.record(update + 1, {signal})"]
        lines += [f"    {one}.step({''.join(heard)})" for one, heard in self.schedulers.items()]
        return [*lines, "optimizer.eval()"] if self.row.eval_mode else lines

    def forward(self, indent: str, whole: bool = False) -> list[str]:
        """Return the lines from a batch to its loss, `whole` with all turns together."""
        loss = "step(model, batch)" if self.own_step else "loss_function(model(inputs), targets)"
        if whole and self.turns:
            loss = "sum(loss for _, loss in step(model, batch))"
        if self.recipe.precision == "float32":
            return [f"{indent}loss = {loss}"]
        device = "next(model.parameters()).device.type"
        return [
            f"{indent}with torch.autocast({device}, dtype=torch.bfloat16):",
            f"{indent}    loss = {loss}",
        ]

    def plain(self) -> list[str]:
        """Return the body of the loop for an optimizer that needs the gradient alone."""
        recipe = self.recipe
        if self.turns:
            return self.in_turns()
        lines = ["    optimizer.zero_grad()"]
        if recipe.accumulate == 1:
            lines += [f"    {self.batch} = next(batches)", *self.forward("    ")]
            lines.append("    loss.backward()")
        else:
            lines.append(f"    for _ in range({recipe.accumulate}):")
            lines += [f"        {self.batch} = next(batches)", *self.forward(" " * 8)]
            lines.append(f"        (loss / {recipe.accumulate}).backward()")
        return [*lines, *self.clipping("    "), "    optimizer.step()"]

    def in_turns(self) -> list[str]:
        """Return the body of the loop for a step that yields (part, loss)."""
        turn = ["    for part, loss in step(model, next(batches)):"]
        if self.recipe.precision != "float32":
            device = "next(model.parameters()).device.type"
            turn = [
                "    turns = step(model, next(batches))",
                "    while True:",
                f"        with torch.autocast({device}, dtype=torch.bfloat16):",
                "            part, loss = next(turns, (None, None))",
                "        if part is None:",
                "            break",
            ]
        named = "model.named_parameters()"
        return [
            *turn,
            "        optimizer.zero_grad()  # what has no gradient is not moved",
            f"        own = [p for name, p in {named} if f'{{name}}.'.startswith(f'{{part}}.')]",
            "        loss.backward(inputs=own)",
            *self.clipping(" " * 8),
            "        optimizer.step()",
        ]

    def clipping(self, indent: str) -> list[str]:
        recipe, clip, lines = self.recipe, f"{indent}torch.nn.utils.clip_grad_", []
        if self.silences:
            lines.append(f"{indent}rates.silence()  # what stands still has no part in the norm")
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
        """Return a comment on what the recipe says besides."""
        plain = self.recipe.plain()
        if self.row.closure and self.recipe.accumulate > 1:
            plain["batch_size"] = f"{self.recipe.accumulate} * {plain.get('batch_size', 64)}"
        if self.signals:
            plain.pop("evaluations")  # the loop makes them
        names = [*ELSEWHERE, *(["accumulate"] if self.turns and self.recipe.accumulate > 1 else [])]
        said = [f"{name}={plain[name]!r}" for name in names if plain.get(name)]
        return [f"# The recipe also says {', '.join(said)}."] if said else []
