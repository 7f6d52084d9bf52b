"""What a task is made of, as digests: whether data, model or loss are still those of a run."""

from __future__ import annotations

import dis
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
from etude.tasks.data import Data, DatasetData, TensorData
from etude.tasks.loaders import IterableData, LoaderData
from etude.tasks.task import Task

SAMPLED = 8
"""Items of a Dataset that are read, evenly spread: reading all of them may take hours."""

WHOLE = 2**26
"""Numbers of a tensor that are all read; of a larger one as many, in evenly spread blocks."""

DEPTH = 6
"""How far functions that call functions are followed."""

DATA = ("train", "valid")
CODE = ("model", "loss", "step", "metric")

Parts = Mapping[str, str | None]


def fingerprint(task: Task) -> dict[str, str | None]:
    """Return a digest of each part of a task; None where it cannot tell.

    Tensors are read whole (the largest in blocks), of a Dataset eight items, of an
    IterableDataset nothing: None. Of code the compiled form counts, without comments and line
    numbers, with the constants, the values it closes over or reads from its file, and the
    functions of the same file that it calls; lists, tables and tensors that it changes itself do
    not count. Of the model also its modules and the shapes of its parameters, and where the task's
    model is a network, not a function, its weights.

    Args:
        task: As the user gave it.

    Returns:
        By part: 'train', 'valid', 'model', 'loss', 'step', 'metric', and the version of Python
        that compiled the code.

    >>> x = torch.zeros(8, 1)
    >>> task = Task(lambda: nn.Linear(1, 1), (x, x), loss=nn.functional.mse_loss)
    >>> one, two = (fingerprint(task) for _ in range(2))
    >>> one == two, one["step"]
    (True, 'none')
    """
    with random_state_kept(0):
        data = {name: _of_data(getattr(task, name)) for name in DATA}
    code = {
        "model": _digest(lambda put: _put_model(put, task)),
        "loss": _of_code(task.loss),
        "step": _of_code(task.step),
        "metric": _of_code(task.metric),
    }
    return {**data, **code, "python": ".".join(map(str, sys.version_info[:2]))}


def changed(kept: Parts, now: Parts) -> list[str]:
    """Return the parts that are known to differ; what either side cannot tell is left out.

    >>> changed({"loss": "a", "train": None}, {"loss": "b", "train": "c"})
    ['loss']
    """
    same_python = kept.get("python") == now.get("python")
    names = (*DATA, *CODE) if same_python else DATA
    pairs = ((name, kept.get(name), now.get(name)) for name in names)
    return [name for name, one, two in pairs if one is not None and two is not None and one != two]


