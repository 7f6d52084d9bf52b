"""What rates by layer and gate cost: the same torch optimizer with and without multipliers.

One run measures both in turns, step by step, so that whatever else the machine does meets both;
the figure is the median of the ratios of neighbours:

    python -m benchmarks.layerwise

The results go to benchmarks/results/layerwise.json and layerwise.md.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from benchmarks import arguments
from etude.layerwise import apply
from etude.optimizers import build

RESULTS = Path(__file__).parent / "results"
GATES: dict[str, Any] = {"*[input]": 0.5, "*[forget]": 3.0, "*[cell]": 1.5, "*[output]": 0.7}
"""A multiplier of its own for every gate, so that three of the four are rescaled."""

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
"""Keeps freed memory in the process: giving a megabyte back and asking for it again costs more
than what is measured here, and falls on one side or the other by chance."""

Step = Callable[[], Any]


class Row(NamedTuple):
    """One measured comparison.

    Attributes:
        what: What is measured.
        case: On which model and optimizer.
        groups: Parameter groups with multipliers.
        plain: Seconds without multipliers, the median.
        extra: The median of the ratios of neighbours, less 1.
        bound: What is allowed, None where nothing was promised.
    """

    what: str
    case: str
    groups: int
    plain: float
    extra: float
    bound: float | None


class Reader(nn.Module):
    """A two-layer LSTM with a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, width) to (N, 10)."""
        y: Tensor = self.head(self.lstm(x)[0][:, -1])
        return y


def in_turns(plain: Step, other: Step, rounds: int) -> tuple[float, float]:
    """Return (median seconds of `plain`, median ratio of `other` to its neighbour, less 1)."""
    for _ in range(5):
        plain()
        other()
    times, ratios = [], []
    for index in range(rounds):
        order = (plain, other) if index % 2 else (other, plain)
        taken = {}
        for step in order:
            start = time.process_time()
            step()
            taken[step] = time.process_time() - start
        times.append(taken[plain])
        ratios.append(taken[other] / taken[plain])
    return statistics.median(times), statistics.median(ratios) - 1


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Step:
    """Return one whole training step: forward, backward, update."""
    y = torch.zeros(len(x), dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def gates() -> Iterator[Row]:
    """Yield the cost of a multiplier for every gate of a two-layer LSTM."""
    for width, batch, length in ((64, 64, 8), (128, 32, 64), (256, 32, 32)):
        for name, mode in (("adamw", {}), ("adamw", {"fused": True}), ("sgd", {})):
            kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
            model = Reader(width)
            own = copy.deepcopy(model)
            plain = kind(model.parameters(), lr=1e-4, **mode)
            sliced = kind(own.parameters(), lr=1e-4, **mode)
            apply(sliced, own, GATES)
            x = torch.randn(batch, length, width)
            rounds = 600 if width == 64 else 200
            seconds, extra = in_turns(
                training_step(model, plain, x), training_step(own, sliced, x), rounds
            )
            case = f"LSTM 2 × {width}, batch {batch} × {length}, {name}{' fused' if mode else ''}"
            yield Row("training step, every gate", case, len(sliced.param_groups), seconds, extra,
                      0.03)  # fmt: skip


def tower(layers: int) -> nn.Sequential:
    """Return full layers: two parameters each, with gradients."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers)))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def layers() -> Iterator[Row]:
    """Yield the cost of a rate per layer over 200 parameters, of the optimizer step alone."""
    cases: dict[str, tuple[Any, float | None]] = {
        "in 2 groups": ({"[0-4]?": 0.5}, 0.03),
        "in 4 groups": ({"[0-9]": 0.1, "[1-3]?": 0.3, "[4-6]?": 0.6}, 0.03),
        "in 100 groups": ("decay(0.99)", None),
    }
    for label, (rules, bound) in cases.items():
        for name, mode in (
            ("adamw", {}),
            ("adamw", {"foreach": True}),
            ("adamw", {"fused": True}),
            ("sgd", {"momentum": 0.9}),
        ):
            kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
            model, own = tower(100), tower(100)
            plain = kind(model.parameters(), lr=1e-4, **mode)
            split = kind(own.parameters(), lr=1e-4, **mode)
            apply(split, own, rules)
            seconds, extra = in_turns(plain.step, split.step, 600)
            words = " ".join(key for key in mode if key != "momentum")
            case = f"200 parameters, {name} {words}".strip()
            yield Row(f"optimizer step, {label}", case, len(split.param_groups), seconds, extra,
                      bound)  # fmt: skip


def construction() -> Iterator[Row]:
    """Yield the time to build an optimizer for 1,000 tensors, with and without multipliers."""
    model = tower(500)
    rules = {"[0-9]?": 0.5, "1??": 0.7}
    made = build("adamw", model, lr=1e-3, lr_mult=rules)
    choices: dict[str, dict[str, Any]] = {"one rate": {}, "with multipliers": {"lr_mult": rules}}
    for label, options in choices.items():
        times = []
        for _ in range(15):
            start = time.process_time()
            build("adamw", model, lr=1e-3, **options)
            times.append(time.process_time() - start)
        groups = len(made.param_groups) if options else 1
        yield Row("build", f"1,000 tensors, {label}", groups, statistics.median(times), 0.0, None)


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| what | case | groups | without | with multipliers | allowed |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        extra = "" if row.what == "build" else f"{100 * row.extra:+.1f}%"
        bound = "" if row.bound is None else f"{100 * row.bound:.0f}%"
        plain = f"{1e3 * row.plain:.3g} ms"
        lines.append(f"| {row.what} | {row.case} | {row.groups} | {plain} | {extra} | {bound} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the results."""
    if KEEP_MEMORY.keys() - os.environ.keys():
        # The allocator reads these when the process begins.
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.layerwise"],
                  {**os.environ, **KEEP_MEMORY})  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [*gates(), *layers(), *construction()]
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    RESULTS.mkdir(exist_ok=True)
    body = {"machine": machine, "rows": [row._asdict() for row in rows]}
    (RESULTS / "layerwise.json").write_text(json.dumps(body, indent=1) + "\n")
    head = (
        "# What rates by layer and gate cost\n\n"
        f"torch {machine['torch']}, Python {machine['python']}, {machine['machine']}, one thread. "
        "Both sides run in turns, measured in processor time, with memory that the process keeps; "
        "the extra cost is the median ratio of neighbours.\n\n"
    )
    (RESULTS / "layerwise.md").write_text(head + table(rows))
    print(table(rows))


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
