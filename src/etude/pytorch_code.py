"""A recipe as code for a PyTorch loop of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude import optimizers

if TYPE_CHECKING:
    from etude.recipe import Recipe

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


def pytorch_code(recipe: Recipe, steps: int) -> str:
    """Return a training loop of `steps` updates that does what the recipe says.

    It names `model`, `loss_function` and `batches` of (inputs, targets), which are the reader's.

    Args:
        recipe: What to write down.
        steps: The number of updates, to which the schedules are bound.
    """
    row = optimizers.get(recipe.optimizer.name)
    imports = ["import torch", "from etude.schedules import parse"]
    setup = _optimizer(recipe, imports)
    setup.append(f"shape = parse({repr(recipe.schedule)!r}).over({steps})")
    moving = recipe.lr_mult is not None and recipe.lr_mult.moves
    if moving:
        setup += ["rates = layerwise.rates_of(optimizer)", f"rates.bind({steps})"]
    if recipe.schedules:
        imports.append("from etude.interop.torch import Scheduler")
        shapes = [] if moving else ["scale=shape"]
        shapes += [
            f"{name}=parse({repr(schedule)!r}).over({steps})"
            for name, schedule in recipe.schedules.items()
        ]
        setup.append(f"scheduler = Scheduler(optimizer, {', '.join(shapes)})")
    elif not moving:
        setup.append("scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)")
    if row.eval_mode:
        setup.append("optimizer.train()  # and optimizer.eval() before the model is judged")
    loop = ["", "batches = iter(batches)", f"for step in range({steps}):"]
    if moving:
        loop.append(f"    rates.set({recipe.lr!r} * shape(step), step)")
    loop += _closure(recipe) if row.closure else _plain(recipe)
    if recipe.schedules or not moving:
        loop.append("    scheduler.step()")
    if row.eval_mode:
        loop.append("optimizer.eval()")
    return "\n".join([*imports, "", *setup, *loop, *_rest(recipe)])


def _optimizer(recipe: Recipe, imports: list[str]) -> list[str]:
    """Return the lines that build the optimizer: torch's own, where that is all it takes."""
    row = optimizers.get(recipe.optimizer.name)
    values = "".join(f", {k}={v!r}" for k, v in recipe.optimizer.hyperparameters.items())
    if recipe.lr_mult is None and row.module == "torch.optim":
        call = f"torch.optim.{row.attribute}(model.parameters(), lr={recipe.lr!r}{values})"
        return [f"optimizer = {call}"]
    imports.append("from etude import optimizers")
    lines = []
    if recipe.lr_mult is not None:
        values += f", lr_mult={recipe.lr_mult.plain()!r}"
        if recipe.lr_mult.moves or any(p.name == "mup" for p in recipe.lr_mult.policies):
            imports[-1] = "from etude import layerwise, optimizers"
        for policy in recipe.lr_mult.policies:
            if policy.name == "mup":
                parsed = f"layerwise.parse_policies({repr(policy)!r})[0]"
                lines.append(f"layerwise.rescale(model, {parsed})  # once, on fresh weights")
    call = f"optimizers.build({recipe.optimizer.name!r}, model, lr={recipe.lr!r}{values})"
    return [*lines, f"optimizer = {call}"]


def _forward(recipe: Recipe, indent: str) -> list[str]:
    """Return the lines from a batch to its loss."""
    if recipe.precision == "float32":
        return [f"{indent}loss = loss_function(model(inputs), targets)"]
    return [
        f"{indent}with torch.autocast(inputs.device.type, dtype=torch.bfloat16):",
        f"{indent}    loss = loss_function(model(inputs), targets)",
    ]


def _plain(recipe: Recipe) -> list[str]:
    """Return the body of the loop for an optimizer that needs the gradient alone."""
    lines = ["    optimizer.zero_grad()"]
    if recipe.accumulate == 1:
        lines += ["    inputs, targets = next(batches)", *_forward(recipe, "    ")]
        lines.append("    loss.backward()")
    else:
        lines.append(f"    for _ in range({recipe.accumulate}):")
        lines += ["        inputs, targets = next(batches)", *_forward(recipe, " " * 8)]
        lines.append(f"        (loss / {recipe.accumulate}).backward()")
    clip = "    torch.nn.utils.clip_grad_"
    if recipe.clip_norm is not None:
        lines.append(f"{clip}norm_(model.parameters(), {recipe.clip_norm!r})")
    if recipe.clip_value is not None:
        lines.append(f"{clip}value_(model.parameters(), {recipe.clip_value!r})")
    return [*lines, "    optimizer.step()"]


def _closure(recipe: Recipe) -> list[str]:
    """Return the body of the loop for an optimizer that evaluates the loss itself."""
    graph = optimizers.get(recipe.optimizer.name).closure == "graph"
    return [
        "    inputs, targets = next(batches)",
        "    def closure():",
        *(() if graph else ("        optimizer.zero_grad()",)),
        *_forward(recipe, " " * 8),
        *(() if graph else ("        loss.backward()",)),
        "        return loss",
        "    optimizer.step(closure)",
    ]


def _rest(recipe: Recipe) -> list[str]:
    """Return a comment on what the recipe says besides."""
    plain = recipe.plain()
    if optimizers.get(recipe.optimizer.name).closure and recipe.accumulate > 1:
        plain["batch_size"] = f"{recipe.accumulate} * {plain.get('batch_size', 64)}"
    said = [f"{name}={plain[name]!r}" for name in ELSEWHERE if plain.get(name)]
    return [f"# The recipe also says {', '.join(said)}."] if said else []
