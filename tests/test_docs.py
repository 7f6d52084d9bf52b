"""What the documentation shows is run: its Python, its commands, its examples."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from etude import tasks
from etude.errors import BadValueError
from etude.layerwise.planning import plan
from etude.schedules import KINDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def page_of(page: Path) -> object:
    """A page as a parameter: what `repair.md` tries takes long."""
    marks = [pytest.mark.slow] if page.name == "repair.md" else []
    return pytest.param(page, id=page.name, marks=marks)


@pytest.mark.parametrize("page", [*map(page_of, PAGES)])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    found = blocks(page, "python")
    for block in found:
        exec(compile(block, page.name, "exec"), names)
    assert names or not found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_schedule_commands_of_a_page_run(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            if line.startswith("etude schedule"):
                words = [sys.executable, "-m", *shlex.split(line)]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (line, done.stderr)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_a_program(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def selectors() -> list[tuple[str, list[str]]]:
    """The selectors of the table in the page on layers, with the tasks each is said to suit."""
    text = (ROOT / "docs" / "layers-and-gates.md").read_text()
    table = text[text.index("| selector |") :].split("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [
        (selector, re.findall(r"[a-z]+-[a-z]+", names))
        for cells, _, names in rows
        for selector in re.findall(r"`([^`]+)`", cells)
    ]


@pytest.mark.parametrize(("selector", "names"), selectors())
def test_a_selector_of_the_page_matches_a_task_that_it_names(
    selector: str, names: list[str]
) -> None:
    matched = 0
    for name in names:
        try:
            plan({selector: 2.0}, tasks.get(name).build())
            matched += 1
        except BadValueError:
            pass
    assert matched


def test_the_page_on_schedules_names_every_kind() -> None:
    text = (ROOT / "docs" / "schedules.md").read_text()
    assert [name for name in KINDS if f"`{name}" not in text] == []


def test_the_files_that_the_guide_names_exist() -> None:
    """The paths of a rate and of a loss are walked by people: each stop is there."""
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()))
    assert len(named) > 20
    assert not [f for f in named if not any((d / f).is_file() for d in (ROOT, ROOT / "src/etude"))]
