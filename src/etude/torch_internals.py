"""All private parts of torch that Etude uses, with replacements for versions without them.

Names that start with an underscore, and parts that torch calls experimental, may change in any
release. Each is used only here, in a function that documents its use, and
`tests/test_torch_internals.py` tests what each must do. Etude works without some parts (functions
over lists of tensors, base classes, workers, compiling); if another part is missing, the error
names the version of torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from etude.errors import MissingExtraError
from etude.torch_version import newest_tried
from etude.warning_filters import logger_kept

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
    from torch.nn.modules.conv import _ConvNd
    from torch.nn.modules.dropout import _DropoutNd

DYNAMO = "torch._dynamo"  # the module that torch loads with the first thing that is compiled

# ---- access to a part ----------------------------------------------------------------------


def _missing(part: str) -> MissingExtraError:
    newest = newest_tried()
    return MissingExtraError(
        f"torch {torch.__version__} has no {part}, which Etude needs; the newest torch that "
        f"Etude was tested with is {newest}: pip install 'torch=={newest}.*'"
    )


def _part(owner: Any, name: str, label: str) -> Any:
    """Return a private attribute.

    Raises:
        MissingExtraError: If this torch has no such part; the message names its version.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise _missing(f"{label}.{name}") from error


def _classes(module: str, private: str, *public: type[nn.Module]) -> tuple[Any, ...]:
    """Return a private base class, from which other packages derive too, and torch's classes."""
    base = getattr(importlib.import_module(f"torch.nn.modules.{module}"), private, None)
    return public if base is None else (base, *public)


# ---- kinds of modules ----------------------------------------------------------------------

