"""PyTorch: a scheduler for any hyperparameter, and conversion of torch's own schedulers."""

from etude.interop.torch.convert import from_torch
from etude.interop.torch.scheduler import Scheduler, relative

__all__ = ["Scheduler", "from_torch", "relative"]
