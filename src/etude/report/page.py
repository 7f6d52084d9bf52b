"""The page: one HTML file with the answer, the figures, the tables and the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from etude import files
from etude.errors import BadTypeError
from etude.export import pytorch_code
from etude.record import Record
from etude.report import (
    answer,
    candidate_curves,
    embed,
    final_run,
    loss_against_rate,
    schedule_curve,
    style,
    tables,
    words,
)
from etude.report.palette import Theme
from etude.tasks.task import Task
from etude.tuning.result import TuneResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Nothing is fetched: the browser is told to refuse it, whatever the file may say.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def write(result: TuneResult | Record, path: str | Path, *, task: Task | None = None) -> Path:
    """Write the report as one HTML file that needs no network.

    Args:
        result: What a tuning found, or the record of one run.
        path: Where to write; a folder that is missing is made.
        task: What was trained, for the PyTorch loop that is shown: its own step, if it has one.

    Returns:
        The path.

    Raises:
        BadTypeError: If `result` is neither a TuneResult nor a Record.
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    text = html(result, task=task)
    files.make_folder(path.parent)
    files.write_text(path, text)
    return path


def html(result: TuneResult | Record, *, task: Task | None = None) -> str:
    """Return the report as the text of one HTML file.

    Args:
        result: What a tuning found, or the record of one run.
        task: What was trained, for the PyTorch loop that is shown: its own step, if it has one.

    Raises:
        BadTypeError: If `result` is neither a TuneResult nor a Record.

    >>> import torch
    >>> from etude.recipe import Recipe
    >>> from etude.tasks.task import Task
    >>> from etude.training.train import train
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> loss = torch.nn.functional.mse_loss
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=loss)
    >>> record = train(task, Recipe(lr=0.1, steps=50, batch_size=16))
    >>> html(record).startswith("<!doctype html>")
    True
    """
    page = _Page(task)
    if isinstance(result, TuneResult):
        return page.tuning(result)
    if isinstance(result, Record):
        return page.run(result)
    raise BadTypeError(
        f"a report is made of a TuneResult or a Record, not of a {type(result).__name__}: give "
        "what tune or train returned"
    )


class _Page:
    """A page being put together: the figures are counted, and their data kept for its end."""

    def __init__(self, task: Task | None) -> None:
        self.task = task
        self.figures: dict[str, Any] = {}

    def tuning(self, result: TuneResult) -> str:
        rates = loss_against_rate.info(result)
        curves = candidate_curves.info(result)
        body = [
            head(answer.of_tuning(result)),
            tables.selection(result),
            "<h2>Which rate</h2>",
            self.figure(
                lambda theme: loss_against_rate.draw(rates, theme),
                loss_against_rate.caption(rates),
            ),
            tables.trials(result),
            "<h2>How the rates compare over the run</h2>",
            self.figure(
                lambda theme: candidate_curves.draw(curves, theme),
                candidate_curves.caption(curves),
            ),
            "<h2>The run that was kept</h2>",
            *self.one_run(result.record),
            "<h2>What it cost</h2>",
            tables.cost(result),
            recipe(result.record, self.task),
        ]
        return self.whole(f"{result.record.task}: tuning", body)

    def run(self, record: Record) -> str:
        body = [
            head(answer.of_record(record)),
            "<h2>The run</h2>",
            *self.one_run(record),
            recipe(record, self.task),
        ]
        return self.whole(f"{record.task}: run", body)

    def one_run(self, record: Record) -> list[str]:
        shape = schedule_curve.info(record)
        course = final_run.info(record)
        return [
            self.figure(lambda theme: final_run.draw(course, theme), final_run.caption(course)),
            self.figure(
                lambda theme: schedule_curve.draw(shape, theme), schedule_curve.caption(shape)
            ),
        ]

    def figure(self, draw: Callable[[Theme], Figure], caption: str) -> str:
        """Enter a figure; return the place where the page shows it."""
        number = len(self.figures) + 1
        name = f"figure-{number}"
        self.figures[name] = embed.both(draw)
        height = self.figures[name]["figure"]["layout"]["height"]
        return (
            f'<figure><div class="plot" id="{name}" role="img" '
            f'aria-label="{words.safe(caption)}" style="min-height:{height}px"></div>'
            f"<figcaption><b>Figure {number}.</b> {words.safe(caption)}</figcaption></figure>"
        )

    def whole(self, title: str, body: list[str]) -> str:
        """Return the file: what is read first, then the library, then the figures' data."""
        return "\n".join(
            [
                '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{words.safe(title)} – Etude</title>",
                '<link rel="icon" href="data:,">',
                f"<style>{style.CSS}</style>\n</head>\n<body>\n<main>",
                *body,
                "</main>",
                f"<script>{get_plotlyjs()}</script>",
                '<script type="application/json" id="figures">'
                f"{embed.script_data(self.figures)}</script>",
                f"<script>{style.SCRIPT}</script>\n</body>\n</html>\n",
            ]
        )


def head(said: answer.Answer) -> str:
    """Return the head of a page as HTML."""
    facts = "".join(
        f'<div><dt>{words.safe(fact.name)}</dt><dd class="value">{words.safe(fact.value)}</dd>'
        f'<dd class="note">{words.safe(fact.note)}</dd></div>'
        for fact in said.facts
    )
    notice = ""
    if said.notice:
        notice = f'<p class="notice" role="note"><b>Note.</b> {words.safe(said.notice)}</p>'
    return (
        f'<header><p class="kind">{words.safe(said.kind)}</p><h1>{words.safe(said.title)}</h1>'
        f'<p class="lede">{words.safe(said.lede)}</p>{notice}<dl class="facts">{facts}</dl>'
        "<noscript><p class=notice>The figures are drawn by a script in this file, which your "
        "browser does not run; the tables hold their numbers.</p></noscript></header>"
    )


def recipe(record: Record, task: Task | None) -> str:
    """Return the recipe to take away, and the environment it was run in."""
    code = pytorch_code(record.recipe, record.length, task=task)
    return (
        "<h2>The recipe</h2>"
        + _block("recipe-toml", "As TOML", record.recipe.to_toml())
        + _block("recipe-torch", "For your own PyTorch loop", code)
        + "<h2>Where it was run</h2>"
        + tables.environment(record)
    )


def _block(name: str, title: str, text: str) -> str:
    return (
        f'<h3>{title} <button type="button" data-copy="{name}">copy</button></h3>'
        f'<pre id="{name}">{words.safe(text.strip())}</pre>'
    )
