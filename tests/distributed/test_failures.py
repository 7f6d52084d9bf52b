"""What cannot be trained together gives one message, and every process ends in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etude.distributed import launch
from tests.distributed.together import together

ROOT = Path(__file__).parents[2]
HERE = "tests.distributed.failing"
AGREED = (
    "unused_at_first",
    "small_batch",
    "second_order",
    "divided_loader",
    "other_recipe",
    "main_fails",
)
OTHERS = ("agreement", "norms", "dropout", "not_finite")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing")
    results = together(folder, 2, *(f"{HERE}:{name}" for name in (*AGREED, *OTHERS)))
    return {name.partition(":")[2]: values for name, values in results.items()}


@pytest.mark.parametrize(
    ("name", "kind", "parts"),
    [
        (
            "small_batch",
            "BadValueError",
            ("a batch of 1 samples", "2 processes", "batch_size >= 2"),
        ),
        (
            "unused_at_first",
            "TaskError",
            ("'head.weight' and 1 more", "of 2 in the first update", "find_unused=True"),
        ),
        ("second_order", "BadValueError", ("newton_cg", "one process")),
        ("divided_loader", "TaskError", ("DistributedSampler", "leave the sampler out")),
        ("other_recipe", "TaskError", ("process 1 of 2", "another recipe")),
        ("main_fails", "StorageError", ("/dev/null/folder",)),
    ],
)
def test_every_process_raises_the_same_error(found, name, kind, parts):
    first, second = found[name]
    assert first is not None
    assert first == second
    assert first[0] == kind
    for part in parts:
        assert part in first[1]


def test_what_processes_agree_on(found):
    first, second = found["agreement"]
    assert first["any"] == second["any"] == (True, False)
    assert first["gather"] == second["gather"] == [{"rank": 0}, {"rank": 1}]
    assert (first["called"], second["called"]) == (1, 0)
    assert first["from_main"] == second["from_main"] == "from 0"
    assert (first["main"], second["main"]) == (True, False)


def test_the_returned_model_is_as_it_was_built(found):
    for names, hooks, counted, notes in found["norms"]:
        assert names[1] == "BatchNorm2d"
        assert hooks == 0
        assert counted == 3
        assert notes["world"]["processes"] == 2


def test_each_process_draws_its_own_masks(found):
    (mask, losses), (other_mask, other_losses) = found["dropout"]
    assert mask != other_mask
    assert losses == other_losses


def test_a_divergence_is_one_everywhere(found):
    first, second = found["not_finite"]
    assert first == second
    assert first[0] == "diverged"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unused_later", ("TaskError", "'head.", "process", "of 2", "find_unused=True")),
        ("fails_in_one", ("process 1 of 2", "ZeroDivisionError", "the user's own fault")),
        ("cut_off_topk", ("process 1 of 2", "ZeroDivisionError", "the user's own fault")),
        ("cut_off_powersgd", ("process 1 of 2", "ZeroDivisionError", "the user's own fault")),
        ("killed_in_one", ("WorldError", "process 1 of 2 was killed by SIGKILL")),
        ("silent_in_one", ("WorldError", "does not answer", "longer than 15 s")),
    ],
)
def test_one_message_and_an_end(capfd, monkeypatch, name, parts):
    """What one process alone runs into is told by process 0, or by who has started them."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    command = [sys.executable, "-m", "tests.distributed.alone", f"{HERE}:{name}"]
    assert launch(command, 2, timeout=15.0, say=lambda text: None) != 0
    text = "".join(capfd.readouterr())
    for part in parts:
        assert part in text, text
    assert len([line for line in text.splitlines() if line.startswith("FAILED")]) == 1, text
    assert "terminate called" not in text, text


def test_the_launcher_ends_processes_that_do_not_end_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr("etude.distributed.launcher.GRACE", 0.5)
    said: list[str] = []
    code = (
        "import os, pathlib, sys, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "if os.environ['RANK'] == '1': sys.exit(7)\n"
        "time.sleep(60)\n(place / 'ended itself').touch()"
    )
    assert launch([sys.executable, "-c", code], 2, say=said.append) == 1
    assert said == ["process 1 of 2 ended with exit code 7"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_first_process_is_named(monkeypatch):
    monkeypatch.setattr("etude.distributed.launcher.GRACE", 0.5)
    said: list[str] = []
    code = (
        "import os, signal, time\n"
        "if os.environ['RANK'] == '0': os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    )
    assert launch([sys.executable, "-c", code], 2, say=said.append) == 1
    assert len(said) == 1
    assert "process 0 of 2 was killed by SIGKILL" in said[0]


def test_after_a_loss_all_start_again(tmp_path):
    """The attempt that ends well counts; each attempt has its own number."""
    code = (
        "import os, pathlib, signal\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "count = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "(place / f\"{os.environ['RANK']}-{count}\").touch()\n"
        "if os.environ['RANK'] == '1' and count == '0': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    said: list[str] = []
    assert launch([sys.executable, "-c", code], 2, restarts=2, say=said.append) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0", "1-1"]
    assert said == [
        "process 1 was killed by SIGKILL (the machine may have run out of memory): starting all "
        "again, restart 1 of 2"
    ]


def test_a_fault_of_the_program_is_not_tried_again(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "(place / os.environ['TORCHELASTIC_RESTART_COUNT']).touch()\nsys.exit(1)\n"
    )
    assert launch([sys.executable, "-c", code], 2, restarts=3, say=lambda text: None) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def launched(child: str) -> subprocess.Popen[str]:
    """Start a process that launches two of a program."""
    code = (
        "import sys\nfrom etude.distributed import launch\n"
        f"sys.exit(launch([sys.executable, '-c', {child!r}], 2))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_processes_that_do_not_and_says_so(tmp_path, number):
    child = (
        "import os, pathlib, signal, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "def note(*given): (place / ('asked' + os.environ['RANK'])).touch()\n"
        f"signal.signal({int(number)}, note)\n"
        "(place / ('ready' + os.environ['RANK'])).touch()\n"
        "while True: time.sleep(1)"
    )
    process = launched(child)
    for sign in ("ready", "asked"):
        end = time.monotonic() + 60
        while time.monotonic() < end and len(list(tmp_path.glob(f"{sign}*"))) < 2:
            time.sleep(0.05)
        process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == (
        "interrupted; the processes were ended at once: the last checkpoint is what is kept\n"
    )


def test_an_interrupt_of_the_launcher_reaches_every_process(tmp_path):
    child = (
        "import os, pathlib, signal, sys, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "def stop(*given):\n    (place / ('stopped' + os.environ['RANK'])).touch()\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "(place / ('ready' + os.environ['RANK'])).touch()\ntime.sleep(60)"
    )
    process = launched(child)
    end = time.monotonic() + 60
    while time.monotonic() < end and len(list(tmp_path.glob("ready*"))) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert sorted(path.name for path in tmp_path.glob("stopped*")) == ["stopped0", "stopped1"]
