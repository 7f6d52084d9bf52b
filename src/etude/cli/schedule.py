"""`etude schedule`: the values, plot, likely mistakes and translation of a schedule."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from etude import files
from etude.cli.options import choices
from etude.cli.terminal.console import out, print_json, say
from etude.cli.terminal.draw import table_of
from etude.cli.terminal.plot import plot as draw
from etude.errors import BadValueError, unknown_name

if TYPE_CHECKING:
    from etude.report.schedule_values import ScheduleValues
    from etude.schedules import Schedule

EPILOG = """[bold]Examples[/bold]

  etude schedule --list

  etude schedule "step(10, 0.5)" --lr 0.1 --epochs 30

  etude schedule "cosine(50, floor=0.01)" --lr 0.1 --epochs 10 --table

  etude schedule "warmup('5%') >> cosine()" --lr 3e-3 --steps 2000 --plot --lint

  etude schedule "warmup(100) >> cosine()" --steps 1000 --diff "warmup(50) >> cosine()"

  etude schedule "warmup('5%') >> cosine()" --lr 3e-3 --steps 2000 --to torch"""

TARGETS = ("torch", "keras", "optax")

_EPOCHS = re.compile(r"\d\s*epochs?\b")


PLACE = 40
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("schedule", epilog=EPILOG, no_args_is_help=True)(schedule)


def schedule(
    expression: Annotated[
        str | None, typer.Argument(metavar="EXPR", help="The schedule's text.", show_default=False)
    ] = None,
    kinds: Annotated[bool, typer.Option("--list", help="List the kinds of schedule.")] = False,
    lr: Annotated[float, typer.Option("--lr", help="The rate that the schedule multiplies.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Length in updates.", min=1)] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Length in epochs of --steps-per-epoch updates.")
    ] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(help="Updates in an epoch (with --epochs: 1).", min=1)
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Print the values.")] = False,
    rows: Annotated[
        int,
        typer.Option(help="The largest number of rows, evenly spread; 0 shows every step.", min=0),
    ] = 50,
    plot: Annotated[bool, typer.Option("--plot", help="Draw it in the terminal.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the plot to a file: .svg, .png or .html."),
    ] = None,
    lint: Annotated[
        bool, typer.Option("--lint", help="Report likely mistakes; exit code 1 if there are any.")
    ] = False,
    diff: Annotated[
        str | None, typer.Option(metavar="EXPR2", help="Show how another schedule differs.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", "--as", metavar="PEER", help="Print code for torch, keras or optax."),
    ] = None,
    json: choices.Json = False,
) -> None:
    """Show a schedule: its values and its plot; or lint, compare and translate it.

    Without any of --table, --plot, --save, --lint, --diff, --to, the plot and the values are
    shown. The step after the last one is shown too: its value is the value at the end.
    """
    from etude.report.schedule_values import ScheduleValues, area_sentence
    from etude.report.schedule_values import table as values_table

    if kinds:
        _list_kinds(json)
        return
    if expression is None:
        raise BadValueError("which schedule? Give its text (--list shows the kinds)")
    if not math.isfinite(lr):
        raise BadValueError(f"--lr {lr} is not finite: give a finite number")
    if lr <= 0:
        raise BadValueError(f"--lr {lr:g} is out of bounds: give a number above 0")
    if to is not None and to not in TARGETS:
        raise unknown_name("target of --to", to, TARGETS)
    shape, last = _bound(expression, steps, epochs, steps_per_epoch)
    other = None if diff is None else _bound(diff, steps, epochs, steps_per_epoch)[0]
    scaled = shape if lr == 1.0 else lr * shape
    everything = not (table or plot or save or lint or diff or to)
    unit = "epoch" if epochs is not None and steps_per_epoch in (None, 1) else "step"
    faults = _lints(scaled, last) if lint else ()
    differences = _differences(scaled, other if other is None or lr == 1.0 else lr * other)
    found = ScheduleValues(scaled, last, unit, rows, faults, differences)
    if json:
        print_json(
            {
                "schedule": repr(shape),
                "lr": lr,
                "steps": last,
                "area": found.area,
                "values": [{"step": t, "lr": v} for t, v in found.points()],
                **({"lint": list(faults)} if lint else {}),
                **({"diff": list(differences)} if diff is not None else {}),
                **({"code": _code(shape, lr, to)} if to is not None else {}),
            }
        )
    else:
        out.print(f"[bold]{escape(repr(scaled))}[/bold]")
        if plot or everything:
            _print_plot(scaled, last, unit)
        if table or everything:
            out.print(table_of(values_table(found)))
        if everything:
            say(f"\n[dim]{area_sentence(found)}[/dim]")
        for line in differences:
            out.print(escape(line))
        if diff is not None and not differences:
            out.print("no difference")
        if to is not None:
            out.print(escape(_code(shape, lr, to)))
        for fault in faults:
            say(f"[magenta]{escape(fault)}[/magenta]")
        if lint and not faults:
            out.print("[green]no likely mistake found[/green]")
    if save is not None:
        _save(found, save)
        if not json:
            out.print(f"drawn to [bold]{escape(str(save))}[/bold]")
    if faults:
        raise typer.Exit(1)


def _list_kinds(json: bool) -> None:
    from etude.schedules import KINDS

    rows = sorted(KINDS.values(), key=lambda row: row.name)
    if json:
        print_json(
            [
                {"name": row.name, "summary": row.summary, "examples": list(row.examples)}
                for row in rows
            ]
        )
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("schedule", no_wrap=True)
    table.add_column("what it does, and an example", overflow="fold")
    for row in rows:
        example = f"\n[dim]{escape(row.examples[0])}[/dim]" if row.examples else ""
        table.add_row(f"[bold]{row.name}[/bold]", f"{escape(row.summary)}{example}")
    out.print(table)


def _bound(
    text: str, steps: int | None, epochs: float | None, steps_per_epoch: int | None
) -> tuple[Schedule, int]:
    """Return the schedule bound to its length, and that length in updates."""
    from etude.schedules import Clock, parse

    if steps is not None and epochs is not None:
        raise BadValueError("--steps and --epochs both set the length: leave one out")
    shape = parse(text)
    if steps is None and epochs is None:
        if shape.length is None:
            raise BadValueError(f"{shape!r} has no length of its own: give --steps or --epochs")
        return shape, max(1, round(shape.length))
    if epochs is not None and not epochs > 0:
        raise BadValueError(f"--epochs {epochs:g} is out of bounds: give a number above 0")
    if steps is None:
        clock = Clock(horizon=f"{epochs} epochs", steps_per_epoch=steps_per_epoch or 1)
    else:
        clock = Clock(horizon=steps, steps_per_epoch=steps_per_epoch)
        if steps_per_epoch is None and _EPOCHS.search(text):
            raise BadValueError(
                f"{shape!r} counts in epochs: with --steps, give --steps-per-epoch too, or give "
                "the length as --epochs"
            )
    return shape.over(clock), int(clock.horizon)


def _lints(shape: Schedule, last: int) -> tuple[str, ...]:
    from etude.schedules import lint

    return tuple(str(fault) for fault in lint(shape, last))


def _differences(shape: Schedule, other: Schedule | None) -> tuple[str, ...]:
    from etude.schedules import diff

    return () if other is None else tuple(diff(shape, other))


def _print_plot(shape: Schedule, last: int, unit: str) -> None:
    from etude.schedules import preview

    seen = preview(shape, last)
    left = max(len(f"{end:.4g}") for end in (max(seen.values), min(0.0, *seen.values)))
    width = max(16, min(64, out.width - left - 1))
    for line in draw(seen.steps, seen.values, width=width):
        out.print(line, markup=False)
    end = f"{last:,} {unit}s"
    out.print(f"[dim]{'':{left}} 0{end:>{width - 1}}[/dim]")


def _code(shape: Schedule, lr: float, to: str) -> str:
    """Return code that uses the schedule in another library."""
    if to != "torch" and shape.has_feedback:
        raise BadValueError(
            f"--to {to}: {shape!r} reacts to a metric, and {to} calls a schedule with the step "
            "alone: without a metric its value would never change; --to torch prints a scheduler "
            "with step(metric)"
        )
    text = f"s = parse({repr(lr * shape)!r})"
    hint = "# call scheduler.step() after each update"
    if shape.has_feedback:
        hint = "# call scheduler.step(metric) after each update, with None where none was measured"
    head = "from etude.schedules import parse"
    lines = {
        "torch": [
            head,
            "from etude.interop.torch import Scheduler",
            text,
            f"scheduler = Scheduler(optimizer, lr=s)  {hint}",
        ],
        "keras": [
            "import keras",
            head,
            "from etude.interop.keras import to_keras",
            text,
            "optimizer = keras.optimizers.SGD(learning_rate=to_keras(s))",
        ],
        "optax": [
            "import optax",
            head,
            "from etude.interop.optax import to_optax",
            text,
            "optimizer = optax.sgd(learning_rate=to_optax(s))",
        ],
    }
    return "\n".join(lines[to])


def _save(found: ScheduleValues, path: Path) -> None:
    from etude.schedules import preview, svg

    kind = path.suffix.lower()
    if kind == ".svg":
        files.write_text(path, svg(found.schedule, found.length))
    elif kind == ".html":
        from etude import report

        report.write(found, path)
    elif kind == ".png":
        from etude.cli.terminal.picture import png

        seen = preview(found.schedule, found.length)
        files.write_bytes(path, png(seen.steps, seen.values))
    else:
        raise BadValueError(f"--save {str(path)!r}: name a file that ends in .svg, .png or .html")
