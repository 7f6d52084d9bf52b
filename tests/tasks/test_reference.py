import os
import sys
import textwrap

import pytest

from etude.errors import BadTypeError, TaskError, UnknownNameError
from etude.tasks import load

GOOD = """
    import torch
    from dataclasses import dataclass
    from torch import nn
    from torch.nn.functional import mse_loss
    from etude.tasks import Task

    @dataclass
    class Sizes:
        inputs: int = 3

    def make(width=4, *, flip=False):
        x = torch.ones(10, Sizes().inputs) * (-1 if flip else 1)
        model = lambda: nn.Linear(3, width)
        return Task(model, (x, torch.zeros(10, width)), loss=mse_loss, name=f"made-{width}")

    ready = make()
    number = 3

    def not_a_task():
        return 3

    def fails():
        return 1 / 0

    def needs(size):
        return make(size)

    def anything(**options):
        return make(**options)
"""


@pytest.fixture
def file(tmp_path):
    def write(text=GOOD, name="mine.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


class TestFiles:
    def test_a_task_and_a_function(self, file):
        path = file()
        assert load(f"{path}:ready").name == "made-4"
        assert load(f"{path}:make").name == "made-4"
        made = load(f"{path}:make", width=7, flip=True)
        assert made.name == "made-7"
        assert load(f"{path}:anything", width=2).name == "made-2"
        assert load(f"{path}:needs", size=5).name == "made-5"

    def test_a_path_relative_to_where_one_stands(self, file, monkeypatch):
        monkeypatch.chdir(file().parent)
        assert load("mine.py:ready").name == "made-4"
        assert load("./mine.py:ready").name == "made-4"

    def test_is_read_anew_each_time(self, file):
        path = file()
        load(f"{path}:ready")
        file(GOOD.replace("made-", "changed-"))
        os.utime(path, (0, 0))
        assert load(f"{path}:ready").name == "changed-4"

    def test_its_neighbours_can_be_imported_and_the_path_is_put_back(self, file):
        file("number = 11", "neighbour_of_mine.py")
        path = file(
            "from neighbour_of_mine import number\n"
            + textwrap.dedent(GOOD)
            + "later = lambda: make(__import__('neighbour_of_mine').number)"
        )
        before = list(sys.path)
        assert load(f"{path}:later").name == "made-11"
        assert sys.path == before

    def test_cannot_hide_an_installed_module(self, file):
        import random

        assert load(f"{file(GOOD, 'random.py')}:ready").name == "made-4"
        assert sys.modules["random"] is random
        assert hasattr(random, "randint")

    def test_a_failed_import_leaves_nothing_behind(self, file):
        before = set(sys.modules)
        path = file("raise RuntimeError('no')")
        with pytest.raises(TaskError, match="RuntimeError: no"):
            load(f"{path}:task")
        assert not {m for m in set(sys.modules) - before if m.startswith("_etude_task")}

    def test_a_cache_beside_it_is_not_run(self, file):
        path = file()
        load(f"{path}:ready")  # a cache, had one been written, would be of this text
        before = path.stat()
        file(GOOD.replace("made-", "mine-"))  # as long as before, and as old
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert load(f"{path}:ready").name == "mine-4"
        assert not (path.parent / "__pycache__").exists()


class TestModules:
    @pytest.mark.parametrize("reference", ["os:system", "subprocess:run", "builtins:exec"])
    def test_pythons_own_hold_no_task(self, reference):
        with pytest.raises(TaskError, match="is a module of Python itself and holds no task"):
            load(reference, command="true")

    def test_a_module_and_a_package(self, file, monkeypatch):
        file(GOOD, "a_module_of_mine.py")
        file("", "a_package_of_mine/__init__.py")
        monkeypatch.chdir(file(GOOD, "a_package_of_mine/inner.py").parent.parent)
        assert load("a_module_of_mine:make", width=9).name == "made-9"
        assert load("a_package_of_mine.inner:ready").name == "made-4"

    def test_none_of_that_name(self):
        with pytest.raises(
            TaskError, match=r"no module 'nowhere_at_all'.*nowhere_at_all/x.py:name"
        ):
            load("nowhere_at_all.x:task")

    def test_one_that_lacks_what_it_imports(self, file, monkeypatch):
        monkeypatch.chdir(file("import nowhere_at_all", "lacking_module.py").parent)
        with pytest.raises(
            TaskError, match=r"importing module 'lacking_module' failed at .*line 1"
        ):
            load("lacking_module:task")


class TestRefusals:
    def test_no_such_file(self, file):
        path = file()
        with pytest.raises(TaskError, match=r"no Python file .*main\.py'; .* has mine\.py"):
            load(f"{path.parent / 'main.py'}:ready")
        with pytest.raises(TaskError, match=r"no Python file 'nowhere/x\.py': check the path"):
            load("nowhere/x.py:task")

    def test_no_name_given(self, file):
        said = (
            r"It has the task ready and the functions make, not_a_task, fails, anything: "
            r"give '.*mine\.py:ready'"
        )
        with pytest.raises(TaskError, match=said):
            load(str(file()))
        with pytest.raises(TaskError, match=r"has no task: assign one there, task = etude\.Task"):
            load(str(file("import os\ndef needs(size): ...\nclass Net: ...", "none.py")))
        with pytest.raises(TaskError, match=r"no Python file 'nowhere\.py'"):
            load("nowhere.py")

    def test_no_such_object(self, file):
        with pytest.raises(UnknownNameError, match="'redy': did you mean 'ready'"):
            load(f"{file()}:redy")
        empty = file("import os", "empty.py")
        with pytest.raises(
            TaskError, match="has no 'task', and no other object that could be a task"
        ):
            load(f"{empty}:task")

    @pytest.mark.parametrize("reference", ["mine.py:", ":name", "mine.py:two words", "m.py:1x"])
    def test_what_cannot_be_read(self, reference):
        with pytest.raises(
            TaskError, match=r"cannot be read: give 'name', 'path/to/file\.py:name'"
        ):
            load(reference)

    def test_what_is_no_text(self):
        with pytest.raises(BadTypeError, match=r"a task reference is a text .* not an int"):
            load(3)

    def test_an_error_in_the_file_names_its_line(self, file):
        path = file("import math\n\nx = math.sqrt(-1)\n")
        with pytest.raises(TaskError, match=r"importing .*mine\.py, line 3: ValueError: .*"):
            load(f"{path}:task")
        path = file("def task(:\n")
        with pytest.raises(TaskError, match=r"SyntaxError: .*mine\.py, line 1"):
            load(f"{path}:task")
        path = file("import sys\nsys.exit(2)")
        with pytest.raises(TaskError, match=r"sys\.exit.*__main__"):
            load(f"{path}:task")

    def test_an_error_in_the_function_names_its_line(self, file):
        path = file()
        line = 1 + path.read_text().splitlines().index("    return 1 / 0")
        with pytest.raises(TaskError, match=rf"calling .*line {line}: ZeroDivisionError"):
            load(f"{path}:fails")

    def test_what_is_no_task(self, file):
        path = file()
        with pytest.raises(TaskError, match=r":number' is an int: give an etude\.Task"):
            load(f"{path}:number")
        with pytest.raises(TaskError, match=r"returned an int: it must return an etude\.Task"):
            load(f"{path}:not_a_task")

    def test_options(self, file):
        path = file()
        with pytest.raises(UnknownNameError, match="'witdh': did you mean 'width'"):
            load(f"{path}:make", witdh=3)
        with pytest.raises(TaskError, match=r"finished task and takes no options \(width\)"):
            load(f"{path}:ready", width=3)
        with pytest.raises(TaskError, match="must be given size: give them as options"):
            load(f"{path}:needs")
        with pytest.raises(TaskError, match=r"not_a_task' takes no options \(width\)"):
            load(f"{path}:not_a_task", width=3)

    def test_an_unknown_name_of_the_table(self):
        with pytest.raises(UnknownNameError, match="did you mean 'digits-cnn'"):
            load("digits-cn")

    def test_an_error_of_ours_stays_as_it_is(self, file):
        path = file("from etude.tasks import Task\ndef task():\n    return Task(3, 4)")
        with pytest.raises(BadTypeError, match="model is an int"):
            load(f"{path}:task")


def test_a_name_of_the_table_takes_options():
    assert load("cancer-mlp", width=5).build().head.in_features == 5
