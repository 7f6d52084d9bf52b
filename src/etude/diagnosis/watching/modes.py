"""Whether a model is in evaluation mode although its updates depend on the mode."""

from __future__ import annotations

from torch import nn

from etude.torch_internals import DROPOUTS, RUNNING_NORMS


def left_in_evaluation(model: nn.Module) -> str:
    """Return the first layer whose mode is wrong during an update; '' if none is.

    A dropout, or a normalisation with running statistics, counts where the module that contains it
    has parameters that require a gradient: those of a frozen part may well be in evaluation mode.
    A model whose own `training` is True has chosen the modes of its layers on purpose.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    >>> left_in_evaluation(net), left_in_evaluation(net.eval())
    ('', '1')
    """
    if model.training:
        return ""
    for path, module in model.named_modules():
        if module.training or not _depends(module):
            continue
        parent = model.get_submodule(path.rpartition(".")[0])
        if any(parameter.requires_grad for parameter in parent.parameters()):
            return path or type(module).__name__
    return ""


def _depends(module: nn.Module) -> bool:
    if isinstance(module, DROPOUTS):
        return module.p > 0
    if isinstance(module, RUNNING_NORMS):
        return module.track_running_stats
    dropout = getattr(module, "dropout", 0.0)  # recurrent layers and attention have a share
    return isinstance(dropout, float) and dropout > 0
