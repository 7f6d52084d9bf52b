"""The architecture: which package may import which, no circle, and how tests are written."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "etude"
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

GROUND = (
    "errors", "files", "free_memory", "lazy_names", "memory_layout", "model_copy", "next_step",
    "progress", "randomness", "shows_itself", "torch_internals", "torch_version", "warning_filters",
)  # fmt: skip
"""Files that every package but `schedules` may import; among themselves they may do so too."""

ORDER = (
    *GROUND, "schedules", "optimizers", "layerwise", "tasks", "recipe", "record", "export",
    "storage", "training", "engines", "trials", "measure", "tuning", "methods", "diagnosis",
    "studies", "distributed", "compression", "report", "interop", "cli",
)  # fmt: skip
"""From the ground up: a package imports what stands before it, and itself."""

BRIDGES = {
    "optimizers/factory.py": {"layerwise"},
    "record.py": {"storage"},
}
"""Files that may reach further: `build` joins the table, which `layerwise` reads, to its rates;
`Record.load` and `save` hand plain values to the one package that knows the files' names."""

PIPES = "engines/process/"
"""Where errors travel between processes of our own as pickles; none is ever read from a file."""

HEAVY = (
    "torch", "plotly", "ray", "optuna", "keras", "jax", "sklearn", "scipy", "pandas", "datasets",
    "psutil", "sqlalchemy", "psycopg", "pyarrow",
)  # fmt: skip

LONGEST_FILE = 450
LONGEST_FUNCTION = 70


ANNEXES = {
    "recipe_checks": "recipe",
    "recipe_digest": "recipe",
    "recipe_exchange": "recipe",
    "recipe_spikes": "recipe",
    "recipe_mistakes": "recipe",
    "recipe_text": "recipe",
    "record_shape": "record",
}
"""Files that stand beside a package and belong to it."""


def package(path: Path) -> str:
    return package_of(path.relative_to(SOURCE).parts[0].removesuffix(".py"))


def package_of(name: str) -> str:
    return ANNEXES.get(name, name)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every name of ours that a file imports, wherever in the file, with the line."""
    for node in ast.walk(parsed(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its package"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from ((node.lineno, name) for name in names if name.startswith("etude."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    here = package(path)
    if here in ("__init__", "__main__", "_moved"):
        return
    assert here in ORDER, f"{here} is a package without a place: give it one in ORDER"
    allowed = {here, *ORDER[: ORDER.index(here)]}
    if here == "schedules":
        allowed = {here, "errors"}
    elif here in GROUND:
        allowed = set(GROUND)
    allowed |= BRIDGES.get(path.relative_to(SOURCE).as_posix(), set())
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(path)
        if package_of(name.split(".")[1]) not in allowed
    ]
    assert not wrong, f"{path.relative_to(ROOT)} reaches into {', '.join(wrong)}"


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circle_between_files():
    """Neither at import, nor later inside a function, nor for the type checker alone."""
    known = {module_of(path): path for path in FILES}
    graph: dict[str, set[str]] = defaultdict(set)
    for module, path in known.items():
        if path.name == "__init__.py":  # a package's surface imports what lies in it
            continue
        for _, name in imports(path):
            target = name if name in known else name.rpartition(".")[0]
            if target in known and target != module and known[target].name != "__init__.py":
                graph[module].add(target)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of files: {' <- '.join(error.args[1])}")


def test_no_class_name_stands_for_two_things():
    homes: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module_of(path))
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def test_an_old_name_says_where_it_went():
    from etude._moved import MOVED

    known = {module_of(path) for path in FILES}
    assert set(MOVED.values()) <= known
    assert not set(MOVED) & known
    with pytest.raises(ModuleNotFoundError, match=r"engines is now etude\.engines"):
        import etude.training.engines  # noqa: F401


@pytest.mark.parametrize(
    "statement",
    [
        "import etude",
        "import etude; etude.__all__; dir(etude)",
        "import etude; etude.tasks.rows(); etude.schedules.KINDS; etude.optimizers.ROWS",
        "import etude.schedules",
        "import etude.tasks",
        "import etude.recipe",
        "import etude.optimizers",
        "from etude import Recipe; Recipe(optimizer='sgd').to_toml()",
        "import etude.cli.main",
        "import etude.cli.program",
        "from etude.schedules import parse; parse('cosine()').over(10)(3)",
    ],
)
def test_importing_loads_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import etude

    for name in etude.__all__:
        assert getattr(etude, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'etude' has no attribute 'tuna'"):
        etude.tuna  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE, f"{path.name} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = body_lines(node, text.splitlines())
            assert length <= LONGEST_FUNCTION, f"{path.name}: {node.name} has {length} lines"


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """How many written lines a function has below its signature and its docstring."""
    documented = ast.get_docstring(node, clean=False) is not None
    body = node.body[1:] if documented else node.body
    return (
        sum(bool(line.strip()) for line in lines[body[0].lineno - 1 : node.end_lineno])
        if body
        else 0
    )


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_expected_error_states_its_message(path):
    for call in calls(parsed(path), "pytest.raises", "raises", "pytest.warns", "warns"):
        given = {keyword.arg for keyword in call.keywords}
        assert "match" in given, f"{path.name}:{call.lineno} expects an error without match="


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_runs_text_or_reads_a_pickle(path):
    tree = parsed(path)
    if path.relative_to(SOURCE).as_posix().startswith(PIPES):
        return
    unsafe = ("eval", "exec", "pickle.load", "pickle.loads", "torch.load", "np.load", "numpy.load")
    assert not [f"line {call.lineno}" for call in calls(tree, *unsafe)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_zip_says_whether_it_is_strict(path):
    for call in calls(parsed(path), "zip"):
        given = {keyword.arg for keyword in call.keywords}
        assert "strict" in given, f"{path.name}:{call.lineno}: zip without strict="


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_error_raised_is_one_of_ours(path):
    """Python's own errors reach a user as a traceback; ours as one message."""
    plain = {"ValueError", "TypeError", "RuntimeError", "KeyError", "Exception", "IOError"}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func)
            assert name not in plain, f"{path.name}:{node.lineno} raises a bare {name}"


