"""Digests of a task's parts, which show whether data, model or loss changed since a run."""

from __future__ import annotations

import functools
import hashlib
import inspect
import struct
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from etude.randomness import random_state_kept
from etude.tasks.references.bytecode import changes_in_place, global_names, has_docstring
from etude.tasks.sources.data import Data, DatasetData, NestedData, TensorData
from etude.tasks.sources.loaders import IterableData, LoaderData
from etude.tasks.task import Task

SAMPLED = 8
"""Number of items of a Dataset that are read, evenly spaced: reading all may take hours."""

WHOLE = 2**26
"""A tensor of up to this many numbers is read whole; of a larger one this many, in blocks."""

DEPTH = 6
"""How many levels of nested values, or of functions that call functions, are followed."""

DATA = ("train", "valid")
CODE = ("model", "loss", "step", "metric", "param_groups")

Parts = Mapping[str, str | None]


def fingerprint(task: Task) -> dict[str, str | None]:
    """Return a digest of each part of a task; None for a part that cannot be read reliably.

    Data: tensors are read whole (the largest in blocks), and eight items of a Dataset; an
    IterableDataset has no digest. Code: the compiled form is read, without comments and line
    numbers, with its constants, the values that it closes over or reads from its file, and the
    functions of the same file that it calls. Lists, tables and tensors that the code itself
    changes are left out. Model: its code, its modules and the shapes of its parameters are read,
    and its weights if the task's model is a network, not a function.

    Args:
        task: The task, as the user built it.

    Returns:
        Part -> digest, for 'train', 'valid', 'model', 'loss', 'step' and 'metric', for
        'param_groups' where the task has them; and the version of Python that compiled the code,
        under 'python'.

    >>> x = torch.zeros(8, 1)
    >>> task = Task(lambda: nn.Linear(1, 1), (x, x), loss=nn.functional.mse_loss)
    >>> one, two = (fingerprint(task) for _ in range(2))
    >>> one == two, one["step"]
    (True, 'none')
    """
    with random_state_kept(0):
        data = {name: _of_data(getattr(task, name)) for name in DATA}
    code = {
        "model": _digest(lambda hasher: _add_model(hasher, task)),
        "loss": _of_code(task.loss),
        "step": _of_code(task.step),
        "metric": _of_code(task.metric),
    }
    if task.param_groups is not None:
        code["param_groups"] = _of_code(task.param_groups)
    return {**data, **code, "python": ".".join(map(str, sys.version_info[:2]))}


def identified(task: Task) -> tuple[Task, Parts]:
    """Return the task, its reference with the digest of what it built, and its parts' digests.

    >>> x = torch.zeros(8, 1)
    >>> task = Task(lambda: nn.Linear(1, 1), (x, x), loss=nn.functional.mse_loss)
    >>> identified(task)[0].ref is None
    True
    """
    parts = fingerprint(task)
    if task.ref is None:
        return task, parts
    return task.known_as(task.ref.of_parts(parts), task.origin), parts


def changed(kept: Parts, now: Parts) -> list[str]:
    """Return the parts that differ; a part without a digest on either side is left out.

    >>> changed({"loss": "a", "train": None}, {"loss": "b", "train": "c"})
    ['loss']
    """
    same_python = kept.get("python") == now.get("python")
    names = (*DATA, *CODE) if same_python else DATA
    pairs = ((name, kept.get(name), now.get(name)) for name in names)
    return [
        name
        for name, before, after in pairs
        if before is not None and after is not None and before != after
    ]


