"""The names of everything that lies in a run folder or in the folder of a tuning.

```
run folder                       folder of a tuning
  recipe.toml                      recipe.toml          once it is finished
  task.json                        task.json
  fingerprint.json                 tuning.json          what was asked, digests, findings
  record.json                      record.json          once it is finished
  series.safetensors               series.safetensors
  model.safetensors                model.safetensors
  report.html                      report.html
  checkpoints/step-….json          trials/lr-…/         a run folder each,
  checkpoints/step-….safetensors   trials/lr-…/fold-…/  or one for each fold
```
"""

from __future__ import annotations

import re

RECIPE = "recipe.toml"
"""How to learn. A run folder is taken once this lies in it."""

TASK = "task.json"
"""What to learn: a TaskRef. Missing where the task has none."""

FINGERPRINT = "fingerprint.json"
"""Digests of the task's parts."""

RECORD = "record.json"
SERIES = "series.safetensors"
MODEL = "model.safetensors"
REPORT = "report.html"

TUNING = "tuning.json"
"""What only the folder of a tuning holds; it is taken once this lies in it."""

CHECKPOINTS = "checkpoints"
TRIALS = "trials"
FOLD = "fold-"

TREE, TENSORS = ".json", ".safetensors"
"""How the names of a checkpoint's two files end."""

STEP = "step-"
_NUMBER = re.compile("[0-9]{12,18}")


def checkpoint_name(step: int) -> str:
    """Return what a checkpoint's two files are called, without their endings.

    >>> checkpoint_name(20)
    'step-000000000020'
    """
    return f"{STEP}{step:012d}"


def step_of(stem: str) -> int | None:
    """Return the step that a checkpoint's name stands for; None if it is no such name.

    >>> step_of("step-000000000020"), step_of("step-20")
    (20, None)
    """
    number = stem.removeprefix(STEP)
    return int(number) if stem.startswith(STEP) and _NUMBER.fullmatch(number) else None
