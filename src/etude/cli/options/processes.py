"""Training in several processes: the options, and the world that a verb trains in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude.cli.terminal.console import err, out
from etude.errors import BadValueError

if TYPE_CHECKING:
    from etude.training.world import World

Count = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        metavar="N",
        help="Train in N processes of this machine, each on its share of every batch.",
        show_default=False,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices", metavar="LIST", help="With --nproc: their devices, as cuda:0,cuda:1."
    ),
]
Restarts = Annotated[
    int,
    typer.Option(
        "--restarts",
        metavar="N",
        help="With --nproc: start all again from the last checkpoint, up to N times, after one was "
        "killed or lost.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="With --nproc: count a process as lost that does not answer for so long "
        "(default: 600).",
        show_default=False,
    ),
]
FindUnused = Annotated[
    bool,
    typer.Option(
        "--find-unused",
        help="With --nproc: allow parameters that get no gradient in some processes.",
    ),
]

Shard = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="With --nproc: keep a part of every weight, gradient and moment in each process "
        "(fully_shard), for models whose training does not fit in one. Without the watch.",
    ),
]

TRAINS_TOGETHER = ("train", "tune", "diagnose")
"""The verbs that can train in several processes."""

_OWN = ("--nproc", "--restarts")
"""Options with a value for the process that starts the others."""


@dataclass(frozen=True)
class ProcessOptions:
    """The options of a verb about its processes, as they were typed.

    Attributes:
        count: The number of processes; None if it was not typed.
        devices: A list of devices.
        restarts: How often to start again.
        timeout: The time limit of a message in seconds.
        find_unused: Whether parameters may get no gradient in some processes.
        shard: Whether each process keeps a part of every weight.
    """

    count: int | None = None
    devices: str | None = None
    restarts: int = 0
    timeout: float | None = None
    find_unused: bool = False
    shard: bool = False

    @property
    def listed(self) -> list[str] | None:
        """The devices, one by one."""
        if self.devices is None:
            return None
        return [name.strip() for name in self.devices.split(",") if name.strip()]

    def refuse_alone(self) -> None:
        """Raise for options that mean nothing without `--nproc`.

        Raises:
            BadValueError: If one was typed.
        """
        typed = {
            "--devices": self.devices is not None,
            "--restarts": self.restarts != 0,
            "--timeout": self.timeout is not None,
            "--find-unused": self.find_unused,
            "--shard": self.shard,
        }
        for name, given in typed.items():
            if given:
                raise BadValueError(f"{name} is for several processes: give --nproc too")


def in_group() -> bool:
    """Whether another program has started this process as one of several."""
    return "RANK" in os.environ or "WORLD_SIZE" in os.environ


def mute_others(verb: str) -> None:
    """Let only the main process print, and refuse a verb that cannot train in several.

    Raises:
        BadValueError: If the verb would do everything in each process.
    """
    if not in_group():
        return
    if os.environ.get("RANK", "0").strip() not in ("", "0"):
        out.quiet = err.quiet = True
    if os.environ.get("WORLD_SIZE", "1").strip() not in ("", "1") and verb not in TRAINS_TOGETHER:
        raise BadValueError(
            f"`etude {verb}` trains in one process, and this is one of WORLD_SIZE="
            f"{os.environ['WORLD_SIZE']}: start it without torchrun. In several processes: "
            f"{', '.join(TRAINS_TOGETHER)}"
        )


@contextmanager
def world(
    context: typer.Context | None, options: ProcessOptions, device: str | None
) -> Iterator[World]:
    """Yield the world that a verb trains in; with `--nproc`, start the processes instead.

    Args:
        context: The context of the verb, which knows the arguments that were typed.
        options: The options about processes.
        device: The device that was typed.

    Raises:
        BadValueError: If options and environment contradict each other.
        typer.Exit: After the processes that were started have ended.
    """
    from etude.training.world import SINGLE

    if not in_group():
        if options.count is None or options.count == 1:
            if options.count is None:
                options.refuse_alone()
            yield SINGLE
            return
        raise typer.Exit(_start(context, options, device))
    from etude.distributed import join
    from etude.distributed.environment import ProcessPlace
    from etude.distributed.launcher import end_with_parent

    place = ProcessPlace.read()
    if options.count is not None:
        raise BadValueError(
            f"--nproc {options.count} would start processes, and this is one of several already "
            "(RANK or WORLD_SIZE is set): leave --nproc out"
        )
    end_with_parent()
    if place is not None:
        _share_threads(place.local_size)
    joined = join(
        device=device,
        devices=options.listed,
        timeout=options.timeout,
        find_unused=options.find_unused,
        shard=options.shard,
    )
    try:
        with joined.active():
            yield joined
    finally:
        joined.close()


def _share_threads(processes: int) -> None:
    """Let each process take its share of the cores, if nothing else is said."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _start(context: typer.Context | None, options: ProcessOptions, device: str | None) -> int:
    """Start the processes with the arguments that were typed; return their exit code."""
    from etude.cli.terminal.interrupt import raise_on_interrupt
    from etude.distributed.joining import check_devices
    from etude.distributed.launcher import launch

    assert options.count is not None
    check_devices(device, options.listed, options.count)
    raise_on_interrupt()
    typed = [] if context is None else list(context.meta.get("etude.arguments", ()))
    arguments = without_own(typed)
    if options.restarts and not any(_is(word, "--out", "--resume") for word in arguments):
        arguments += ["--out", str(_folder(context))]
    return launch(
        [sys.executable, "-m", "etude", *arguments],
        options.count,
        restarts=options.restarts,
        timeout=options.timeout,
        say=lambda text: err.print(f"etude: {text}", markup=False),
    )


def _folder(context: Any) -> Path:
    from etude.cli.options.choices import fresh_folder

    return fresh_folder(str(context.params.get("task") or "run"))


def _is(word: str, *options: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for option in options)


def without_own(arguments: list[str]) -> list[str]:
    """Return arguments without those for the process that starts the others.

    >>> without_own(["train", "digits-mlp", "--nproc", "2", "--lr=0.1", "--restarts=3"])
    ['train', 'digits-mlp', '--lr=0.1']
    """
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _OWN:
            next(words, None)
        elif not _is(word, *_OWN):
            kept.append(word)
    return kept


def restarted() -> bool:
    """Whether this process was started again after one of its group had failed."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0").strip() not in ("", "0")
