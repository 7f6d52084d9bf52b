"""`etude schedule`: the values of a schedule."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from etude.cli import choices
from etude.cli.console import out, print_json

EPILOG = """[bold]Examples[/bold]

  etude schedule "step(10, 0.5)" --lr 0.1 --steps 30

  etude schedule "warmup('5%') >> cosine(floor=0.01)" --lr 3e-3 --steps 2000 --rows 20

  etude schedule "exponential(0.95)" --lr 0.1 --epochs 10"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("schedule", epilog=EPILOG, no_args_is_help=True)(schedule)


def schedule(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="The schedule's text.")],
    lr: Annotated[float, typer.Option("--lr", help="The rate that the schedule multiplies.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Length in updates.", min=1)] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Length in epochs of --steps-per-epoch updates.")
    ] = None,
    steps_per_epoch: Annotated[int, typer.Option(help="Updates in an epoch.", min=1)] = 1,
    rows: Annotated[
        int, typer.Option(help="Rows of the table at most, evenly spread; 0 shows every step.")
    ] = 50,
    json: choices.Json = False,
) -> None:
    """Print the values of a schedule, step by step; the step after the last is shown too."""
    from etude.errors import BadValueError
    from etude.schedules import Clock, parse

    if (steps is None) == (epochs is None):
        raise BadValueError("give the length: either --steps or --epochs")
    text = f"{epochs} epochs" if steps is None else steps
    clock = Clock(horizon=text, steps_per_epoch=steps_per_epoch)
    shape = parse(expression).over(clock)
    last = int(clock.horizon)
    count = last if rows == 0 else min(rows, last)
    marks = sorted({round(last * i / count) for i in range(count + 1)})
    values = [(mark, lr * shape(mark)) for mark in marks]
    if json:
        print_json(
            {
                "schedule": repr(shape),
                "lr": lr,
                "steps": last,
                "values": [{"step": step, "lr": value} for step, value in values],
            }
        )
        return
    out.print(f"[bold]{lr:g} * ({shape!r})[/bold]")
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("epoch" if steps is None and steps_per_epoch == 1 else "step", justify="right")
    table.add_column("rate", justify="right")
    for step, value in values:
        table.add_row(str(step), f"{value:.8g}")
    out.print(table)
