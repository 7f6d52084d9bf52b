"""Which executor a text names, and what is refused before anything starts."""

import sys

import pytest

from etude.engines import LoopEngine
from etude.errors import BadTypeError, BadValueError, MissingExtraError, UnknownNameError
from etude.studies.executors import HereExecutor, ProcessExecutor, executor_for
from etude.studies.study import resume, study

PLAN = {"name": "rates", "tasks": "cancer-mlp", "lrs": [0.1], "steps": 5}


def test_local_is_this_process_or_as_many_as_are_asked_for():
    assert isinstance(executor_for("local"), HereExecutor)
    assert isinstance(executor_for("local", workers=2), ProcessExecutor)
    assert executor_for("local", workers=3).slots == 3
    own = HereExecutor("loop")
    assert executor_for(own) is own


@pytest.mark.parametrize("on", ["Ray", "", "ray:/x", "http://x", 3, None])
def test_another_place_is_refused(on):
    with pytest.raises(BadValueError, match="is no place to train: give 'local', 'ray', 'auto'"):
        executor_for(on)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_a_bad_number_of_workers_is_refused(workers):
    with pytest.raises(BadValueError, match=r"workers=.* is out of bounds"):
        executor_for("local", workers=workers)
    pytest.importorskip("ray")
    with pytest.raises(BadValueError, match=r"workers=.* is out of bounds"):
        executor_for("ray", workers=workers)


@pytest.mark.parametrize(
    ("name", "value"), [("cpus", 0), ("cpus", 0.5), ("gpus", -1), ("gpus", float("nan"))]
)
def test_bad_resources_are_refused(name, value):
    pytest.importorskip("ray")
    from etude.studies.executors import RayExecutor

    with pytest.raises(BadValueError, match=rf"{name}=.* is out of bounds"):
        RayExecutor("ray", **{name: value})


@pytest.mark.parametrize("call", [study, resume])
def test_bad_places_and_engines_are_refused_before_the_storage_is_opened(call, tmp_path):
    storage = tmp_path / "studies.db"
    what = PLAN if call is study else "rates"
    with pytest.raises(BadValueError, match="is no place to train"):
        call(what, storage=storage, on="moon")
    with pytest.raises(UnknownNameError, match="unknown engine 'lop': did you mean 'loop'"):
        call(what, storage=storage, engine="lop")
    with pytest.raises(BadTypeError, match="cannot be sent to another process: give its name"):
        call(what, storage=storage, engine=LoopEngine(), workers=2)
    assert not storage.exists()


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'etude\[ray\]'"):
        executor_for("ray")
