"""The command line of the benchmarks: they print help, and refuse what they do not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import arguments

HOME = Path(arguments.__file__).parent
PROGRAMS = [path for path in HOME.rglob("*.py") if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_prints_what_the_benchmark_does_and_runs_nothing(asked, capsys):
    with pytest.raises(SystemExit, match="0"):
        arguments.read("Measures the wall.\n\n    python -m benchmarks.wall", [asked])
    assert "Measures the wall.\n\n    python -m benchmarks.wall" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["--held", "digits-mlp"])
def test_what_a_benchmark_does_not_know_is_refused(given, capsys):
    with pytest.raises(SystemExit, match="2"):
        arguments.read("Measures.", [given])
    assert given in capsys.readouterr().err


def test_names_and_flags_are_told_apart():
    given = arguments.read("Measures.", ["a", "--held", "b"], flags=["--held"], names="task")
    assert given == (["a", "b"], {"--held"})
    assert arguments.read("Measures.", [], flags=["--held"], names="task") == ([], set())


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(HOME)))
def test_every_program_reads_its_arguments(path):
    text = path.read_text()
    assert "arguments.read(__doc__" in text or "argparse" in text, "it would run on --help"