class _Hasher:
    """Hashes values, each with its type and length, so that different values differ as bytes.

    `known` becomes False if a value cannot be read reliably.
    """

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.seen: set[int] = set()
        self.known = True

    def text(self, *texts: object) -> None:
        for text in texts:
            content = str(text).encode(errors="surrogatepass")
            self.hash.update(struct.pack("<q", len(content)) + content)

    def tensor(self, value: Tensor) -> None:
        value = value.detach()
        self.text("tensor", value.dtype, tuple(value.shape))
        if value.is_meta or value.layout is not torch.strided:
            self.known = False
            return
        flat = value.reshape(-1) if value.is_contiguous() else value.contiguous().reshape(-1)
        for block in _blocks(flat):
            numbers = block.cpu().contiguous()
            if numbers.numel():
                self.hash.update(numbers.view(torch.uint8).numpy().tobytes())

    def value(self, value: Any, depth: int = 0) -> None:
        """Add data; set `known` to False for a type whose content cannot be read."""
        if isinstance(value, Tensor):
            self.tensor(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            self.tensor(torch.from_numpy(np.array(value, order="C")))
        elif value is None or isinstance(
            value, (bool, int, float, complex, str, bytes, np.generic)
        ):
            self.text(type(value).__name__, repr(value))
        elif isinstance(value, Mapping) and depth < DEPTH:
            for key, item in value.items():
                self.text("key", key)
                self.value(item, depth + 1)
        elif isinstance(value, (tuple, list)) and depth < DEPTH:
            self.text(type(value).__name__, len(value))
            for item in value:
                self.value(item, depth + 1)
        else:
            self.text(type(value).__qualname__)
            self.known = False


def _digest(fill: Callable[[_Hasher], None]) -> str | None:
    hasher = _Hasher()
    try:
        fill(hasher)
    except Exception:  # noqa: BLE001 - the user's objects may raise anything: then no digest
        return None
    return hasher.hash.hexdigest() if hasher.known else None


def _blocks(flat: Tensor) -> Iterable[Tensor]:
    if flat.numel() <= WHOLE:
        return [flat]
    count, size = 64, WHOLE // 64
    starts = [(flat.numel() - size) * i // (count - 1) for i in range(count)]
    return (flat[start : start + size] for start in starts)


# ---- data --------------------------------------------------------------------------------------


def _of_data(data: Data) -> str | None:
    if isinstance(data, TensorData):
        return _digest(lambda hasher: hasher.value(data.tensors))
    if isinstance(data, NestedData):
        return _digest(lambda hasher: hasher.value(data.tree))
    if isinstance(data, DatasetData):
        return _sampled(data.dataset)
    if isinstance(data, LoaderData) and not isinstance(data, IterableData):
        if data.samples is None:
            return None
        loader = data.loader
        held = (loader.sampler, loader.batch_sampler, loader.collate_fn)
        way = _digest(lambda hasher: _add_drawing(hasher, held))
        return _sampled(loader.dataset, loader.batch_size, loader.drop_last, way)
    return None


def _add_drawing(hasher: _Hasher, parts: Iterable[Any]) -> None:
    """Add samplers and the collate function: their classes and settings, not their data."""
    for part in parts:
        if not isinstance(part, Sampler):
            _add_object(hasher, part, 0)
            continue
        hasher.text(_home(type(part).__module__), type(part).__qualname__)
        for name, setting in sorted(vars(part).items()):
            if isinstance(setting, (Tensor, np.ndarray, bool, int, float, str, list, tuple)):
                hasher.text(name)
                hasher.value(setting)


def _sampled(dataset: Any, *also: object) -> str | None:
    """Return a digest of a few items; None if an item differs when read again.

    Every item is read with the same random state.
    """

    def fill(hasher: _Hasher) -> None:
        count = len(dataset)
        hasher.text(count, *also)
        for i in {(count - 1) * k // (SAMPLED - 1) for k in range(SAMPLED)} if count else ():
            with random_state_kept(0):
                hasher.value(dataset[i])

    first = _digest(fill)
    return first if first == _digest(fill) else None


# ---- code --------------------------------------------------------------------------------------


def _of_code(part: object) -> str | None:
    if part is None:
        return "none"
    return _digest(lambda hasher: _add_object(hasher, part, 0))


def _add_model(hasher: _Hasher, task: Task) -> None:
    """Add a model: the code that builds it, its modules and their code, its parameters' shapes."""
    if isinstance(task.model, nn.Module):
        for name, value in task.model.state_dict().items():
            hasher.text(name)
            hasher.value(value)
    else:
        _add_object(hasher, task.model, 0)
    with random_state_kept(0):
        _add_network(hasher, task.build())


def _add_network(hasher: _Hasher, model: nn.Module) -> None:
    for name, module in model.named_modules():
        hasher.text(name, type(module).__qualname__, module.extra_repr())
        for key, value in sorted(vars(module).items()):
            if key != "training" and isinstance(value, (bool, int, float, str)):
                hasher.text(key, repr(value))
        _add_object(hasher, type(module), 0)
    for name, parameter in model.named_parameters():
        hasher.text(name, tuple(parameter.shape), parameter.dtype, parameter.requires_grad)


def _add_object(hasher: _Hasher, value: Any, depth: int) -> None:
    """Add a function, a class or an object, with its parts.

    An object whose attributes are not what tells it from others, such as one that holds a trainer,
    names its parts itself, by a method `identity_parts`.
    """
    if id(value) in hasher.seen or depth > DEPTH:
        return
    if isinstance(value, (FunctionType, type, MethodType)):
        hasher.seen.add(id(value))
    if isinstance(value, functools.partial):
        hasher.text("partial")
        for part in (value.func, *value.args, *value.keywords.values()):
            _add_object(hasher, part, depth + 1)
        hasher.text(*value.keywords)
    elif isinstance(value, MethodType):
        _add_object(hasher, value.__func__, depth + 1)
        _add_object(hasher, value.__self__, depth + 1)
    elif isinstance(value, FunctionType):
        _add_function(hasher, value, depth)
    elif isinstance(value, type):
        hasher.text(_home(value.__module__), value.__qualname__)
        if not _foreign(value.__module__):
            for name, member in sorted(vars(value).items()):
                inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
                setting = isinstance(inner, (bool, int, float, str, tuple))
                if isinstance(inner, FunctionType) or (setting and not name.startswith("__")):
                    hasher.text(name)
                    _add_object(hasher, inner, depth + 1)
    elif isinstance(value, nn.Module):
        _add_network(hasher, value)
        for name, tensor in value.state_dict().items():  # class weights, for instance
            hasher.text(name)
            hasher.tensor(tensor)
    elif isinstance(value, (Tensor, np.ndarray, bool, int, float, complex, str, bytes, type(None))):
        hasher.value(value)
    elif isinstance(value, (tuple, list)):
        hasher.text(type(value).__name__, len(value))
        for item in value:
            _add_object(hasher, item, depth + 1)
    elif isinstance(value, Mapping):
        hasher.text("mapping", len(value))
        for key, item in value.items():
            hasher.text(repr(key) if isinstance(key, SIMPLE) else type(key).__qualname__)
            _add_object(hasher, item, depth + 1)
    elif isinstance(value, (set, frozenset)):
        hasher.text("set", *sorted(repr(item) for item in value if isinstance(item, SIMPLE)))
    elif inspect.isbuiltin(value) or isinstance(value, ModuleType):
        hasher.text(
            getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__)
        )
    elif hasattr(type(value), "identity_parts"):
        _add_object(hasher, type(value), depth + 1)
        for part in value.identity_parts():
            _add_object(hasher, part, depth + 1)
    else:
        _add_object(hasher, type(value), depth + 1)
        for name, attribute in _attributes(value):
            hasher.text(name)
            _add_object(hasher, attribute, depth + 1)


SIMPLE = (bool, int, float, complex, str, bytes, type(None))
"""Types whose repr is the same in every process."""


def _attributes(value: object) -> list[tuple[str, Any]]:
    """Return the attributes of an object, from `__dict__` and slots, sorted by name."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    return sorted(
        {**getattr(value, "__dict__", {}), **{n: getattr(value, n) for n in slots}}.items()
    )


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _add_function(hasher: _Hasher, function: FunctionType, depth: int) -> None:
    hasher.text(_home(function.__module__), function.__qualname__)
    if _foreign(function.__module__):
        return
    _add_code(hasher, function.__code__)
    for default in function.__defaults__ or ():
        _add_object(hasher, default, depth + 1)
    for name, default in (function.__kwdefaults__ or {}).items():
        hasher.text(name)
        _add_object(hasher, default, depth + 1)
    changes = changes_in_place(function.__code__)
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if not (changes and isinstance(content, MUTABLE)):
            _add_held(hasher, content, depth)
    read, stored = global_names(function.__code__)
    for name in sorted(read - stored):
        value = function.__globals__.get(name)
        if _kept(value, function.__module__) and not (changes and isinstance(value, MUTABLE)):
            hasher.text(name)
            _add_global(hasher, value, function.__module__, depth)


MUTABLE = (list, dict, set, Tensor, np.ndarray)
"""Types that code may change while it runs; the content of such a value is then left out."""

KEPT = (
    *(FunctionType, BuiltinFunctionType, type, functools.partial, nn.Module, SimpleNamespace),
    *(Namespace, bool, int, float, complex, str, bytes, tuple, frozenset, *MUTABLE),
)
"""Types of a file's global values that are added if a function of the file reads them."""


def _kept(value: Any, module: str | None) -> bool:
    """Return whether a global value is added: a plain value, or one that the file defines."""
    own = callable(value) and type(value).__module__ == module
    return own or isinstance(value, KEPT)


def _add_global(hasher: _Hasher, value: Any, module: str | None, depth: int) -> None:
    """Add a global value; of a function or class from another file, only its name."""
    if isinstance(value, (FunctionType, type)) and value.__module__ != module:
        hasher.text(value.__module__, value.__qualname__)
    else:
        _add_held(hasher, value, depth)


def _add_held(hasher: _Hasher, value: Any, depth: int) -> None:
    """Add a value that a function refers to; of a network, the weights that do not train."""
    if not isinstance(value, nn.Module) or next(value.parameters(), None) is None:
        _add_object(hasher, value, depth + 1)
        return
    for name, parameter in value.named_parameters():
        hasher.text(name, tuple(parameter.shape))
        if not parameter.requires_grad:
            hasher.tensor(parameter)


def _add_code(hasher: _Hasher, code: CodeType) -> None:
    hasher.text(code.co_code.hex(), *code.co_names, *code.co_varnames)
    for constant in code.co_consts[1 if has_docstring(code) else 0 :]:
        if isinstance(constant, CodeType):
            _add_code(hasher, constant)
        elif isinstance(constant, frozenset):
            hasher.text(sorted(map(repr, constant)))  # its order differs between processes
        else:
            hasher.text(type(constant).__name__, repr(constant))


def _home(module: str | None) -> str:
    """Return the name of a module of a package; empty for a user's file, whose name varies.

    Such a file is `__main__` if run as a script, and has other names if imported or loaded.
    """
    return module if module and _foreign(module) else ""


def _foreign(module: str | None) -> bool:
    """Return whether a module belongs to Python, Etude or an installed package."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    found = sys.modules.get(top)
    place = str(getattr(found, "__file__", "") or "")
    return top == "etude" or "site-packages" in place or "dist-packages" in place
