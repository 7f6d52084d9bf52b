"""`etude compress`: makes a trained network smaller, and trains it further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.options import choices
from etude.cli.terminal.interrupt import raise_on_interrupt
from etude.cli.terminal.method_output import show_found
from etude.errors import BadValueError

EPILOG = """[bold]Examples[/bold]

  etude compress runs/digits-cnn-20250101-120000 --prune 0.8

  etude compress runs/digits-cnn-20250101-120000 --structured 0.5 --budget 2

  etude compress runs/digits-mlp-20250101-120000 --int8 dynamic --out runs/small"""


PLACE = 30
"""The position in `etude --help`."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("compress", epilog=EPILOG, no_args_is_help=True)(compress)


def compress(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN", help="The folder of a finished run or tuning.", show_default=False
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Set this share of the weights to zero, such as 0.8."),
    ] = None,
    structured: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Remove this share of the channels of every layer, such as 0.5."
        ),
    ] = None,
    int8: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="Make weights int8, and the inputs of linear layers: dynamic, static or qat.",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            help="With --prune: look for the smallest weights over all layers (global, the "
            "default) or in each (layer)."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Of fine-tuning, in fine-tuning runs (default: 3.0); 0 for no fine-tuning."
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps",
            metavar="LENGTH",
            help="Length of one fine-tuning run, such as 600 or '5 epochs' (default: half of the "
            "run's).",
        ),
    ] = None,
    objective: choices.Objective = None,
    maximize: choices.Maximize = None,
    engine: choices.EngineName = None,
    device: Annotated[
        str | None, typer.Option(help="Where to fine-tune; sizes and times are the CPU's.")
    ] = None,
    own: Annotated[
        str | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="The task of the run, as file.py:name, if the folder's own cannot be used.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The folder to write (default: RUN-METHOD)."),
    ] = None,
    json: choices.Json = False,
) -> None:
    """Prune the network of RUN, or make it int8; show what that saves and what it costs.

    After pruning, and for int8 'qat', the network is trained further, at the rate and on the
    schedule that the tuner finds. Writes a folder with the network, which
    `etude.compression.load` reads, and a report.
    """
    from etude import tasks
    from etude.compression.compressing import compress as smaller
    from etude.compression.method import CompressionMethod
    from etude.storage.compressed_folder import CompressedFolder

    if run is None:
        raise BadValueError("no run: give the folder of a finished run")
    if prune is None and structured is None and int8 is None:
        raise BadValueError(
            "no method: give --prune SHARE (such as 0.8), --structured SHARE (such as 0.5) or "
            "--int8 dynamic, static or qat"
        )
    method = CompressionMethod.of(prune, structured, int8, scope)
    task = None if own is None else tasks.load(own)
    raise_on_interrupt()
    home = CompressedFolder(folder or _beside(run, str(method)))
    found = smaller(
        run,
        prune=prune,
        structured=structured,
        int8=int8,
        scope=scope,
        budget=budget,
        steps=choices.length(steps),
        task=task,
        folder=home.path,
        objective=objective,
        maximize=maximize,
        engine=engine,
        device=device,
        progress=False if json else None,
    )
    show_found(found, home, task, json=json)


def _beside(run: Path, method: str) -> Path:
    """Return a folder beside the run's, named after what is done.

    >>> _beside(Path("runs/a"), "prune 0.8 of each layer").as_posix()
    'runs/a-prune-0.8-of-each-layer'
    """
    home = run.resolve() if run.name in ("", "..") else run
    return home.with_name(f"{home.name}-{method.replace(' ', '-')}")