class _Put:
    """Takes values into a digest, each with its kind, so that no two ways of writing meet."""

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
        """Take in data, or say that it cannot be told."""
        if isinstance(value, Tensor):
            self.tensor(value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            self.tensor(torch.from_numpy(np.array(value, order="C")))
        elif value is None or isinstance(
            value, (bool, int, float, complex, str, bytes, np.generic)
        ):
            self.text(type(value).__name__, repr(value))
        elif isinstance(value, Mapping) and depth < DEPTH:
            for key, one in value.items():
                self.text("key", key)
                self.value(one, depth + 1)
        elif isinstance(value, (tuple, list)) and depth < DEPTH:
            self.text(type(value).__name__, len(value))
            for one in value:
                self.value(one, depth + 1)
        else:
            self.text(type(value).__qualname__)
            self.known = False


def _digest(fill: Callable[[_Put], None]) -> str | None:
    put = _Put()
    try:
        fill(put)
    except Exception:  # noqa: BLE001 - whatever the user's objects do: then it cannot be told
        return None
    return put.hash.hexdigest() if put.known else None


def _blocks(flat: Tensor) -> Iterable[Tensor]:
    if flat.numel() <= WHOLE:
        return [flat]
    count, size = 64, WHOLE // 64
    starts = [(flat.numel() - size) * i // (count - 1) for i in range(count)]
    return (flat[start : start + size] for start in starts)


# ---- data --------------------------------------------------------------------------------------


def _of_data(data: Data) -> str | None:
    if isinstance(data, TensorData):
        return _digest(lambda put: put.value(data.tensors))
    if isinstance(data, DatasetData):
        return _sampled(data.dataset)
    if isinstance(data, LoaderData) and not isinstance(data, IterableData):
        if data.samples is None:
            return None
        loader = data.loader
        held = (loader.sampler, loader.batch_sampler, loader.collate_fn)
        way = _digest(lambda put: _put_drawing(put, held))
        return _sampled(loader.dataset, loader.batch_size, loader.drop_last, way)
    return None


def _put_drawing(put: _Put, parts: Iterable[Any]) -> None:
    """Take in what draws and joins samples: its kind and settings, not the data it holds."""
    for part in parts:
        if not isinstance(part, Sampler):
            _put_object(put, part, 0)
            continue
        put.text(_home(type(part).__module__), type(part).__qualname__)
        for name, one in sorted(vars(part).items()):
            if isinstance(one, (Tensor, np.ndarray, bool, int, float, str, list, tuple)):
                put.text(name)
                put.value(one)


def _sampled(dataset: Any, *also: object) -> str | None:
    """Read a few items, each from the same random state; if one differs when read again: None."""

    def fill(put: _Put) -> None:
        count = len(dataset)
        put.text(count, *also)
        for i in {(count - 1) * k // (SAMPLED - 1) for k in range(SAMPLED)} if count else ():
            with random_state_kept(0):
                put.value(dataset[i])

    first = _digest(fill)
    return first if first == _digest(fill) else None


# ---- code --------------------------------------------------------------------------------------


def _of_code(part: object) -> str | None:
    if part is None:
        return "none"
    return _digest(lambda put: _put_object(put, part, 0))


def _put_model(put: _Put, task: Task) -> None:
    """Take in a model: what builds it, its modules, their code, and its parameters' shapes."""
    if isinstance(task.model, nn.Module):
        for name, value in task.model.state_dict().items():
            put.text(name)
            put.value(value)
    else:
        _put_object(put, task.model, 0)
    with random_state_kept(0):
        _put_network(put, task.build())


def _put_network(put: _Put, model: nn.Module) -> None:
    for name, module in model.named_modules():
        put.text(name, type(module).__qualname__, module.extra_repr())
        for key, value in sorted(vars(module).items()):
            if key != "training" and isinstance(value, (bool, int, float, str)):
                put.text(key, repr(value))
        _put_object(put, type(module), 0)
    for name, parameter in model.named_parameters():
        put.text(name, tuple(parameter.shape), parameter.dtype, parameter.requires_grad)


def _put_object(put: _Put, value: Any, depth: int) -> None:
    """Take in what is called: a function, a class, an object, with what it is made of."""
    if id(value) in put.seen or depth > DEPTH:
        return
    if isinstance(value, (FunctionType, type, MethodType)):
        put.seen.add(id(value))
    if isinstance(value, functools.partial):
        put.text("partial")
        for one in (value.func, *value.args, *value.keywords.values()):
            _put_object(put, one, depth + 1)
        put.text(*value.keywords)
    elif isinstance(value, MethodType):
        _put_object(put, value.__func__, depth + 1)
        _put_object(put, value.__self__, depth + 1)
    elif isinstance(value, FunctionType):
        _put_function(put, value, depth)
    elif isinstance(value, type):
        put.text(_home(value.__module__), value.__qualname__)
        if not _foreign(value.__module__):
            for name, member in sorted(vars(value).items()):
                inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
                setting = isinstance(inner, (bool, int, float, str, tuple))
                if isinstance(inner, FunctionType) or (setting and not name.startswith("__")):
                    put.text(name)
                    _put_object(put, inner, depth + 1)
    elif isinstance(value, nn.Module):
        _put_network(put, value)
        for name, tensor in value.state_dict().items():  # class weights, for instance
            put.text(name)
            put.tensor(tensor)
    elif isinstance(value, (Tensor, np.ndarray, bool, int, float, complex, str, bytes, type(None))):
        put.value(value)
    elif isinstance(value, (tuple, list)):
        put.text(type(value).__name__, len(value))
        for one in value:
            _put_object(put, one, depth + 1)
    elif isinstance(value, Mapping):
        put.text("mapping", len(value))
        for key, one in value.items():
            put.text(repr(key) if isinstance(key, SIMPLE) else type(key).__qualname__)
            _put_object(put, one, depth + 1)
    elif isinstance(value, (set, frozenset)):
        put.text("set", *sorted(repr(one) for one in value if isinstance(one, SIMPLE)))
    elif inspect.isbuiltin(value) or isinstance(value, ModuleType):
        put.text(getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
    else:
        _put_object(put, type(value), depth + 1)
        for name, one in _attributes(value):
            put.text(name)
            _put_object(put, one, depth + 1)


SIMPLE = (bool, int, float, complex, str, bytes, type(None))
"""What reads the same in every process."""


def _attributes(value: object) -> list[tuple[str, Any]]:
    """Return what an object holds, in `__dict__` or in slots, by name."""
    slots = [name for one in type(value).__mro__ for name in _slots(one) if hasattr(value, name)]
    return sorted(
        {**getattr(value, "__dict__", {}), **{n: getattr(value, n) for n in slots}}.items()
    )


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _put_function(put: _Put, function: FunctionType, depth: int) -> None:
    put.text(_home(function.__module__), function.__qualname__)
    if _foreign(function.__module__):
        return
    _put_code(put, function.__code__)
    for default in function.__defaults__ or ():
        _put_object(put, default, depth + 1)
    for name, default in (function.__kwdefaults__ or {}).items():
        put.text(name)
        _put_object(put, default, depth + 1)
    changes = _changes(function.__code__)
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if not (changes and isinstance(content, MUTABLE)):
            _put_held(put, content, depth)
    read, stored = _globals(function.__code__)
    for name in sorted(read - stored):
        value = function.__globals__.get(name)
        if _kept(value, function.__module__) and not (changes and isinstance(value, MUTABLE)):
            put.text(name)
            _put_global(put, value, function.__module__, depth)


MUTABLE = (list, dict, set, Tensor, np.ndarray)
"""What code may change while it runs: then its content is no part of what the code is."""

KEPT = (
    *(FunctionType, BuiltinFunctionType, type, functools.partial, nn.Module, SimpleNamespace),
    *(Namespace, bool, int, float, complex, str, bytes, tuple, frozenset, *MUTABLE),
)
"""What is taken in where a function reads it from its file."""


def _kept(value: Any, module: str | None) -> bool:
    """Return whether what a function reads is taken in: plain values, and what the file defines."""
    own = callable(value) and type(value).__module__ == module
    return own or isinstance(value, KEPT)


CHANGING = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "add", "discard"),
    *("update", "setdefault", "popitem"),
}
"""Methods that change a list, a table or a set."""


def _put_global(put: _Put, value: Any, module: str | None, depth: int) -> None:
    """Take in what a function reads from its file; of what other files define, which it is."""
    if isinstance(value, (FunctionType, type)) and value.__module__ != module:
        put.text(value.__module__, value.__qualname__)
    else:
        _put_held(put, value, depth)


def _put_held(put: _Put, value: Any, depth: int) -> None:
    """Take in what a function holds; of a network what does not move while it trains."""
    if not isinstance(value, nn.Module) or next(value.parameters(), None) is None:
        _put_object(put, value, depth + 1)
        return
    for name, parameter in value.named_parameters():
        put.text(name, tuple(parameter.shape))
        if not parameter.requires_grad:
            put.tensor(parameter)


def _changes(code: CodeType) -> bool:
    """Return whether code may change a list, a table or a tensor in place."""
    in_place = any(
        name in CHANGING or (name.endswith("_") and not name.endswith("__"))
        for name in code.co_names
    )
    stores = any(
        one.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") for one in dis.get_instructions(code)
    )
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return in_place or stores or any(map(_changes, inner))


def _put_code(put: _Put, code: CodeType) -> None:
    put.text(code.co_code.hex(), *code.co_names, *code.co_varnames)
    for constant in code.co_consts[1 if _documented(code) else 0 :]:
        if isinstance(constant, CodeType):
            _put_code(put, constant)
        elif isinstance(constant, frozenset):
            put.text(sorted(map(repr, constant)))  # its order differs between processes
        else:
            put.text(type(constant).__name__, repr(constant))


def _documented(code: CodeType) -> bool:
    """Whether the first constant is a docstring, which changes nothing."""
    return (
        bool(code.co_consts) and isinstance(code.co_consts[0], str) and code.co_name != "<lambda>"
    )


def _globals(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the global names that code reads, and those that it assigns: counters and the like."""
    read: set[str] = set()
    stored: set[str] = set()
    for one in dis.get_instructions(code):
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(str(one.argval))
        elif one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            stored.add(str(one.argval))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _globals(constant)
            read |= inner[0]
            stored |= inner[1]
    return read, stored


def _home(module: str | None) -> str:
    """Return a module's name where that says what is in it: a file of the user's own has several.

    It is `__main__` when it is run, and another when it is imported or loaded as a task.
    """
    return module if module and _foreign(module) else ""


def _foreign(module: str | None) -> bool:
    """Return whether a module is of Python, torch or another package: its version decides."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    found = sys.modules.get(top)
    place = str(getattr(found, "__file__", "") or "")
    return top == "etude" or "site-packages" in place or "dist-packages" in place
