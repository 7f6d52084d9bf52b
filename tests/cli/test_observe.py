"""`--observe`: observers by reference."""

from __future__ import annotations

import re

import pytest

from etude.cli.observe import observers
from etude.errors import EtudeError

TEXT = """
import etude

class Step(etude.Observer):
    def on_update(self, state):
        return state.step

def made(every=3):
    return Step(every=every)

ready = made()
number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watching.py").write_text(TEXT, encoding="utf-8")
    return "watching.py"


@pytest.mark.parametrize(
    ("said", "every"),
    [("Step", 1), ("Step every=5", 5), ("made", 3), ("made every=4", 4), ("ready", 3)],
)
def test_a_class_an_instance_or_a_function_is_named(file, said, every):
    (found,) = observers([f"{file}:{said}"])
    assert (type(found).__name__, found.every) == ("Step", every)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("watching.py:Stepp", "did you mean 'Step'"),
        ("watching.py:number", "watching.py:number is a int, not an etude.Observer"),
        ("watching.py:Step often=5", "unexpected keyword argument 'often'"),
        ("watching.py:ready every=5", "is an observer already, and takes no options"),
        ("watching.py:Step every", "write KEY=VALUE"),
        ("missing.py:Step", "there is no Python file 'missing.py'"),
        ("no_such_module:Step", "there is no module 'no_such_module'"),
        ("Step", "observer 'Step' cannot be read: give 'path/to/file.py:name'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(file, text, said):
    with pytest.raises(EtudeError, match=re.escape(said)) as caught:
        observers([text])
    assert "\n" not in str(caught.value)
