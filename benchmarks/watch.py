"""What watching costs: the time of an update with and without `etude.watch`, in one run.

Blocks of updates alternate between a bare loop, the watch at its default, and the watch at every
update; the median of the ratios of neighbouring blocks is reported. Every block goes on with the
same model, optimizer and data. The watches stay open from block to block, as they would in a long
run; while another block runs, theirs are detached.

    python -m benchmarks.watch

The results go to benchmarks/results/watch.json and watch.md.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import etude
from benchmarks import arguments

RESULTS = Path(__file__).parent / "results"
ROUNDS, SECONDS = 6, 0.5
"""How many rounds of blocks, and how long a block of the bare loop takes."""


class Words(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.body = nn.LSTM(64, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores."""
        found: Tensor = self.head(self.body(self.embed(tokens))[0][:, -1])
        return found


class Encoder(nn.Module):
    """A small transformer over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores."""
        found: Tensor = self.head(self.body(self.embed(tokens)).mean(1))
        return found


def mlp() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = [nn.Linear(512, 512), nn.ReLU()]
    layers += [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(2048, 512)


def cnn() -> tuple[nn.Module, Tensor]:
    def block(inward: int, outward: int) -> list[nn.Module]:
        conv = nn.Conv2d(inward, outward, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outward), nn.ReLU(), nn.MaxPool2d(2)]

    body = nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 64))
    head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 16, 10))
    return nn.Sequential(body, head), torch.randn(512, 3, 32, 32)


def lstm() -> tuple[nn.Module, Tensor]:
    return Words(), torch.randint(0, 100, (2048, 32))


def transformer() -> tuple[nn.Module, Tensor]:
    return Encoder(), torch.randint(0, 100, (2048, 32))


NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], int]] = {
    "MLP, width 512": (mlp, 128),
    "CNN": (cnn, 64),
    "LSTM": (lstm, 64),
    "transformer": (transformer, 32),
}


class Loop:
    """A bare loop with AdamW that goes on from block to block."""

    def __init__(self, build: Callable[[], tuple[nn.Module, Tensor]], batch: int) -> None:
        torch.manual_seed(0)
        self.model, self.inputs = build()
        self.targets = torch.randint(0, 10, (len(self.inputs),))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = batch

    def block(self, updates: int) -> float:
        """Do some updates; return the seconds of one, of this process alone."""
        started = time.process_time()
        for _ in range(updates):
            chosen = torch.randint(0, len(self.inputs), (self.batch,))
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(self.inputs[chosen]), self.targets[chosen])
            torch.autograd.backward(loss)
            self.optimizer.step()
        return (time.process_time() - started) / updates


def measure(name: str) -> dict[str, Any]:
    """Return milliseconds of a bare update, and the ratios of watched ones."""
    build, batch = NETWORKS[name]
    loop = Loop(build, batch)
    loop.block(5)
    updates = max(20, round(SECONDS / loop.block(10)))
    ratios: dict[str, list[float]] = {"default": [], "every update": []}
    samples: list[str] = []
    bare: list[float] = []
    for turn in range(ROUNDS):
        for label, every in (("default", None), ("every update", 1)):
            before = loop.block(updates)
            with etude.watch(loop.model, loop.optimizer, every=every, on_finding=_quiet) as w:
                loop.block(updates // 2)  # the first updates, which are sampled on credit
                watched = loop.block(updates)
            after = loop.block(updates)
            bare += [before, after]
            ratios[label].append(2 * watched / (before + after))
            if every is None and turn == ROUNDS - 1:
                samples = list(w.report().seen[:1])
    return {
        "network": name,
        "bare_ms": 1e3 * statistics.median(bare),
        "default": statistics.median(ratios["default"]),
        "every": statistics.median(ratios["every update"]),
        "spread": [_spread(ratios["default"]), _spread(ratios["every update"])],
        "sampled": samples[0] if samples else "",
    }


def _spread(values: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(values, n=4)
    return [low, high]


def _quiet(finding: object) -> None:
    """Tell nobody."""


def main() -> None:
    """Measure, print, and write the results."""
    torch.set_num_threads(1)
    rows = [measure(name) for name in NETWORKS]
    machine = (
        f"{os.cpu_count()} cores, one thread, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    lines = [
        "# What watching costs",
        "",
        f"{machine}; {ROUNDS} rounds of blocks of about {SECONDS:g} s, watched and unwatched in "
        f"turn, in seconds of the process; load average {os.getloadavg()[0]:.1f} at the end. "
        "Ratios are medians over rounds, with quartiles. "
        "Written by `python -m benchmarks.watch`.",
        "",
        "| network | bare update, ms | default | every update | sampled by default |",
        "|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {r['network']} | {r['bare_ms']:.2f} "
        f"| {r['default']:.3f} ({r['spread'][0][0]:.3f} to {r['spread'][0][1]:.3f}) "
        f"| {r['every']:.3f} ({r['spread'][1][0]:.3f} to {r['spread'][1][1]:.3f}) "
        f"| {r['sampled']} |"
        for r in rows
    ]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "watch.md").write_text("\n".join(lines) + "\n")
    content = {"machine": machine, "rows": rows}
    (RESULTS / "watch.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    arguments.read(__doc__)
    main()
