"""Trains a task with a recipe: the plain loop, evaluation, checkpoints, the record."""

from etude.torch_version import require_torch

require_torch()
