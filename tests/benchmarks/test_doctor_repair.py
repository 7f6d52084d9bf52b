"""Repair scored on the zoo: what counts as undone, and what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import doctor
from benchmarks.doctor import mended, mended_table, verify
from benchmarks.doctor.case import Case
from benchmarks.doctor.edits import fields
from benchmarks.doctor.mended import Mended, undone
from benchmarks.doctor.verify import Verified

SCORES = st.floats(0.0, 10.0)


def scored(error: float, by: str = "error") -> Verified:
    return Verified("bad_data", "", "twin", by, error, error, 1.0, "")


def short(name: str, steps: int) -> Case:
    case = doctor.get(name)
    shorter = replace(case.program, setup=lambda: fields(steps=steps)(case.program.setup()))
    return replace(case, program=shorter)


@given(SCORES, st.floats(0.0, 0.8), st.floats(0.1, 1.0))
def test_the_twin_undoes_all_and_the_fault_nothing(found: float, twin: float, harm: float) -> None:
    fault = twin + harm * (1 - twin)
    ends = scored(fault), scored(twin)
    assert undone(Mended("", "", twin, twin), *ends) == pytest.approx(1.0)
    assert undone(Mended("", "", fault, fault), *ends) == pytest.approx(0.0)
    less = undone(Mended("", "", found, found), *ends)
    assert undone(Mended("", "", found / 2, found / 2), *ends) >= less


def test_to_diverge_less_badly_is_not_to_mend() -> None:
    assert undone(Mended("", "", 4.0, 4.0), scored(10.0), scored(0.0)) == 0.0
    assert undone(Mended("", "", 0.5, 0.5), scored(10.0), scored(0.0)) == 0.5


def test_the_harm_is_measured_by_what_the_fault_harms() -> None:
    way = Mended("", "", error=0.9, loss=0.1)
    assert undone(way, scored(1.0, "loss"), scored(0.0, "loss")) == pytest.approx(0.9)
    assert undone(way, scored(1.0), scored(0.0)) == pytest.approx(0.1)


def test_a_fault_of_the_loop_or_of_an_unknown_optimizer_has_no_recipe() -> None:
    assert mended.fits(doctor.get("wine-tiny/decay of 1/0"))
    assert not mended.fits(doctor.get("wine-tiny/healthy/0"))
    assert not mended.fits(doctor.get("digits-resnet/no zero_grad/0"))
    assert not mended.fits(doctor.get("clusters-deep/rprop/0"))
    assert not mended.fits(doctor.get("ring-gan/rate 50 times/0"))


def test_what_was_mended_is_kept_and_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mended, "TABLE", tmp_path / "repair.json")
    case = short("wine-tiny/decay of 1/0", 40)
    table = mended.mend([case], ["unchanged", "a remedy at random"])
    assert mended.read() == table
    monkeypatch.setitem(mended.WAYS, "unchanged", lambda case: pytest.fail("measured again"))
    assert mended.mend([case], ["unchanged"]) == table
    rows = table[case.name]
    assert rows["unchanged"].remedy == ""
    assert rows["a remedy at random"].remedy in mended.REMEDIES
    told = mended_table.report(table, [doctor.get(case.name)], verify.read())
    assert "| unchanged | open | all | 1 |" in told
    assert "| `too_much_regularisation` | " in told


@pytest.mark.slow
def test_the_true_cause_of_too_much_decay_mends_it() -> None:
    case = doctor.get("wine-tiny/decay of 1/0")
    table = verify.read()
    found = mended.measure(case, "true cause")
    assert found.remedy == "less regularisation"
    assert undone(found, table[case.name], table[case.twin.name]) > mended.REPAIRED
