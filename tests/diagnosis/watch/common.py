"""What the tests of the watch share."""

from __future__ import annotations

import torch

PLAIN = torch.autograd.backward, torch.amp.GradScaler.scale


def hooks_of(model, optimizer):
    return [
        *model._forward_hooks.values(),
        *model._forward_pre_hooks.values(),
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
    ]
