"""Writes a report as one HTML file with figures, tables and the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from etude import files
from etude.report import embed, templates, words
from etude.report.document import Bullets, DataTable, Drawing, Gallery, Listing, Report
from etude.report.figures.palette import DARK, LIGHT, heat
from etude.report.registry import present
from etude.tasks.task import Task

# The policy tells the browser to load nothing from the network.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def write(result: object, path: str | Path, *, task: Task | None = None) -> Path:
    """Write the report as one HTML file that needs no network.

    Args:
        result: What `train`, `tune`, `edge`, `transfer`, `sensitivity`, `coordinate_check` or
            `layer_rates` returned, or a `ScheduleValues`.
        path: The path of the file; missing folders are created.
        task: The task; if it has a `step`, the printed PyTorch loop calls that step.

    Returns:
        The path.

    Raises:
        BadTypeError: If there is no report for this type of result.
        StorageError: If the file cannot be written.
    """
    return write_report(present(result, task=task), path)


def write_report(report: Report, path: str | Path) -> Path:
    """Write a report as one HTML file that needs no network; return its path.

    Raises:
        StorageError: If the file cannot be written.
    """
    return write_page(render(report), path)


def write_page(text: str, path: str | Path) -> Path:
    """Write the text of a page to a file; return its path. Missing folders are created.

    Raises:
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    files.make_folder(path.parent)
    files.write_text(path, text)
    return path


def html(result: object, *, task: Task | None = None) -> str:
    """Return the report as the text of one HTML file.

    Args:
        result: What `train`, `tune`, `edge`, `transfer`, `sensitivity`, `coordinate_check` or
            `layer_rates` returned, or a `ScheduleValues`.
        task: The task; if it has a `step`, the printed PyTorch loop calls that step.

    Raises:
        BadTypeError: If there is no report for this type of result.

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
    return render(present(result, task=task))


def render(report: Report) -> str:
    """Return a report as the text of one HTML file."""
    renderer = _Renderer()
    body = templates.render("body.html", report=report, show=renderer)
    return str(
        templates.render(
            "page.html",
            title=f"{report.subject}: {report.kind[:1].lower()}{report.kind[1:]}",
            policy=POLICY,
            css=templates.css(),
            body=body,
            # The plotting library is included only if there are figures.
            plotly=templates.plotly() if renderer.data else Markup(""),
            figures=Markup(embed.script_data(renderer.data)),
            script=templates.script(),
        )
    )


class _Renderer:
    """Functions that the template calls; collects the data of the figures."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def kind(self, part: object) -> str:
        """Return the macro of the template that draws a part."""
        kinds = {
            DataTable: "table",
            Listing: "listing",
            Drawing: "figure",
            Gallery: "gallery",
            Bullets: "bullets",
        }
        return kinds.get(type(part), "paragraph")

    def enter(self, drawing: Drawing) -> dict[str, Any]:
        """Add a figure; return its number, name and height."""
        number = len(self.data) + 1
        name = f"figure-{number}"
        self.data[name] = embed.both(drawing.draw)
        height = self.data[name]["figure"]["layout"]["height"]
        return {"number": number, "name": name, "height": height}

    def choose(self, gallery: Gallery) -> dict[str, Any]:
        """Add the figures of a gallery; return the number, the name and the height of the first."""
        number = len(self.data) + 1
        name = f"figure-{number}"
        first, *others = (embed.both(draw) for _, draw in gallery.drawings)
        self.data[name] = {**first, "others": [embed.alike(first, other) for other in others]}
        return {"number": number, "name": name, "height": first["figure"]["layout"]["height"]}

    def colours(self, place: float) -> str:
        """Return the colours of a rate in the light and the dark theme."""
        return f"--light:{heat(place, LIGHT)};--dark:{heat(place, DARK)}"

    def cells(self, table: DataTable) -> list[tuple[str, ...]]:
        """Return the texts of the rows, with numbers aligned at the decimal point."""
        if not table.rows:
            return []
        texts = zip(*(row.cells for row in table.rows), strict=True)
        aligned = [
            words.aligned(column) if head.number else column
            for head, column in zip(table.columns, texts, strict=True)
        ]
        return list(zip(*aligned, strict=True))
