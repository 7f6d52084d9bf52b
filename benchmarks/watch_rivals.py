"""What torchmortem, trainscope and `wandb.watch` cost, measured like `etude.watch`.

Each is used as its documentation says, at its defaults; `wandb.watch` also with `log_freq=1`, as
its default reads the gradients once in a thousand updates. A loop with `wandb.watch` logs its loss
by `run.log` whether it is watched or not, so that only the watching counts. W&B writes to disk in a
process of its own, whose time is not counted.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from benchmarks.watch_loop import NETWORKS, Loop, spread
from etude.errors import MissingExtraError
from etude.interop._peer import load

Tools = Callable[[Loop, str], AbstractContextManager[None]]
"""(loop, folder) -> a block in which the loop is watched."""


@contextmanager
def torchmortem(loop: Loop, folder: str) -> Iterator[None]:
    """Watch by torchmortem, which is told the loss after each update."""
    with load("torchmortem").Autopsy(loop.model, optimizer=loop.optimizer) as autopsy:

        def tell(loss: Tensor) -> None:
            autopsy.step(loss=loss.item())

        with loop.told(after=tell):
            yield


@contextmanager
def trainscope(loop: Loop, folder: str, profile: str = "default") -> Iterator[None]:
    """Watch by trainscope, which is told the loss between the gradient and the step."""
    chosen = load("trainscope.core.config").load_config({"profile": profile, "run_dir": folder})
    scope = load("trainscope").TrainScope(loop.model, loop.optimizer, config=chosen).attach()

    def tell(loss: Tensor) -> None:
        scope.step(loss.item())

    try:
        with loop.told(before=tell):
            yield
    finally:
        scope.detach()


@contextmanager
def trainscope_minimal(loop: Loop, folder: str) -> Iterator[None]:
    """Watch by trainscope in its profile of the least cost."""
    with trainscope(loop, folder, "minimal"):
        yield


@contextmanager
def logged_by_wandb(loop: Loop, folder: str) -> Iterator[Any]:
    """Log the loss by W&B, offline; give its run."""
    wandb = load("wandb")
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
    with wandb.init(mode="offline", dir=folder, settings=settings) as run:

        def tell(loss: Tensor) -> None:
            run.log({"loss": loss.item()})

        with loop.told(after=tell):
            yield run


def wandb_watch(**options: Any) -> Tools:
    """Return a tool that watches by `wandb.watch`; it must be logged by W&B already."""

    @contextmanager
    def watched(loop: Loop, folder: str) -> Iterator[None]:
        run = load("wandb").run
        run.watch(loop.model, **options)
        try:
            yield
        finally:
            run.unwatch(loop.model)

    return watched


@contextmanager
def nothing(loop: Loop, folder: str) -> Iterator[None]:
    """Do nothing beside the loop."""
    yield


RIVALS: Mapping[str, tuple[Callable[..., AbstractContextManager[Any]], Tools]] = {
    "torchmortem": (nothing, torchmortem),
    "trainscope": (nothing, trainscope),
    "trainscope, minimal": (nothing, trainscope_minimal),
    "wandb.watch": (logged_by_wandb, wandb_watch()),
    "wandb.watch, log_freq=1": (logged_by_wandb, wandb_watch(log_freq=1)),
}
"""What goes on beside the bare loop and the watched one, and the watching."""


def cost(name: str, rival: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the ratio of a watched update to a bare one, with quartiles; or why there is none.

    Args:
        name: Of the network.
        rival: Of the tool.
        rounds: How many pairs of blocks.
        seconds: How long a block of the bare loop takes.
    """
    build, batch = NETWORKS[name]
    beside, watched = RIVALS[rival]
    loop = Loop(build, batch)
    loop.block(5)
    updates = max(20, round(seconds / loop.block(10)))
    ratios: list[float] = []
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder, beside(loop, folder):
            for _ in range(rounds):
                before = loop.block(updates)
                with watched(loop, folder):
                    loop.block(updates // 2)
                    during = loop.block(updates)
                ratios.append(2 * during / (before + loop.block(updates)))
    except MissingExtraError as error:
        return {"network": name, "tool": rival, "why_not": str(error)}
    except Exception as error:  # noqa: BLE001  (whatever the tool raises, there is no ratio)
        return {"network": name, "tool": rival, "why_not": f"{type(error).__name__}: {error}"}
    return {
        "network": name, "tool": rival, "ratio": statistics.median(ratios),
        "spread": spread(ratios),
    }  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the tools' own messages from the terminal, and W&B from asking anything."""
    os.environ.setdefault("WANDB_MODE", "offline")
    logging.getLogger("trainscope").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return a table in Markdown: tools by networks."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    found = {(row["tool"], row["network"]): row for row in rows}
    head = ["| tool | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    body = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        cells = []
        for name in names:
            row = found[tool, name]
            low, high = row.get("spread", (0, 0))
            told = f"{row['ratio']:.3f} ({low:.3f} to {high:.3f})" if "ratio" in row else "—"
            cells.append(told)
        body.append(f"| {tool} | " + " | ".join(cells) + " |")
    reasons = {f"{row['tool']}: {row['why_not']}" for row in rows if "why_not" in row}
    return head + body + [""] + sorted(reasons)
