"""The house rules: which room may import which, what loads what, and how tests are written."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "etude"
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

GROUND = {
    "errors",
    "files",
    "memory_layout",
    "progress",
    "randomness",
    "torch_version",
    "warning_filters",
}
"""Files that every room but `schedules` may stand on; among themselves they may lean too."""

ARROWS = {
    "schedules": set(),
    "layerwise": {"schedules", "optimizers"},
    "optimizers": {"schedules"},
    "tasks": set(),
    "recipe": {"schedules", "optimizers", "layerwise", "tasks"},
    "training": {"schedules", "optimizers", "layerwise", "tasks", "recipe"},
}
"""What each room may import besides the ground and itself."""
ARROWS["tuning"] = ARROWS["diagnosis"] = {*ARROWS["training"], "training"}
ARROWS["study"] = {*ARROWS["tuning"], "tuning", "diagnosis"}
ARROWS["report"] = {*ARROWS["study"], "study"}
ARROWS["cli"] = {*ARROWS["report"], "report", "interop"}
ARROWS["interop"] = {*ARROWS["study"], "study"}

BRIDGES = {"optimizers/factory.py": {"layerwise"}}
"""Files that may reach further: `build` joins the table, which `layerwise` reads, to its rates."""

PIPES = "training/engines/"
"""Where errors travel between processes of our own as pickles; none is ever read from a file."""

HEAVY = ("torch", "plotly", "ray", "optuna", "keras", "jax", "sklearn", "pandas", "datasets")

LONGEST_FILE = 450
LONGEST_FUNCTION = 70


ANNEXES = {"pytorch_code": "recipe", "recipe_text": "recipe"}
"""Files that stand beside a room and belong to it."""


def room(path: Path) -> str:
    return room_of(path.relative_to(SOURCE).parts[0].removesuffix(".py"))


def room_of(name: str) -> str:
    return ANNEXES.get(name, name)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every room of ours that a file imports, wherever in the file, with the line."""
    for node in ast.walk(parsed(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its room"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "etude" and len(parts) > 1:
                yield node.lineno, room_of(parts[1])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    allowed = {here}
    if here == "schedules":
        allowed |= {"errors"}
    elif here in GROUND:
        allowed |= GROUND
    else:
        assert here in ARROWS, f"{here} is a room without arrows: give it some in ARROWS"
        allowed |= ARROWS[here] | GROUND | BRIDGES.get(path.relative_to(SOURCE).as_posix(), set())
    wrong = [f"line {line}: {other}" for line, other in imported(path) if other not in allowed]
    assert not wrong, f"{path.relative_to(ROOT)} reaches into {', '.join(wrong)}"


def test_every_arrow_leads_to_a_room_that_may_be_built():
    known = set(ARROWS)
    for here, others in ARROWS.items():
        assert others <= known - {here}
        assert not any(here in ARROWS[other] for other in others), f"{here} is in a circle"


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
