"""The names of all files in a run folder and in the folder of a tuning, or of a grid.

```
run folder                       folder of a tuning
  recipe.toml                      recipe.toml          after it has finished
  task.json                        task.json
  fingerprint.json                 tuning.json          (grid.json, population.json)
  record.json                      record.json          after it has finished
  series.safetensors               series.safetensors
  notes.json                       notes.json           what observers noted, if they did
  model.safetensors                model.safetensors
  report.html                      report.html
  tensorboard/                     tensorboard/         event files of log="tensorboard"
  checkpoints/step-….json          trials/lr-…/         one run folder each,
  checkpoints/step-….safetensors   trials/lr-…/fold-…/  or one for each fold

folder of a compressed model
  compression.json                 how its weights are held, and what it cost
  task.json
  model.safetensors
  report.html
```
"""

from __future__ import annotations

import re

RECIPE = "recipe.toml"
"""The recipe. A run folder with this file is in use."""

TASK = "task.json"
"""The TaskRef of the task. Missing if the task has none."""

FINGERPRINT = "fingerprint.json"
"""The digests of the task's parts."""

RECORD = "record.json"
SERIES = "series.safetensors"
NOTES = "notes.json"
MODEL = "model.safetensors"
REPORT = "report.html"
TENSORBOARD = "tensorboard"

TUNING = "tuning.json"
"""The file that only the folder of a tuning has; a folder with this file is in use."""

GRID = "grid.json"
"""The same for the folder of a grid."""

COMPRESSION = "compression.json"
"""The file that only the folder of a compressed model has; it is written last."""

POPULATION = "population.json"
"""The same for the folder of a population."""

FILES = (
    RECIPE, TASK, FINGERPRINT, RECORD, SERIES, NOTES, MODEL, REPORT, TUNING, GRID, COMPRESSION,
    POPULATION,
)  # fmt: skip
"""All files that a folder may have."""

CHECKPOINTS = "checkpoints"
TRIALS = "trials"
FOLD = "fold-"

TREE, TENSORS = ".json", ".safetensors"
"""The endings of a checkpoint's two files."""

STEP = "step-"
_NUMBER = re.compile("[0-9]{12,18}")


def checkpoint_name(step: int) -> str:
    """Return the common name of a checkpoint's two files, without their endings.

    >>> checkpoint_name(20)
    'step-000000000020'
    """
    return f"{STEP}{step:012d}"


def step_of(stem: str) -> int | None:
    """Return the step in a checkpoint's name; None if it is not the name of a checkpoint.

    >>> step_of("step-000000000020"), step_of("step-20")
    (20, None)
    """
    number = stem.removeprefix(STEP)
    return int(number) if stem.startswith(STEP) and _NUMBER.fullmatch(number) else None
