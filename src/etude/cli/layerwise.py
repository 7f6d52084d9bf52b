"""`etude layerwise`: which rate each layer and gate gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from etude.cli import choices
from etude.cli.console import out, print_json

if TYPE_CHECKING:
    from etude.layerwise.picture import Bar

EPILOG = """[bold]Examples[/bold]

  etude layerwise digits-lstm --lr-mult "*\\[forget]=3" --lr-mult "head=0.5"

  etude layerwise digits-resnet --lr-mult "decay(0.75) * no_decay()"

  etude layerwise digits-cnn --lr-mult "unfreeze('50%')" --html rates.html

  etude tune digits-lstm --set "lr_mult.*\\[forget]=3"      the same, to tune with"""

_POLICY = re.compile(r"^\s*[a-z_]+\s*\(")


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("layerwise", epilog=EPILOG, no_args_is_help=True)(layerwise)


def layerwise(
    task: choices.TaskName = None,
    multipliers: Annotated[
        list[str] | None,
        typer.Option(
            "--lr-mult",
            metavar="SELECTOR=FACTOR | POLICY",
            help="A rule, repeatable, the first match wins; or policies joined by *.",
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The peak of the rate.")] = None,
    recipe: choices.RecipeFile = None,
    optimizer: choices.Optimizer = None,
    schedule: choices.ScheduleText = None,
    steps: choices.Steps = None,
    changes: choices.Set = None,
    options: choices.With = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the picture as a page.")
    ] = None,
    json: choices.Json = False,
) -> None:
    """Show the rate of every parameter and slice of TASK's model: rule, multiplier, peak.

    Selectors: a name pattern (conv*), @linear, @convolution, @recurrent, @embedding,
    @normalisation, @bias, @input, @middle, @output, and a gate or rows in brackets.
    """
    from etude import files
    from etude.layerwise import picture
    from etude.layerwise.planning import plan
    from etude.layerwise.spec import LrMult
    from etude.training.run import Run

    chosen = choices.choose_task(task, options, None)
    wanted = choices.choose_recipe(
        chosen,
        recipe,
        changes,
        lr=lr,
        optimizer=optimizer,
        schedule=schedule,
        steps=steps,
        lr_mult=rules(multipliers),
    )
    run = Run(chosen, wanted, device="cpu")
    laid = plan(LrMult(), run.model) if run.rates is None else run.rates.plan
    lines = picture.bars(laid, wanted.lr, run.shape, run.length)
    if page is not None:
        title = f"{chosen.name}: rates by layer"
        files.write_text(page, picture.page(title, lines))
    if json:
        print_json(_plain(chosen.name, wanted, lines, page))
        return
    _show(lines, laid.depths)
    if page is not None:
        out.print(f"\n[dim]picture[/dim]   [bold]{escape(str(page))}[/bold]")


def rules(texts: list[str] | None) -> dict[str, Any] | str | None:
    """Return what `--lr-mult` options mean together: a table, a policy, or both.

    Raises:
        BadValueError: If a text is neither, or there are two texts of policies.

    >>> rules(["*[forget]=3", "decay(0.5)"])
    {'@policy': 'decay(0.5)', '*[forget]': 3}
    >>> rules(["mup(base_width=64)"])
    'mup(base_width=64)'
    """
    from etude.errors import BadValueError

    policies = [text for text in texts or () if _POLICY.match(text)]
    table = choices.pairs([text for text in texts or () if text not in policies], "--lr-mult")
    if len(policies) > 1:
        joined = " * ".join(policies)
        raise BadValueError(f"--lr-mult has several policies: join them in one, {joined!r}")
    if not table:
        return policies[0] if policies else None
    return {"@policy": policies[0], **table} if policies else table


def _show(lines: list[Bar], depths: int) -> None:
    from etude.layerwise.picture import span, terminal

    decades = span(lines)
    table = Table(box=None, padding=(0, 2), header_style="dim")
    decayed = any(bar.decay != 1 for bar in lines)
    table.add_column("parameter")
    table.add_column("numbers", justify="right")
    table.add_column("rule")
    table.add_column("multiplier", justify="right")
    table.add_column("rate at the peak", justify="right")
    if decayed:
        table.add_column("decay ×", justify="right")
    table.add_column("× 1".center(17))
    for column in table.columns:
        column.no_wrap = True
    for bar in lines:
        cells = [bar.name, f"{bar.size:,}", bar.rule, bar.text, f"{bar.rate:.4g}"]
        cells += [f"{bar.decay:g}"] if decayed else []
        table.add_row(*map(escape, cells), terminal(bar, decades, half=8))
    # A name that is cut off names nothing: a narrow terminal wraps the line instead.
    needed = Measurement.get(out, out.options.update(width=10_000), table).maximum
    Console(highlight=False, soft_wrap=True, width=max(out.width, needed)).print(table)
    total = sum(bar.size for bar in lines)
    out.print(f"\n[dim]{len(lines)} rows, {depths} layers, {total:,} numbers[/dim]")


def _plain(name: str, recipe: Any, lines: list[Bar], page: Path | None) -> dict[str, Any]:
    return {
        "task": name,
        "lr": recipe.lr,
        "lr_mult": None if recipe.lr_mult is None else recipe.lr_mult.plain(),
        "rows": [{**bar._asdict(), "shape": list(bar.shape), "curve": list(bar.curve)}
                 for bar in lines],
        "html": None if page is None else str(page),
    }  # fmt: skip
