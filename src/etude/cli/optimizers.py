"""`etude optimizers`: the table of optimizers, and recommendations for a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from etude.cli.options import choices
from etude.cli.options.recipe_options import RecipeOptions, takes_recipe
from etude.cli.terminal.console import facts, number, out, print_json, say
from etude.errors import BadValueError, unknown_name

if TYPE_CHECKING:
    from etude.optimizers import OptimizerRow
    from etude.optimizers.match import Match, Traits

EPILOG = """[bold]Examples[/bold]

  etude optimizers

  etude optimizers show adamw

  etude optimizers match digits-cnn"""


class Optimizers(TyperGroup):
    """The verbs about optimizers; an optimizer's name instead of a verb gives a hint."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb.

        Raises:
            BadValueError: If it is an optimizer's name.
            UnknownNameError: If it is anything else.
        """
        from etude.optimizers import ROWS

        if args and args[0] not in self.commands and not args[0].startswith("-"):
            if args[0] in ROWS:
                raise BadValueError(f"to see {args[0]}: etude optimizers show {args[0]}")
            raise unknown_name("verb or optimizer", args[0], [*self.commands, *ROWS])
        return super().resolve_command(ctx, args)


app = typer.Typer(no_args_is_help=False, rich_markup_mode="rich", cls=Optimizers)


PLACE = 70
"""The position in `etude --help`."""


def register(program: typer.Typer) -> None:
    """Add the verb to the program."""
    program.add_typer(app, name="optimizers", epilog=EPILOG)


@app.callback(invoke_without_command=True, epilog=EPILOG)
def optimizers(context: typer.Context, json: choices.Json = False) -> None:
    """List the optimizers; `show NAME` for one of them, `match TASK` for those that suit a task."""
    if context.invoked_subcommand is not None:
        return
    from etude.optimizers import ROWS
    from etude.optimizers.row import INSTALL

    if json:
        print_json([_plain(row) for row in ROWS.values()])
        return
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("optimizer", no_wrap=True)
    table.add_column("choose it for", overflow="fold")
    for row in ROWS.values():
        note = ", ".join([f"from {_origin(row)}", *row.capabilities])
        table.add_row(f"[bold]{row.name}[/bold]", f"{row.when}\n[dim]{note}[/dim]")
    out.print(table)
    out.print(
        "\n[dim]etude optimizers show NAME has settings and paper; match TASK recommends.[/dim]"
    )
    if not all(row.installed for row in ROWS.values()):
        out.print(f"[dim]{escape(INSTALL)} installs the missing ones.[/dim]")


@app.command("show", epilog=EPILOG)
def show(
    name: Annotated[str, typer.Argument(help="An optimizer's name.")], json: choices.Json = False
) -> None:
    """Show one optimizer: its settings with their bounds, and its paper."""
    from etude.optimizers import get

    row = get(name)
    if json:
        print_json(_plain(row))
        return
    say(f"[bold]{row.name}[/bold]: {row.when}\n")
    rows = [
        ("paper", row.paper),
        ("from", f"{row.factory.replace(':', '.')}{_missing(row)}"),
        ("rate", f"{row.lr:g} is the library's default"),
        ("weight decay", row.decay),
        ("note", ", ".join(row.capabilities) or "–"),
    ]
    out.print(facts(rows))
    out.print("\n[dim]settings, for --set optimizer.KEY=VALUE[/dim]")
    out.print(
        facts([(k, f"{v.default}   [dim]{v.bounds}[/dim]") for k, v in row.hyperparameters.items()])
    )


@app.command("match", epilog=EPILOG)
@takes_recipe(without=("lr", "optimizer", "schedule", "steps", "weight_decay", "lr_mult"))
def match(
    task: choices.TaskName = None,
    recipe: RecipeOptions = RecipeOptions(),
    top: Annotated[int, typer.Option(help="The number of optimizers to show.", min=1)] = 5,
    json: choices.Json = False,
) -> None:
    """Recommend optimizers for TASK from the measurements of a short training, with reasons."""
    from etude.measure.traits import measure
    from etude.optimizers.match import match as rank
    from etude.optimizers.match import recommended
    from etude.optimizers.row import INSTALL

    chosen = choices.choose_task(task, recipe.options, None)
    wanted = recipe.choose(chosen, task)
    traits = measure(chosen, wanted, device=recipe.device)
    ranked = rank(traits)
    if json:
        print_json({"traits": traits.plain(), "ranked": [_as_dict(one) for one in ranked]})
        return
    out.print(f"[bold]{chosen.name}[/bold]\n")
    out.print(facts(_measured(traits)))
    for place, one in enumerate(ranked[:top], start=1):
        settings = " ".join(f"--set {key}={value}" for key, value in one.settings.items())
        mark = "" if one.installed else "  [magenta]not installed[/magenta]"
        score = f"[dim]{one.score:+.1f}  {settings}[/dim]"
        out.print(f"\n{place}. [bold]{one.name}[/bold]  {score}{mark}")
        for reason in one.reasons:
            say(Padding(Text(reason), (0, 0, 0, 3), expand=False))
    first = recommended(ranked)
    if not all(one.installed for one in ranked[:top]):
        out.print(f"\n[dim]{escape(INSTALL)} installs the missing ones.[/dim]")
    settings = "".join(f" --set {key}={value}" for key, value in first.settings.items())
    out.print(
        f"\n[dim]To find its rate: etude tune {task} --optimizer {first.name}{settings}[/dim]"
    )


def _measured(traits: Traits) -> list[tuple[str, str]]:
    noise = traits.noise / traits.batch_size
    rows = [
        ("parameters", f"{traits.parameters:,}, {traits.matrices:.0%} of them in matrices"),
        ("layers", f"{traits.depth}: {', '.join(sorted(traits.kinds))}"),
        (
            "noise scale",
            f"{number(traits.noise, 3)} samples, {number(noise, 3)} times the batch of "
            f"{traits.batch_size}",
        ),
        ("gradient norm", f"largest {number(traits.bursts, 3)} times the median"),
        (
            "curvature",
            f"largest eigenvalue {number(traits.sharpness, 3)}, {number(traits.spread, 3)} times "
            f"the root mean square; most negative {number(traits.negative, 2)} of the largest",
        ),
    ]
    if traits.tables:
        rows.append(("embeddings", f"{traits.sparse:.0%} of the rows get no gradient from a batch"))
    return rows


def _as_dict(one: Match) -> dict[str, Any]:
    return {
        "name": one.name,
        "score": one.score,
        "reasons": list(one.reasons),
        "settings": dict(one.settings),
        "installed": one.installed,
    }


def _origin(row: OptimizerRow) -> str:
    head = row.module.partition(".")[0]
    return f"{head}{_missing(row)}"


def _missing(row: OptimizerRow) -> str:
    return "" if row.installed else " [magenta](not installed)[/magenta]"


def _plain(row: OptimizerRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "factory": row.factory,
        "package": row.package,
        "installed": row.installed,
        "lr": row.lr,
        "paper": row.paper,
        "when": row.when,
        "weight_decay": row.decay,
        "closure": row.closure,
        "eval_mode": row.eval_mode,
        "linear": row.linear,
        "group_rates": row.group_rates,
        "sparse": row.sparse,
        "rate_free": row.rate_free,
        "schedule_free": row.schedule_free,
        "vmap": row.vmap,
        "hyperparameters": {
            key: {"default": value.default, "bounds": value.bounds}
            for key, value in row.hyperparameters.items()
        },
    }
