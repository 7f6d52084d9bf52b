"""Task + Recipe -> Record: the plain loop, evaluation, checkpoints."""

from etude.torch_version import require_torch

require_torch()