INTERNALS = "torch_internals"
"""The one file that may touch what is private in torch."""


def private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("__")


@cache
def torchs_private_names() -> frozenset[str]:
    """What torch's own objects hold under a private name, as they are built."""
    import torch
    from torch import nn
    from torch.optim import lr_scheduler as schedulers
    from torch.utils.data import DataLoader

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    parts = [schedulers.StepLR(optimizer, 3), schedulers.StepLR(optimizer, 3)]
    loader = DataLoader(torch.zeros(2))
    held = (
        torch, nn, torch.zeros(1), nn.Linear(1, 1), nn.LSTM(1, 1), optimizer, *parts, loader,
        iter(loader), schedulers.SequentialLR(optimizer, parts, [1]),
        schedulers.ChainedScheduler(parts), schedulers.OneCycleLR(optimizer, 1.0, 10),
        schedulers.CyclicLR(optimizer, 0.1, 1.0), schedulers.ReduceLROnPlateau(optimizer),
        torch.amp.GradScaler("cpu"), torch.Generator(), torch.cuda, torch.backends,
    )  # fmt: skip
    return frozenset(name for one in held for name in dir(one) if private(name))


def outside_names(tree: ast.AST) -> dict[str, str]:
    """Return what a file calls the packages that it imports, with the packages."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def reaches_into_torch(path: Path) -> Iterator[tuple[int, str]]:
    """Yield where a file names something private of torch: imported, as an attribute, as text."""
    tree = parsed(path)
    known = outside_names(tree)
    names = torchs_private_names()
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [getattr(node, "module", None) or ""]
            for full in (f"{m}.{a.name}".strip(".") for m in modules for a in node.names):
                if full.split(".")[0] == "torch" and any(map(private, full.split("."))):
                    yield line, full
                if full.startswith("torch.fx.experimental"):
                    yield line, full
        elif isinstance(node, ast.Attribute) and private(node.attr):
            base = ast.unparse(node.value)
            of_torch = known.get(base.split(".")[0], "").split(".")[0] == "torch"
            if of_torch or (base not in ("self", "cls") and node.attr in names):
                yield line, ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if private(node.value) and node.value in names | {"_orig_mod"}:
                yield line, node.value
            if re.fullmatch(r"torch(\.\w+)*\._\w+(\.\w+)*", node.value):
                yield line, node.value


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_one_file_alone_touches_what_is_private_in_torch(path):
    if package(path) == INTERNALS:
        return
    found = [f"line {line}: {what}" for line, what in reaches_into_torch(path)]
    assert not found, f"{path.name} reaches into torch: {', '.join(found)}; see {INTERNALS}.py"


def test_classes_of_ours_touch_nothing_that_torch_put_into_them():
    """`self._step_count` is torch's in a scheduler, and our own in any other class."""
    import torch

    names = torchs_private_names()
    for path in FILES:
        if package(path) == INTERNALS:
            continue
        for node in parsed(path).body:
            if not isinstance(node, ast.ClassDef) or not derives(node, path, torch):
                continue
            used = {
                inner.attr for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute) and private(inner.attr)
                and ast.unparse(inner.value) == "self"
            }  # fmt: skip
            defined = {d.name for d in node.body if isinstance(d, ast.FunctionDef)}
            assert not (used | defined) & names, f"{path.name}: {node.name}"


def derives(node: ast.ClassDef, path: Path, torch: Any) -> bool:
    """Say whether a class has one of torch's modules, optimizers or schedulers as its base."""
    known = outside_names(parsed(path))
    kinds = (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    for base in node.bases:
        first, *rest = ast.unparse(base).split(".")
        place, _, name = ".".join([known.get(first, first), *rest]).rpartition(".")
        if place.split(".")[0] in ("torch", "etude"):
            kind = getattr(importlib.import_module(place), name, None)
            if isinstance(kind, type) and issubclass(kind, kinds):
                return True
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_turns_a_users_logger(path):
    """What a library logs is the user's to set; `logger_kept` gives it back after a call."""
    if package(path) == "warning_filters":
        return
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            assert name not in ("setLevel", "set_verbosity", "set_logs", "basicConfig"), (
                f"{path.name}:{node.lineno} changes a logger: use warning_filters.logger_kept"
            )
