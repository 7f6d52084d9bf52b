"""What can take one of a few values: enumerations that are equal to the words in files."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError, StorageError, UnknownNameError, member
from etude.measure.effect import Effect
from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status
from etude.trials.phase import Phase
from etude.tuning.outcome import Outcome
from etude.tuning.result import RungCost, TuneResult
from etude.tuning.trial_summary import TrialSummary

KINDS = (Status, Outcome, Phase, Effect)
MEMBERS = [one for kind in KINDS for one in kind]


@pytest.mark.parametrize("one", MEMBERS, ids=str)
def test_a_member_is_its_word_in_files_texts_and_comparisons(one):
    assert json.loads(json.dumps({"it": one, one: 1})) == {"it": str(one), str(one): 1}
    assert tomli_w.dumps({"it": one}) == tomli_w.dumps({"it": one.value})
    assert one == one.value
    assert one in {one.value}
    assert f"{one}" == "".join([one]) == one.value
    assert pickle.loads(pickle.dumps(one)) is one
    assert member(type(one), one.value, "word") is member(type(one), one, "word") is one


@given(st.sampled_from(KINDS), st.text(max_size=30) | st.none() | st.integers())
def test_any_other_word_is_refused_in_one_line_that_lists_the_known_ones(kind, word):
    if word in set(kind):
        return
    with pytest.raises(UnknownNameError, match=r"unknown word .*Known: ") as refused:
        member(kind, word, "word")
    message = str(refused.value)
    assert "\n" not in message
    assert all(one in message for one in kind)


@given(st.sampled_from(Phase), st.floats(1e-6, 1.0))
def test_a_part_of_the_cost_is_told_by_a_name_that_leads_back_to_its_phase(phase, share):
    assert Phase.of(phase.at(share)) is phase
    assert (phase.at(share) != phase.at(share / 3)) == phase.rung


@pytest.mark.parametrize("name", ["to", "to 25", "to x%", "refine 25%", "finished", "", "%"])
def test_a_name_that_no_part_of_a_tuning_has_is_refused(name):
    with pytest.raises(UnknownNameError, match="unknown part of a tuning"):
        Phase.of(name)
    with pytest.raises(UnknownNameError, match="unknown part of a tuning"):
        RungCost(name, 1.0).phase  # noqa: B018


def record(status="finished"):
    evaluations = (Evaluation(0, 2.0), Evaluation(4, 1.0))
    return Record(
        "line", Recipe(lr=0.1, steps=4, batch_size=8), status, "", 4, None, {}, evaluations,
        Cost(4, 32, 0.1), {},
    )  # fmt: skip


def result(**more):
    fields = {
        "recipe": record().recipe, "lr": 0.1, "tied": (0.1, 0.1), "stable_below": None,
        "cost": 1.0, "costs": (RungCost("finish", 1.0),), "outcome": "found",
        "untrained": Evaluation(0, 2.0), "record": record(),
        "trials": (TrialSummary(0.1, record(), False, True, "trials/lr-0.1"),), "budget": 1.5,
        "seconds": 1.0,
    }  # fmt: skip
    return TuneResult(**{**fields, **more})


def test_a_word_becomes_its_member_where_a_record_or_a_result_is_made():
    assert record("diverged").status is Status.DIVERGED
    assert result(outcome="at an edge").outcome is Outcome.AT_AN_EDGE
    assert replace(result(), outcome="unfinished").outcome is Outcome.UNFINISHED
    assert result().costs[0].phase is Phase.FINISH


def test_what_no_run_and_no_tuning_ends_with_is_refused():
    with pytest.raises(UnknownNameError, match="unknown status 'finnished': did you mean 'finish"):
        record("finnished")
    with pytest.raises(UnknownNameError, match="unknown outcome 'at the edge': did you mean"):
        result(outcome="at the edge")
    with pytest.raises(UnknownNameError, match="unknown part of a tuning 'rest'"):
        result(costs=(RungCost("rest", 1.0),))
    with pytest.raises(BadValueError, match=r"lr=0\.2 is none of the rates tried"):
        result(lr=0.2)
    with pytest.raises(BadValueError, match="'no better than a constant' needs constant="):
        result(outcome="no better than a constant")


@pytest.fixture
def folder(tmp_path):
    best = result()
    (tmp_path / "trials" / "lr-0.1").mkdir(parents=True)
    best.record.save(tmp_path / "trials" / "lr-0.1")
    best.save(tmp_path)
    return tmp_path


def test_a_folder_holds_the_words_and_reads_them_back(folder):
    assert json.loads((folder / "record.json").read_text())["status"] == "finished"
    kept = json.loads((folder / "tuning.json").read_text())["result"]
    assert (kept["outcome"], kept["costs"]) == ("found", {"finish": 1.0})
    assert TuneResult.load(folder).plain() == result().plain()
    assert Record.load(folder).status is Status.FINISHED


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("record.json", '"finished"', '"done"', "unknown status 'done'"),
        ("tuning.json", '"found"', '"lost"', "unknown outcome 'lost'"),
        ("tuning.json", '"finish"', '"finale"', "unknown part of a tuning 'finale'"),
        ("tuning.json", '"lr": 0.1', '"lr": 0.2', "is none of the rates tried"),
    ],
)
def test_a_folder_with_an_unknown_word_is_refused_in_one_line(folder, name, old, new, message):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1 if "lr" in old else -1))
    with pytest.raises(StorageError, match=f"is damaged: .*{message}") as refused:
        TuneResult.load(folder)
    assert "\n" not in str(refused.value)
