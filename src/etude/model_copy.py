"""Copies of a network."""

from __future__ import annotations

import copy

from torch import nn


def copy_model(model: nn.Module) -> nn.Module:
    """Return a copy of a network, with nothing in common.

    On a GPU the weights of each recurrent layer lie in one memory, as in a network that was moved
    there: a plain copy lays each apart, and cuDNN would put them together at every pass, with a
    warning.

    >>> import torch
    >>> net = nn.LSTM(2, 3)
    >>> same = copy_model(net)
    >>> torch.equal(same.weight_ih_l0, net.weight_ih_l0), same.weight_ih_l0 is net.weight_ih_l0
    (True, False)
    """
    same = copy.deepcopy(model)
    for module in same.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return same
