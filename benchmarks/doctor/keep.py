"""Keep what the probe read of a case, so that a rule can be tried again without training.

The files are in `cache/`, which git ignores; one is used as long as the case is the same.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.doctor.case import Case, Outcome
from benchmarks.doctor.judge import Score
from benchmarks.doctor.probe import LayerReading, Readings, UnitReading, readings
from benchmarks.doctor.setup import Setup

CACHE = Path(__file__).parent / "cache"


def digest(case: Case) -> str:
    """Return a short hash of a case's data, first weights, first outputs and numbers."""
    setup = case.setup()
    with case.seeded("run"):
        model = setup.model()
        first_output = shown(setup, model.eval())
    given = [
        (name, setup.given(name), setup.given(name.partition(".")[2]), p.requires_grad)
        for name, p in model.named_parameters()
    ]
    told = [
        setup.optimizer, setup.lr, sorted(map(str, setup.options.items())), setup.schedule,
        setup.steps, setup.batch, setup.clip, setup.accumulate, setup.bf16, setup.shuffle,
        setup.zero_grad, setup.train_mode, case.program.loop.__name__, str(model), given,
    ]  # fmt: skip
    found = hashlib.blake2b(repr(told).encode(), digest_size=8)
    for tensor in (*setup.train, *setup.valid, *model.state_dict().values(), *first_output):
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def shown(setup: Setup, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the output and the loss of a few training samples."""
    *inputs, target = (part[:4] for part in setup.train)
    if setup.kind == "points":
        output = model.get_submodule("discriminator")(inputs[0])
        return output, setup.loss(output, True)
    output = model(*inputs)
    return output, setup.loss(output, target)


@lru_cache(maxsize=4)
def kept(case: Case) -> Readings:
    """Return the readings of a case: from its file, or from a run that writes it."""
    path = CACHE / f"{case.name.replace('/', '+').replace(' ', '_')}.json.gz"
    told = digest(case)
    if path.exists():
        content = json.loads(gzip.decompress(path.read_bytes()))
        if content["digest"] == told:
            return _read(content)
    found = readings(case)
    CACHE.mkdir(exist_ok=True)
    content = {"digest": told, **asdict(found)}
    path.write_bytes(gzip.compress(json.dumps(content).encode(), 3))
    return found


def _read(content: dict[str, object]) -> Readings:
    plain: dict[str, dict[str, list[dict[str, float]]]] = content  # type: ignore[assignment]
    outcome: dict[str, object] = content["outcome"]  # type: ignore[assignment]
    return Readings(
        content["steps"],  # type: ignore[arg-type]
        {n: [LayerReading(**r) for r in row] for n, row in plain["layers"].items()},
        {n: [UnitReading(**r) for r in row] for n, row in plain["units"].items()},  # type: ignore[arg-type]
        [tuple(row) for row in content["epochs"]],  # type: ignore[attr-defined]
        Outcome(
            tuple(outcome["losses"]),  # type: ignore[arg-type]
            Score(**outcome["score"]),  # type: ignore[arg-type]
            outcome["seconds"],  # type: ignore[arg-type]
        ),
    )