CONVOLUTIONS: tuple[type[_ConvNd], ...] = _classes(
    "conv", "_ConvNd",
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""The classes of convolutions, with transposed ones."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

BATCH_NORMS: tuple[type[_BatchNorm], ...] = _classes("batchnorm", "_BatchNorm", *_BATCH_NORMS)
"""The classes of batch normalisations."""

RUNNING_NORMS: tuple[type[_NormBase], ...] = _classes(
    "batchnorm", "_NormBase",
    *_BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
"""The classes of normalisations that may have running statistics."""

DROPOUTS: tuple[type[_DropoutNd], ...] = _classes(
    "dropout", "_DropoutNd",
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
"""The classes of dropouts."""


# ---- modules -------------------------------------------------------------------------------


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return the dictionary of a module's own parameters; values may be None."""
    return cast("dict[str, nn.Parameter | None]", _part(module, "_parameters", "nn.Module"))


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the dictionary of a module's own buffers, also those that are None, to set them."""
    return cast("dict[str, Tensor | None]", _part(module, "_buffers", "nn.Module"))


def unsaved_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's buffers that are not in its `state_dict`."""
    return cast("set[str]", _part(module, "_non_persistent_buffers_set", "nn.Module"))


def flat_weights(layer: nn.RNNBase) -> list[Tensor | None]:
    """Return the list of tensors that a recurrent layer computes with, to set them."""
    return cast("list[Tensor | None]", _part(layer, "_flat_weights", "nn.RNNBase"))


def flat_names(layer: nn.RNNBase) -> list[str]:
    """Return the names of the tensors in `flat_weights`, in order."""
    return cast("list[str]", _part(layer, "_flat_weights_names", "nn.RNNBase"))


def forward_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """Return the dictionaries of the hooks before and after a module's own forward pass."""
    return [_part(module, n, "nn.Module") for n in ("_forward_pre_hooks", "_forward_hooks")]


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module was created by `torch.compile`."""
    return hasattr(module, "_orig_mod")


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module inside one that `torch.compile` created; another module as it is."""
    found: nn.Module = getattr(module, "_orig_mod", module)
    return found


def compiles(module: nn.Module) -> bool:
    """Return whether calls of a module, or of one inside it, go through `torch.compile`."""
    return any(
        is_compiled(one) or getattr(one, "_compiled_call_impl", None) is not None
        or hasattr(type(one).forward, "_torchdynamo_orig_callable") for one in module.modules()
    )  # fmt: skip


# ---- tensors -------------------------------------------------------------------------------


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor, or one that shares its memory, was changed in place."""
    return cast("int", _part(tensor, "_version", "Tensor"))


def negated_view(tensor: Tensor) -> Tensor:
    """Return a view of the negated tensor, as torch's lazy negation does."""
    return cast("Tensor", _part(torch, "_neg_view", "torch")(tensor))


def sparse_parts(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices and values of a sparse_coo tensor, coalesced or not."""
    return _part(tensor, "_indices", "Tensor")(), _part(tensor, "_values", "Tensor")()


# ---- functions over lists of tensors ---------------------------------------------------------

_FOREACH = (
    "add", "add_", "addcdiv_", "addcmul_", "clamp_max_", "clamp_min_", "copy_", "div", "div_",
    "lerp_", "mul_", "norm", "reciprocal_", "sqrt", "sqrt_", "sub",
)  # fmt: skip


def _one_by_one(name: str) -> Callable[..., Any]:
    """Return a function over lists of tensors that calls the method of each tensor."""

    def call(tensors: Sequence[Tensor], *args: Any, **options: Any) -> list[Tensor]:
        rows = [arg if isinstance(arg, (list, tuple)) else [arg] * len(tensors) for arg in args]
        with torch.no_grad():
            return [
                getattr(own, name)(*others, **options)
                for own, *others in zip(tensors, *rows, strict=True)
            ]

    return call


def _over_lists(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(torch, f"_foreach_{name}", None)
    return _one_by_one(name) if found is None else found


foreach: Any = SimpleNamespace(**{name: _over_lists(name) for name in _FOREACH})
"""`torch._foreach_*` without the prefix: one call for all tensors of a list.

If torch has no such function, the tensors are processed one by one.
"""


# ---- the data loader -------------------------------------------------------------------------


def end_workers(batches: object) -> None:
    """End the worker processes of an iterator over a DataLoader, if it has any."""
    end = getattr(batches, "_shutdown_workers", None)
    if end is not None:
        end()


# ---- the autograd graph ----------------------------------------------------------------------


def kept_for_backward(node: Any, name: str) -> Any:
    """Return what a node, a tensor's `grad_fn`, keeps under a name such as 'target'; or None."""
    try:
        return getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # a backward pass was made already
        return None


def shape_made_by(node: Any) -> tuple[int, ...] | None:
    """Return the shape of the tensor that a node of the graph made; None if torch does not tell."""
    told = getattr(node, "_input_metadata", None)
    return tuple(told[0].shape) if told else None


# ---- schedulers ------------------------------------------------------------------------------


def parts_of(scheduler: Any) -> list[Any]:
    """Return the schedulers in a `SequentialLR` or `ChainedScheduler`."""
    return list(_part(scheduler, "_schedulers", type(scheduler).__name__))


def milestones_of(scheduler: Any) -> list[int]:
    """Return the steps at which a `SequentialLR` changes to its next part."""
    return list(_part(scheduler, "_milestones", "SequentialLR"))


def own_scale_of(scheduler: Any) -> Any:
    """Return the user's `scale_fn` of a `CyclicLR`; None if it uses one of its modes."""
    return _part(scheduler, "_scale_fn_custom", "CyclicLR")


def annealing_of(scheduler: Any) -> str:
    """Return the interpolation of a `OneCycleLR`: 'cos' or 'linear'."""
    return str(_part(scheduler, "_anneal_func_type", "OneCycleLR"))


def phases_of(scheduler: Any) -> list[dict[str, Any]]:
    """Return the two or three parts of a `OneCycleLR`, each with its 'end_step'."""
    return list(_part(scheduler, "_schedule_phases", "OneCycleLR"))


class ComposableScheduler(LRScheduler):
    """A base class for schedulers that torch's compositions can contain.

    `SequentialLR` and `ChainedScheduler` read `_last_lr` of their parts, and call `_update_lr`;
    `LRScheduler` counts its calls in `_step_count`, which is part of its saved state.
    """

    @property
    def _calls(self) -> int:
        """The number of steps, including its construction; 0 before that."""
        return int(getattr(self, "_step_count", 0))

    @_calls.setter
    def _calls(self, count: int) -> None:
        self._step_count = count

    @property
    def _last_lr(self) -> list[float | Tensor]:  # type: ignore[override]
        return self.get_last_lr()

    def _update_lr(self, epoch: int | None = None) -> None:
        self.follow(epoch)

    def follow(self, step: int | None) -> None:
        """Go to a step, or to the next if it is None; torch's compositions call this."""
        raise NotImplementedError


# ---- nested values ---------------------------------------------------------------------------


def flattened(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested lists, tuples, mappings and named tuples, and the structure."""
    leaves, shape = _pytree("tree_flatten")(tree)
    return leaves, shape


def unflattened(leaves: Sequence[Any], shape: Any) -> Any:
    """Build the nested value that `flattened` took apart, with other leaves."""
    return _pytree("tree_unflatten")(leaves, shape)


def leaves_of(tree: Any) -> list[Any]:
    """Return the leaves of a nested value."""
    found: list[Any] = _pytree("tree_leaves")(tree)
    return found


def _pytree(name: str) -> Callable[..., Any]:
    return _function("torch.utils._pytree", name)


def _function(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that is private, or that not all versions have."""
    try:
        found: Callable[..., Any] = _part(importlib.import_module(module), name, module)
    except ImportError as error:
        raise _missing(module) from error
    return found


# ---- tracing and compiling -------------------------------------------------------------------


def traced(function: Callable[..., Any], leaves: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Return the operations of a function of tensors as a graph."""
    found: torch.fx.GraphModule
    found = _function("torch.fx.experimental.proxy_tensor", "make_fx")(function)(*leaves)
    return found


def compiled(graph: torch.fx.GraphModule, leaves: list[Any]) -> Callable[..., Any]:
    """Return a graph compiled by torch's inductor, after one call.

    The compiler's warnings are not shown, since Etude continues without compiling if it fails. The
    user's settings of its logger are kept.
    """
    with logger_kept("torch._inductor"), torch.no_grad():
        found: Callable[..., Any] = _function("torch._inductor", "compile")(graph, leaves)
        found(*leaves)  # compiles what is compiled at the first call
    return found


def forget_compiler_threads() -> None:
    """Make the compiler create new threads in a forked process, which has the pool without them.

    torch resets its pool of processes after a fork, but not its pool of threads: a forked process
    that compiles a new shape would wait for a thread forever. A version of torch that keeps its
    threads elsewhere is not changed.
    """
    compiler = sys.modules.get("torch._inductor.async_compile")
    pool: Any = getattr(getattr(compiler, "AsyncCompile", None), "pool", None)
    getattr(pool, "cache_clear", lambda: None)()
