"""Tasks by reference: a name in the table, `file.py:name`, or `package.module:name`."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from etude.errors import BadTypeError, EtudeError, TaskError, kind_of, lacks, shown, unknown_name
from etude.tasks.references.ref import TaskRef, is_file, title
from etude.tasks.table import get, is_bundled
from etude.tasks.task import Task


def load(reference: str, /, **options: Any) -> Task:
    """Load the task that a reference names.

    Args:
        reference: A name in the table ('digits-cnn'), 'path/to/file.py:name', or
            'package.module:name'. The object named is a Task, or a function that returns one.
        options: Arguments of the function.

    Returns:
        The task; its `ref` says how to build it again. One without a name of its own is called
        after the object, or the file of an object called 'task'.

    Raises:
        UnknownNameError: If the name or an option is unknown.
        TaskError: If the file or module is missing or fails, or the object is not a task.
        BadTypeError: If the reference is not text.

    >>> load("cancer-mlp", depth=3).name
    'cancer-mlp'
    """
    if not isinstance(reference, str):
        raise BadTypeError(
            f"a task reference is a text such as 'digits-cnn' or 'file.py:task', "
            f"not {kind_of(reference)}"
        )
    place, colon, name = reference.rpartition(":")
    if not colon:
        path = Path(name).expanduser()
        if path.is_dir() and not is_bundled(TaskRef(name)):
            raise _folder(path, name)
        if is_file(name):
            raise _which(path, name)
        return get(reference, **options)
    if not place or not name.isidentifier():
        raise TaskError(
            f"task {shown(reference)} cannot be read: give 'name', 'path/to/file.py:name' or "
            "'package.module:name'"
        )
    if is_file(place):
        path = Path(place).expanduser()
        ref = TaskRef.told(reference, options)  # before it is run: a file may change itself
        with _importable(path.parent):
            found = _task(reference, _run_file(path), name, options)
    else:
        with _importable(Path.cwd()):
            ref = TaskRef.told(reference, options)
            found = _task(reference, _import(place), name, options)
    if found.name == "task":
        found = replace(found, name=title(reference))
    return found.known_as(ref)


def find(reference: str, what: str) -> Any:
    """Return the object of a file or module that a reference names.

    Args:
        reference: 'path/to/file.py:name' or 'package.module:name'.
        what: What is looked for, such as 'observer'.

    Raises:
        UnknownNameError: If there is nothing of that name.
        TaskError: If the reference cannot be read, or the file or module is missing or fails.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise TaskError(
            f"{what} {shown(reference)} cannot be read: give 'path/to/file.py:name' or "
            "'package.module:name'"
        )
    path = Path(place).expanduser()
    with _importable(path.parent if is_file(place) else Path.cwd()):
        module = _run_file(path) if is_file(place) else _import(place, what)
    if not hasattr(module, name):
        raise unknown_name(what, name, [n for n in vars(module) if not n.startswith("_")])
    return getattr(module, name)


def beside(reference: str, name: str) -> Any:
    """Return another object of the file or module from which `load` loaded a task.

    Args:
        reference: The reference that was given to `load`.
        name: The name of the other object.

    Returns:
        The object; None if it does not exist, or if nothing was loaded from there.
    """
    place, colon, _ = reference.rpartition(":")
    if not colon:
        return None
    loaded = _private_name(Path(place).expanduser()) if is_file(place) else place
    return getattr(sys.modules.get(loaded), name, None)


def _folder(path: Path, given: str) -> TaskError:
    """Return the error that says what to give instead of a folder."""
    file = next(iter(sorted(path.glob("[!_]*.py"))), path / "file.py").name
    return TaskError(
        f"{shown(given, 200)} is a folder, not a task: give a bundled task (`etude tasks` lists "
        f"them), such as 'digits-cnn', or your own as {shown(f'{path / file}:task', 200)}"
    )


def _which(path: Path, given: str) -> TaskError:
    """Return the error that lists the objects of a file that could be the task."""
    with _importable(path.parent):
        module = _run_file(path)
    ready = [name for name, value in vars(module).items() if isinstance(value, Task)]
    makers = [name for name in _offers(module) if _may_make(getattr(module, name))]
    if not ready and not makers:
        return TaskError(
            f"{given!r} has no task: assign one there, task = etude.Task(...), or write a "
            "function that returns one"
        )
    found = [f"the task{'s' * (len(ready) > 1)} {', '.join(ready)}"] if ready else []
    if makers:
        found.append(f"the function{'s' * (len(makers) > 1)} {', '.join(makers)}")
    return TaskError(
        f"which task of {given!r}? It has {' and '.join(found)}: "
        f"give {f'{given}:{(ready + makers)[0]}'!r}"
    )


def _may_make(value: object) -> bool:
    """Return whether an object of a file could be a function that returns a task."""
    if not inspect.isfunction(value) or value.__name__.startswith("_"):
        return False
    returned = inspect.signature(value).return_annotation
    if returned is not inspect.Signature.empty:
        return "Task" in str(returned)
    parameters = inspect.signature(value).parameters.values()
    return all(
        p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    )


