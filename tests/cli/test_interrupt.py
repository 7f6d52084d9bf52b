"""Ctrl-C at any moment before the work begins: one line, exit code 130, no traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from etude.cli.terminal.interrupt import INTERRUPTED, exit_on_interrupt, raise_on_interrupt

START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Whoever runs the tests in the background may have had SIGINT ignored, which is inherited."""

AT_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""

IN_CALLBACK = """
import os, signal

class Last:
    def __del__(self):  # Python passes over what is raised in here
        os.kill(os.getpid(), signal.SIGINT)

Last()
"""


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    call = f"import sys; sys.argv = ['etude', *{list(words)!r}]\n"
    call += "from etude.cli.main import main\nmain()\n"
    return subprocess.run(
        [sys.executable, "-c", START + code + call], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["typer", "rich", "etude.cli.program", "torch"])
def test_ctrl_c_while_something_is_imported_ends_in_one_line(name):
    done = run(AT_IMPORT.format(name=name), "train", "cancer-mlp")
    assert (done.returncode, done.stdout) == (INTERRUPTED, "")
    assert done.stderr == "etude: interrupted\n"


def test_a_machine_is_told_as_json():
    done = run(AT_IMPORT.format(name="typer"), "train", "cancer-mlp", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (INTERRUPTED, {"error": "interrupted"})


def test_ctrl_c_that_python_would_swallow_is_heard(tmp_path: Path):
    mine = tmp_path / "mine.py"
    mine.write_text(IN_CALLBACK)
    done = run("", "train", f"{mine}:task")
    assert (done.returncode, done.stderr) == (INTERRUPTED, "etude: interrupted\n")


def test_from_the_work_on_ctrl_c_is_an_exception_and_afterwards_as_it_was():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with exit_on_interrupt():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
            raise_on_interrupt()
            with pytest.raises(KeyboardInterrupt, match=r"^$"):
                signal.raise_signal(signal.SIGINT)
        with exit_on_interrupt():
            pass
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with exit_on_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["optimizers"], ["optimizers", "--json"]])
def test_a_full_device_behind_standard_output_is_one_line(words):
    call = [sys.executable, "-m", "etude", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "etude: cannot write to standard output: no space left on its device; write it elsewhere\n"
    )


WORK = """
import atexit, signal
from etude.cli import program
from etude.cli.terminal import interrupt

@program.app.command("work")
def work():
    interrupt.raise_on_interrupt()
    {at_exit}
    signal.raise_signal(signal.{first})

def again(*_):
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
{more}
"""
"""A verb that a signal interrupts, and what sends more of them."""

WHILE_TOLD = """
told = program.print_error
program.print_error = lambda *given: (again(), told(*given), again())
"""

AT_THE_END = """
class Last:
    def __del__(self, send=signal.raise_signal):
        send(2)
        send(15)

last = Last()
"""


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("at_exit", "more"),
    [("", WHILE_TOLD), ("atexit.register(again)", ""), ("", AT_THE_END)],
    ids=["while it is told", "as the process ends", "as Python is torn down"],
)
def test_further_signals_change_neither_the_word_nor_the_exit_code(first, at_exit, more):
    done = run(WORK.format(first=first, at_exit=at_exit, more=more), "work")
    assert done.returncode == INTERRUPTED
    assert done.stderr == (
        "etude: interrupted; nothing was saved: to begin again, give the same command\n"
    )


def test_a_signal_after_the_verb_has_ended_keeps_its_exit_code():
    code = WORK.format(first="SIGINT", at_exit="atexit.register(again); return", more="")
    done = run(code, "work")
    assert (done.returncode, done.stderr) == (0, "")
