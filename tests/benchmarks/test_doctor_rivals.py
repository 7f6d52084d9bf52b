"""The installable rivals on the zoo: they hear the losses, change no bit, and go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import doctor, watch_rivals
from benchmarks.doctor import causes, rivals_page, score
from benchmarks.doctor.case import Case
from benchmarks.doctor.diagnoser import Verdict
from benchmarks.doctor.edits import fields
from benchmarks.doctor.heard import heard
from benchmarks.doctor.installed import ADVICE, INSTALLED, Torchmortem, Trainscope, advised, run
from benchmarks.watch_loop import Loop


def short(name: str, steps: int) -> Case:
    case = doctor.get(name)
    shorter = replace(case.program, setup=lambda: fields(steps=steps)(case.program.setup()))
    return replace(case, program=shorter)


LOOPS = {program.loop: name for name, program in doctor.PROGRAMS.items()}


@pytest.mark.parametrize("name", LOOPS.values())
def test_the_losses_that_are_heard_are_those_of_the_loop_to_the_bit(name: str) -> None:
    case = short(f"{name}/healthy/0", 3)
    listening, ears = heard(case)
    told: list[float] = []

    @contextmanager
    def watcher(model: nn.Module, optimizer: Any) -> Iterator[None]:
        last = optimizer[-1] if isinstance(optimizer, tuple) else optimizer
        last.register_step_post_hook(lambda *_: told.append(ears.update()))
        yield

    outcome = listening.run(watcher)
    assert listening.name == case.name
    assert outcome.losses == case.run().losses
    assert told == pytest.approx(outcome.losses, rel=1e-6)


def test_a_fault_is_heard_as_it_is() -> None:
    case = short("friedman-adamw/wrong shapes/0", 2)
    assert heard(case)[0].run().losses == case.run().losses
    assert heard(case)[0].twin.name == case.twin.name


@pytest.mark.parametrize("tool", ["torchmortem", "trainscope"])
@pytest.mark.parametrize("name", ["wine-tiny", "ring-gan", "diabetes-lbfgs"])
def test_an_installed_tool_sees_every_update_and_changes_no_bit(tool: str, name: str) -> None:
    pytest.importorskip(tool)
    case = short(f"{name}/healthy/0", 5)
    told = run.__wrapped__(case, tool)
    assert told.failures == {}
    assert told.updates == 5
    assert (told.report is not None) == (tool == "torchmortem")


def test_trainscope_flags_a_loss_that_jumps() -> None:
    pytest.importorskip("trainscope")
    case = short("clusters-plain/no zero_grad/0", 120)
    flagged, rising = Trainscope().diagnose(case), Trainscope("rising", True).diagnose(case)
    assert flagged.faulty
    assert flagged.causes == ()
    assert rising.update is None or rising.update >= (flagged.update or 0)


def test_torchmortem_names_causes_by_its_advice() -> None:
    pytest.importorskip("torchmortem")
    verdict = Torchmortem().diagnose(short("clusters-plain/sigmoids/0", 30))
    assert verdict.faulty
    assert verdict.update == 29
    assert set(verdict.causes) <= set(causes.CAUSES)


def test_every_finding_of_torchmortem_leads_to_causes_of_the_zoo() -> None:
    assert set().union(*map(set, ADVICE.values())) <= set(causes.CAUSES)
    assert advised("Dead units in 0")[0] == "lr_too_high"
    assert advised("Edge of stability regime detected") == ()
    assert len({rival.name for rival in INSTALLED}) == len(INSTALLED)


def test_verdicts_that_are_stored_are_not_made_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(score, "FOLDER", tmp_path)
    asked: list[str] = []

    class Asked:
        name = "some, tool"

        def diagnose(self, case: Case) -> Verdict:
            asked.append(case.name)
            return Verdict(("bad_data",), "0", 3)

    cases = [short("wine-tiny/healthy/0", 2), short("wine-tiny/decay of 1/0", 2)]
    first = score.go_on([Asked()], cases[:1])
    again = score.go_on([Asked()], cases)
    assert asked == [case.name for case in cases]
    assert again["some, tool"][:1] == first["some, tool"] == score.stored("some, tool")[:1]
    changed = short("wine-tiny/healthy/0", 3)
    score.go_on([Asked()], [changed])
    assert asked[-1] == changed.name
    assert len(asked) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["some_tool.json"]


def test_a_tool_that_is_missing_is_named_and_one_that_raises_has_no_ratio(monkeypatch) -> None:
    @contextmanager
    def missing(loop: Loop, folder: str) -> Iterator[None]:
        watch_rivals.load("no_such_tool")
        yield

    @contextmanager
    def raises(loop: Loop, folder: str) -> Iterator[None]:
        raise RuntimeError("no such layer")
        yield

    network = {"tiny": (lambda: (nn.Linear(4, 10), torch.randn(64, 4)), 8)}
    monkeypatch.setattr(watch_rivals, "NETWORKS", network)
    tools = {"gone": missing, "broken": raises, "nothing": watch_rivals.nothing}
    monkeypatch.setattr(
        watch_rivals, "RIVALS", {name: (watch_rivals.nothing, tool) for name, tool in tools.items()}
    )
    rows = [watch_rivals.cost("tiny", name, 2, 0.0) for name in tools]
    assert "pip install no_such_tool" in rows[0]["why_not"]
    assert rows[1]["why_not"] == "RuntimeError: no such layer"
    assert rows[2]["ratio"] > 0
    told = "\n".join(watch_rivals.lines(rows))
    assert "| gone | — |" in told
    assert "broken: RuntimeError: no such layer" in told


def test_diagnosers_are_set_beside_each_other_on_the_same_cases_alone(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(score, "FOLDER", tmp_path)

    def judged(case: str, digest: str) -> score.Row:
        return score.Row(case, "digits-cnn", "", "", 9, Verdict(), digest)

    score.keep("first", [judged("a/b/0", "1"), judged("a/c/0", "1"), judged("a/d/0", "1")])
    score.keep("second", [judged("a/d/0", "1"), judged("a/b/0", "1"), judged("a/c/0", "changed")])
    found = rivals_page.common(["first", "second"])
    assert {name: [row.case for row in rows] for name, rows in found.items()} == {
        "first": ["a/b/0", "a/d/0"],
        "second": ["a/b/0", "a/d/0"],
    }
    told = rivals_page.page(["first"], ["second"], [])
    assert "0 faulty and 2 healthy cases of 1 of the 33 programs; seeds: 0." in told
    assert "0 faulty and 3 healthy cases" in told
    assert "Not measured." in rivals_page.page(["first"], ["third"], [])