class _Source(SourceFileLoader):
    """Compiles a file as it is now: a cached .pyc may be outdated, or come from somebody else."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled source, without reading `__pycache__`."""
        return self.source_to_code(self.get_data(self.path), self.path)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make the modules of a folder importable within the block, as for a script there."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _run_file(path: Path) -> ModuleType:
    """Import a file under a private name, which cannot hide an installed module."""
    if path.suffix != ".py" or not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        known = f"; {path.parent} has {', '.join(near[:8])}" if near else ""
        raise TaskError(f"there is no Python file {str(path)!r}{known}: check the path")
    private = _private_name(path)
    loader = _Source(private, str(path))
    spec = importlib.util.spec_from_file_location(private, path, loader=loader)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(private)
    # Dataclasses and pickles look up their module by name while it is still being run.
    sys.modules[private] = module
    try:
        with _user_errors(f"importing {str(path)!r}", path):
            spec.loader.exec_module(module)
    except BaseException:
        _put_back(private, before)
        raise
    return module


def _private_name(path: Path) -> str:
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    return f"_etude_task_{digest}"


def _put_back(name: str, module: ModuleType | None) -> None:
    if module is None:
        del sys.modules[name]
    else:
        sys.modules[name] = module


def _import(place: str, what: str = "task") -> ModuleType:
    if place.partition(".")[0] in sys.stdlib_module_names:
        raise TaskError(
            f"{place!r} is a module of Python itself and holds no {what}: for a file of that name "
            f"give '{place.replace('.', '/')}.py:name'"
        )
    try:
        with _user_errors(f"importing module {place!r}"):
            return import_module(place)
    except TaskError as error:
        missing = error.__cause__
        parts = place.split(".")
        above = [".".join(parts[: i + 1]) for i in range(len(parts))]
        if isinstance(missing, ModuleNotFoundError) and missing.name in above:
            raise TaskError(
                f"there is no module {missing.name!r}: install it, start in its folder, or give "
                f"the file, '{place.replace('.', '/')}.py:name'"
            ) from missing
        raise


@contextmanager
def _user_errors(doing: str, path: Path | None = None) -> Iterator[None]:
    """Turn an exception of the user's code into a TaskError that names the line."""
    try:
        yield
    except EtudeError:
        raise
    except SystemExit as error:
        raise TaskError(
            f"{doing} failed: it ends the program (sys.exit); "
            'put code that runs as a script under if __name__ == "__main__":'
        ) from error
    except Exception as error:
        where = _line(error, path)
        raise TaskError(f"{doing} failed{where}: {type(error).__name__}: {error}") from error


def _line(error: Exception, path: Path | None) -> str:
    """Return where the error arose: the innermost line in the user's own file, if known."""
    if isinstance(error, SyntaxError):
        return ""  # the error's own text names the file and the line
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if path is not None and Path(f.filename).resolve() == path.resolve()]
    outside = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    frame = next(iter(own[::-1] or outside[::-1]), None)
    return f" at {frame.filename}, line {frame.lineno}" if frame else ""


def _task(reference: str, module: ModuleType, name: str, options: dict[str, Any]) -> Task:
    try:
        found = getattr(module, name)
    except AttributeError:
        place, known = reference.rpartition(":")[0], _offers(module)
        if known:
            raise lacks(place, "object", name, known) from None
        raise TaskError(
            f"{place!r} has no {name!r}, and no other object that could be a task: "
            f"assign one there, {name} = etude.Task(...)"
        ) from None
    if isinstance(found, Task):
        if options:
            raise TaskError(
                f"{reference!r} is a finished task and takes no options ({', '.join(options)}): "
                "give a function that returns one"
            )
        return found
    if not callable(found) or inspect.isbuiltin(found):
        raise TaskError(
            f"{reference!r} is {kind_of(found)}: give an etude.Task, or a function that returns one"
        )
    _check_options(reference, found, options)
    file = getattr(module, "__file__", None)
    with _user_errors(f"calling {reference!r}", Path(file) if file else None):
        made = found(**options)
    if not isinstance(made, Task):
        raise TaskError(f"{reference!r} returned {kind_of(made)}: it must return an etude.Task")
    return made


def _offers(module: ModuleType) -> list[str]:
    """Return the names in a module that could be a task: tasks, and functions defined there."""
    return [
        key
        for key, value in vars(module).items()
        if isinstance(value, Task)
        or (callable(value) and getattr(value, "__module__", None) == module.__name__)
    ]


def _check_options(reference: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin may have no signature to read
        return
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if options and not named:
            raise TaskError(f"{reference!r} takes no options ({', '.join(options)})")
        for option in options:
            if option not in named:
                raise lacks(f"the task {reference!r}", "option", option, named)
    missing = [
        p.name
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.default is p.empty
        and p.name not in options
    ]
    if missing:
        raise TaskError(
            f"{reference!r} must be given {', '.join(missing)}: "
            "give them as options, or defaults in the function"
        )
