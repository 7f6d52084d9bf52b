"""One package knows what the files of a folder are called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.storage import layout
from etude.storage.layout import checkpoint_name, step_of

SOURCE = Path(layout.__file__).parents[1]
OUTSIDE = [p for p in sorted(SOURCE.rglob("*.py")) if p.parent != SOURCE / "storage"]

FILES = (
    layout.RECIPE, layout.TASK, layout.FINGERPRINT, layout.RECORD, layout.SERIES, layout.MODEL,
    layout.REPORT, layout.NOTES, layout.TUNING,
)  # fmt: skip
FOLDERS = (layout.CHECKPOINTS, layout.TRIALS)
TOLD = ("EPILOG",)
"""Examples of what to type: there a name is a user's own file."""


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Every piece of text in a file's code, without docstrings and examples of what to type."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in TOLD:
            skipped.add(id(node.value))
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in skipped:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_other_file_names_a_file_of_a_folder(path):
    names = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, FILES))})(?![\w.-])")
    # A folder's name is also a word: it counts where it is joined to a path.
    joined = re.compile(rf"(^|/)({'|'.join(FOLDERS)})/|/({'|'.join(FOLDERS)})$|^{layout.FOLD}")
    text = path.read_text(encoding="utf-8")
    divided = re.findall(rf"/ f?[\"']({'|'.join(FOLDERS)}|{layout.FOLD}|{layout.STEP})", text)
    found = [f"line {n}: {t!r}" for n, t in literals(path) if names.search(t) or joined.search(t)]
    assert not found
    assert not divided


def test_every_name_is_another():
    names = [*FILES, *FOLDERS, layout.FOLD, layout.STEP]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("step", [0, 7, 999_999_999_999, 10**15])
def test_a_checkpoint_s_name_tells_its_step(step):
    assert step_of(checkpoint_name(step)) == step


@pytest.mark.parametrize(
    "name", ["", "step-", "step-7", "step-00000000000x", "000000000007", ".step-000000000007",
             "step--00000000007", f"step-{'9' * 19}"],
)  # fmt: skip
def test_no_other_name_is_a_checkpoint_s(name):
    assert step_of(name) is None
