"""A copy of a Trainer whose methods can be called without changing the Trainer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import BadValueError
from etude.interop._peer import load
from etude.model_copy import copy_model


def network_of(trainer: Any) -> nn.Module:
    """Return a copy of a Trainer's model, prepared as `train` prepares it.

    Gradient checkpointing and NEFTune are enabled where the arguments ask for them, and the
    tokenizer's special tokens are entered.
    """
    network: nn.Module = copy_model(trainer.model)
    # An earlier `train` in mixed precision has wrapped `forward`.
    network = trainer.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    args = trainer.args
    if getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing:
        _enable_checkpointing(network, args)
    home = load("transformers.trainer")
    kinds = (home.PreTrainedTokenizerBase, home.ProcessorMixin)
    if isinstance(trainer.processing_class, kinds) and hasattr(network, "config"):
        home.align_special_tokens(network, trainer.processing_class)
    if trainer.neftune_noise_alpha is not None:
        home.activate_neftune(network, trainer.neftune_noise_alpha, trainer.accelerator)
    return network


def _enable_checkpointing(network: Any, args: Any) -> None:
    given = getattr(args, "activation_checkpointing_kwargs", None)
    options = dict(given or args.gradient_checkpointing_kwargs or {})
    spread = {
        "every_n_layers": options.pop("every_n_layers", 1),
        "offload": options.pop("offload", False),
    }
    if hasattr(network, "activation_checkpointing_enable"):
        network.activation_checkpointing_enable(
            activation_checkpointing_kwargs=options or None, **spread
        )
    elif hasattr(network, "gradient_checkpointing_enable"):
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options or None)
    else:
        raise BadValueError(
            f"gradient_checkpointing=True, but {type(network).__name__} has no "
            "gradient_checkpointing_enable: set gradient_checkpointing=False"
        )


class Unprepared:
    """An accelerator that wraps nothing; all else is the Trainer's own.

    Attributes:
        loaders: The data loaders that it was given to wrap.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.loaders: list[Any] = []

    def prepare(self, *parts: Any, **_: Any) -> Any:
        """Return what is given, as it is."""
        self.loaders += [p for p in parts if isinstance(p, torch.utils.data.DataLoader)]
        return parts[0] if len(parts) == 1 else parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)


def twin_of(trainer: Any, network: nn.Module) -> Any:
    """Return a copy of a Trainer with another model.

    It shares the Trainer's data, collator and functions, and has its own arguments, state and
    accelerator; it has no callbacks of its own, no optimizer, and logs nothing.
    """
    twin = copy.copy(trainer)
    twin.args = copy.copy(trainer.args)
    if not torch.accelerator.is_available():
        twin.args.dataloader_pin_memory = False  # it would only warn
    twin.model = twin.model_wrapped = network
    twin.optimizer = twin.lr_scheduler = None
    twin.accelerator = Unprepared(trainer.accelerator)
    twin.state, twin.control = copy.deepcopy(trainer.state), copy.deepcopy(trainer.control)
    handler, flow = type(trainer.callback_handler), load("transformers").DefaultFlowCallback
    twin.callback_handler = handler([flow], network, trainer.processing_class, None, None)
    twin.log = _log_nothing
    if type(trainer)._prepare_input is load("transformers").Trainer._prepare_input:
        twin._prepare_input = _as_it_is  # it would move a batch to the Trainer's device
    twin._get_num_items_in_batch = partial(_counted_there, twin._get_num_items_in_batch)
    return twin


def _as_it_is(data: Any) -> Any:
    """Stand in for `Trainer._prepare_input`: a batch is where the network is."""
    return data


def _counted_there(count: Callable[..., Any], batches: Any, device: torch.device) -> Any:
    """Count the items of batches where their labels are, not on the Trainer's device."""
    labels = batches[0].get("labels") if batches and isinstance(batches[0], Mapping) else None
    return count(batches, labels.device if isinstance(labels, Tensor) else device)


def _log_nothing(*_: Any, **__: Any) -> None:
    """Stands in for `Trainer.log`."""
