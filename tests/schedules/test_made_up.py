"""A file is all that a kind of schedule needs: found in its package, it works wherever kinds do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from etude import schedules
from etude.cli.program import app
from etude.errors import BadValueError
from etude.schedules import KINDS, from_json, lint, parse, to_json
from etude.schedules.arguments import AsMany
from etude.schedules.registry import discover
from etude.schedules.testing import arguments, drawn, kinds, strategy

FILE = '''
"""A parabola, and its double descent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from etude.schedules._base import Schedule
from etude.schedules._kind import Kind
from etude.schedules._numbers import Duration, number
from etude.schedules.arguments import LENGTH, SHARE
from etude.schedules.registry import composition, kind


@kind("parabola", "parabola(10)", "parabola()", "parabola('5%', floor=0.1)", within=(0.0, 1.0),
      arguments={"length": LENGTH, "floor": SHARE})
@dataclass(frozen=True, slots=True, repr=False)
class Parabola(Kind):
    """A parabola down: s(t) = floor + (1 - floor)(1 - t/T)^2, then floor."""

    length: Duration | None = None
    wanted: str | None = field(init=False, default=None)
    floor: float = 0.0

    warms_up: ClassVar[bool] = True

    @property
    def jumps(self) -> tuple[Any, ...]:
        return (self.length,)

    def __post_init__(self) -> None:
        self.put_length()
        self.put(floor=number("floor", self.floor, at_least=0.0, at_most=1.0))

    def at(self, t: float) -> float:
        if t >= self.length:
            return self.floor
        return self.floor + (1 - self.floor) * (1 - t / self.length) ** 2

    def on(self, t: Any, xp: Any) -> Any:
        u = 1 - xp.clip(t, 0.0, self.length) / (self.length or 1)
        y = self.floor + (1 - self.floor) * u**2
        return xp.where(t >= self.length, xp.full_like(y, self.floor), y)


@composition("two_parabolas", "two_parabolas(10)", arguments={"length": LENGTH})
def two_parabolas(length: Duration) -> Schedule:
    """Return a parabola after another."""
    return Parabola(length) >> Parabola(length)
'''

NAMES = ("parabola", "two_parabolas")


@pytest.fixture(autouse=True, scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kinds of a package of somebody's own; forgotten again afterwards."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "somebodys_kinds"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parabolas.py").write_text(FILE)
    sys.path.insert(0, str(folder))
    try:
        discover("somebodys_kinds")
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [one for one in sys.modules if one.partition(".")[0] == "somebodys_kinds"]:
            del sys.modules[name]
        for name in NAMES:
            KINDS.pop(name, None)


def test_it_is_written_and_read_as_text():
    for text in KINDS["parabola"].examples:
        assert parse(repr(parse(text))) == parse(text)
    assert parse("warmup(5) >> parabola(10, floor=0.5)")(15) == 0.5
    assert repr(schedules.parabola(10, floor=0.5)) == "parabola(10, floor=0.5)"
    assert set(NAMES) <= set(dir(schedules))
    with pytest.raises(BadValueError, match="did you mean 'parabola'"):
        parse("parabula(3)")


@settings(max_examples=25)
@given(kinds(*NAMES), st.lists(st.floats(0, 2e4), min_size=1, max_size=5))
def test_the_laws_of_kinds_hold(schedule, steps):
    assert parse(repr(schedule)) == schedule
    assert from_json(to_json(schedule)) == schedule
    values = schedule(np.array(steps))
    assert [schedule(t) for t in steps] == pytest.approx(list(values), rel=1e-12, abs=1e-12)
    assert (values >= 0).all()
    assert (values <= 1).all()


def test_it_is_drawn_with_all_others():
    assert set(NAMES) <= set(drawn())
    with pytest.raises(BadValueError, match="draw both together"):
        strategy(AsMany(strategy, "points"))  # type: ignore[arg-type]


def test_lint_asks_the_kind():
    codes = [fault.code for fault in lint(parse("constant(length=10) >> parabola(400)"), 100)]
    assert "warmup-too-long" in codes
    assert "unreachable" in codes


def test_the_command_line_lists_it():
    result = CliRunner().invoke(app, ["schedule", "--list", "--json"], catch_exceptions=False)
    listed = {row["name"]: row for row in json.loads(result.output)}
    assert set(listed) == set(KINDS)
    assert listed["parabola"]["summary"].startswith("A parabola down")
    assert listed["two_parabolas"]["summary"] == "A parabola after another."
    assert "parabola(10)" in CliRunner().invoke(app, ["schedule", "--list"]).output


def test_a_name_belongs_to_one_file(tmp_path, monkeypatch):
    package = tmp_path / "others_kinds"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "again.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadValueError, match="already called 'parabola', in somebodys_kinds"):
        discover("others_kinds")


def test_every_kind_of_the_package_says_what_to_draw():
    folder = Path(schedules.__file__).parent / "kinds"
    modules = {f"etude.schedules.kinds.{path.stem}" for path in folder.glob("*.py")}
    own = {name: row for name, row in KINDS.items() if row.make.__module__ in modules}
    assert len(own) >= 20
    for name, row in own.items():
        if name == "function":  # its argument is a function that the user registers
            continue
        assert row.examples, f"{name} has no example"
        assert row.summary, f"{name} has no docstring"
        arguments(name).validate()


def test_finding_the_kinds_loads_neither_torch_nor_the_tests_own_library():
    code = (
        "import sys, etude.schedules; "
        "print([m for m in ('torch', 'hypothesis', 'typer') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
