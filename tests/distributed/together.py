"""Runs functions in several processes: `python -m tests.distributed.together OUT NAME ...`.

A name is that of a case, or module:function of a function that gets the world and returns a value.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

from etude.distributed import join, launch
from etude.training.train import train
from etude.training.world import SINGLE, World
from tests.distributed.equalities import CASES

TIMEOUT = 60.0


def result_of(name: str, world: World = SINGLE) -> dict[str, Any]:
    """Train a case, and return everything that must not depend on the number of processes."""
    task, recipe = CASES[name]()
    told: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = train(task, recipe, world=world, on_step=lambda state: told.append(state.step))
    assert record.model is not None
    return {
        "weights": {k: v.clone() for k, v in record.model.state_dict().items()},
        "series": {k: v.tolist() for k, v in record.series.items()},
        "evaluations": [(e.step, e.loss, e.metric, e.parts, e.weight) for e in record.evaluations],
        "status": str(record.status),
        "reason": record.reason,
        "gradients": record.cost.gradients,
        "steps": told[-1],
    }


def main(folder: str, *names: str) -> None:
    torch.set_num_threads(1)
    with join() as world:
        for name in names:
            module, colon, function = name.partition(":")
            try:
                if colon:
                    found = getattr(importlib.import_module(module), function)(world)
                else:
                    found = result_of(name, world)
            except Exception as error:  # noqa: BLE001 - it is what the test looks at
                found = {"error": error_of(error), "trace": traceback.format_exc()}
            place = Path(folder) / f"{name.replace(':', '.')}.{world.rank}"
            place.write_bytes(pickle.dumps(found))
            world.barrier()


def error_of(error: Exception) -> tuple[str, str]:
    return type(error).__name__, str(error)


def together(folder: Path, count: int, *names: str) -> dict[str, list[Any]]:
    """Return what each function returns in each of `count` processes."""
    said: list[str] = []
    command = [sys.executable, "-m", "tests.distributed.together", str(folder), *names]
    before = os.environ.get("PYTHONPATH")
    root = Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root)])
    try:
        code = launch(command, count, timeout=TIMEOUT, say=said.append)
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    assert code == 0, said
    return {
        name: [
            pickle.loads((folder / f"{name.replace(':', '.')}.{rank}").read_bytes())
            for rank in range(count)
        ]
        for name in names
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
