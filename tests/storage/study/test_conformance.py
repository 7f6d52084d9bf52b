"""What every study database does: the same tests for SQLite and PostgreSQL."""

from __future__ import annotations

import math
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from etude.errors import BadTypeError, BadValueError, StorageError, UnknownNameError
from etude.storage.study import (
    Acceptance,
    Counts,
    LeaseKeeper,
    StudyDatabase,
    TrialResult,
    TrialState,
)
from etude.storage.study.connection import Connector
from tests.storage.study.common import PLAN, Clock, loss_of, parameters, record, result, study_of

ONE_DATABASE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


# ---- studies -----------------------------------------------------------------------------------


def test_a_study_is_read_back_with_its_plan_and_its_trials(opened):
    study_of(opened(), 6)
    study = opened().resume("rates")
    assert study.plan == PLAN
    assert [trial.parameters for trial in study.trials()] == parameters(6)
    assert [trial.number for trial in study.trials()] == list(range(6))
    assert study.counts() == Counts(waiting=6)
    assert study.counts().total == 6


def test_the_same_name_and_plan_is_the_same_study(database):
    first = database.open_study("rates", PLAN, parameters(3))
    first.claim(1, "a")
    again = database.open_study("rates", dict(reversed(PLAN.items())), parameters(99))
    assert again.id == first.id
    assert again.counts() == Counts(waiting=2, running=1)


def test_the_same_name_with_another_plan_is_refused_and_the_difference_is_named(database):
    study_of(database)
    other = {**PLAN, "lrs": [0.1, 0.3]}
    with pytest.raises(StorageError, match=r"another plan: lrs\[1\] is 0\.2 there and 0\.3 here"):
        database.open_study("rates", other, [])
    with pytest.raises(StorageError, match="another plan: seeds is only there"):
        database.open_study("rates", {"lrs": [0.1, 0.2]}, [])
    with pytest.raises(StorageError, match="already has a study 'rates'"):
        database.create("rates", PLAN, [])


def test_an_unknown_study_is_told_with_its_neighbours(database):
    study_of(database)
    with pytest.raises(UnknownNameError, match="did you mean 'rates'"):
        database.resume("ratse")


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\0b", "x" * 201])
def test_a_name_that_cannot_be_stored_is_refused(database, name):
    with pytest.raises(BadValueError, match="the name of a study is"):
        database.create(name, PLAN, [])


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"lrs": [0.1, math.nan]}, BadValueError, "'lrs' of the plan is nan: give a finite number"),
        ({"lrs": {0.1}}, BadTypeError, "'lrs' of the plan is {0.1} of set"),
        ({"model": nn.ReLU()}, BadTypeError, r"'model' of the plan is ReLU\(\) of ReLU"),
        ({3: 4}, BadTypeError, "the plan has the key 3: keys are texts"),
    ],
)
def test_a_plan_that_json_cannot_hold_is_refused(database, plan, error, message):
    with pytest.raises(error, match=message):
        database.create("rates", plan, [])
    assert database.studies() == []


def test_two_equal_trials_are_refused_and_nothing_is_stored(database):
    with pytest.raises(BadValueError, match="trials 0 and 2 have equal parameters"):
        database.create("rates", PLAN, [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1}])
    assert database.studies() == []


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(ONE_DATABASE, max_examples=10)
@given(tables=st.lists(st.dictionaries(st.text(), plain, max_size=4), max_size=20))
def test_parameters_come_back_as_they_were(database, tables):
    study = database.open_study("any", {})
    numbers = study.add(tables)
    kept = [trial.parameters for trial in study.trials()]
    assert [kept[number] for number in numbers] == tables
    assert study.add(tables) == numbers


def test_added_trials_are_numbered_on_and_known_ones_keep_their_number(database):
    study = study_of(database, 3)
    added = study.add([{"lr": 7.0}, *parameters(2), {"lr": 8.0}, {"lr": 7.0}])
    assert added == [3, 0, 1, 4, 3]
    assert study.counts() == Counts(waiting=5)


def test_studies_are_listed_by_name(database):
    study_of(database, 2, "b")
    study_of(database, 3, "a").claim(1, "w")
    assert [(one.name, one.counts) for one in database.studies()] == [
        ("a", Counts(waiting=2, running=1)),
        ("b", Counts(waiting=2)),
    ]


def test_a_study_with_results_is_deleted_only_by_force(database):
    study = study_of(database, 3)
    (claim,) = study.claim(1, "a")
    study.finish([result(claim, record=record())])
    with pytest.raises(StorageError, match=r"1 trials done, 0 failed and 0 running: give force"):
        database.delete("rates")
    folder = study.files.path
    assert list(folder.rglob("*.safetensors"))
    database.delete("rates", force=True)
    assert database.studies() == []
    assert not folder.exists()
    assert study_of(database, 1).files.path != folder


def test_a_study_that_never_began_is_deleted_without_force(database):
    study_of(database)
    database.delete("rates")
    assert database.studies() == []


# ---- the queue ---------------------------------------------------------------------------------


def test_claims_come_in_order_and_no_trial_twice(database):
    study = study_of(database, 5)
    first, second, third = study.claim(2, "a"), study.claim(2, "b"), study.claim(2, "c")
    assert [[c.number for c in some] for some in (first, second, third)] == [[0, 1], [2, 3], [4]]
    assert study.claim(1, "d") == []
    assert [c.parameters for c in first] == parameters(2)
    assert {(c.worker, c.attempt) for c in first} == {("a", 1)}
    assert len({some[0].lease for some in (first, second, third)}) == 3
    assert [w.name for w in study.workers()] == ["a", "b", "c"]  # d claimed nothing


def test_a_claim_may_choose_among_numbers(database):
    study = study_of(database, 1_500)
    study.claim(1, "a", among=[7])
    assert [c.number for c in study.claim(3, "a", among=[9, 7, 1_400, 3, 8])] == [3, 8, 9]
    assert [c.number for c in study.claim(900, "a", among=range(600, 1_500))] == [
        *range(600, 1_500)
    ]


def test_a_claim_is_plain_data(database):
    study = study_of(database)
    (claim,) = study.claim(1, "a")
    assert pickle.loads(pickle.dumps(claim)) == claim


def test_released_trials_wait_again_and_count_as_no_lost_worker(database):
    study = study_of(database, 3)
    claims = study.claim(2, "a")
    study.release(claims[:1])
    assert study.counts() == Counts(waiting=2, running=1)
    (again,) = study.claim(1, "b")
    assert (again.number, again.attempt) == (0, 2)
    assert study.trial(0).lost == 0
    study.release([claims[0]])  # its lease is not the last: nothing happens
    assert study.counts() == Counts(waiting=1, running=2)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
def test_a_lease_has_a_length(database, wrong):
    study = study_of(database)
    with pytest.raises(BadValueError, match="a lease lasts more than 0"):
        study.claim(1, "a", seconds=wrong)
    with pytest.raises(BadValueError, match="claim at least 1 trial"):
        study.claim(0, "a")


# ---- results -----------------------------------------------------------------------------------


def test_a_result_is_read_back(database):
    study = study_of(database, 3)
    (claim,) = study.claim(1, "a")
    values = {"edge": 2.5, "sharpness": math.inf}
    assert study.finish([result(claim, values=values, seconds=1.5)]) == [Acceptance.ACCEPTED]
    trial = study.trial(0)
    assert (trial.state, trial.loss, trial.metric) == (TrialState.DONE, loss_of(claim), 0.5)
    assert (trial.diverged, trial.seconds, trial.values) == (False, 1.5, values)
    assert (trial.attempts, trial.worker, trial.error) == (1, "a", None)
    assert [one.number for one in study.trials(state=TrialState.DONE)] == [0]
    assert study.counts() == Counts(waiting=2, done=1)


@pytest.mark.parametrize(
    ("loss", "stored"),
    [(math.inf, math.inf), (math.nan, None), (None, None), (-math.inf, -math.inf)],
)
def test_the_same_numbers_come_back_from_every_database(database, loss, stored):
    study = study_of(database, 1)
    study.finish([TrialResult(study.claim(1, "a")[0], loss, diverged=True)])
    trial = study.trial(0)
    assert (trial.loss, trial.diverged) == (stored, True)


def test_a_record_and_weights_are_files_named_by_their_digest(database):
    study = study_of(database, 2)
    claims = study.claim(2, "a")
    kept = record()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    study.finish([TrialResult.of(claims[0], kept), result(claims[1], record=kept, model=model)])
    first, second = study.trials()
    assert (first.loss, first.metric, first.seconds) == (1.0, 0.7, 0.25)
    assert first.record == second.record  # the same content is the same file
    found = study.record(first)
    assert found.plain() == kept.plain()
    for name, values in kept.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], values)
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    study.load_weights(second, other)
    for one, two in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(StorageError, match="the weights of trial 0 was not stored"):
        study.load_weights(first, other)
    with pytest.raises(StorageError, match="or of another model"):
        study.load_weights(second, nn.Linear(3, 2))


def test_a_result_that_is_sent_again_is_recognised(database):
    study = study_of(database, 1)
    (claim,) = study.claim(1, "a")
    both = [result(claim), result(claim, loss=9.0)]
    assert study.finish(both) == [Acceptance.ACCEPTED, Acceptance.SAME]
    assert study.finish([result(claim)]) == [Acceptance.SAME]
    assert study.fail(claim, "late thoughts") == Acceptance.SAME
    assert study.trial(0).loss == loss_of(claim)


def test_a_failed_trial_keeps_its_error_and_the_others_go_on(database):
    study = study_of(database, 2)
    one, two = study.claim(2, "a")
    error = ValueError("no layer '\0\ud800'")
    assert study.fail(one, error, "model.py:12") == Acceptance.ACCEPTED
    assert study.finish([result(two)]) == [Acceptance.ACCEPTED]
    trial = study.trial(0)
    assert (trial.state, trial.place) == (TrialState.FAILED, "model.py:12")
    assert trial.error == "ValueError: no layer '\\0\\ud800'"
    assert study.counts() == Counts(done=1, failed=1)
    assert study.counts().finished
    study.fail(study.claim(1, "a")[0], "x" * 100_000) if study.add([{"lr": 9.0}]) else None
    assert len(study.trial(2).error) == 10_000


def test_a_claim_of_another_study_changes_nothing(database):
    study, other = study_of(database, 1), study_of(database, 1, "other")
    study.claim(1, "a")
    (claim,) = other.claim(1, "a")
    assert study.finish([result(claim)]) == [Acceptance.LATE]
    assert study.counts() == Counts(running=1)


def test_a_trial_that_is_not_there_is_told(database):
    study = study_of(database, 2)
    with pytest.raises(BadValueError, match="has no trial 2: it has 2, numbered from 0"):
        study.trial(2)


def test_pages_hold_all_trials_once(database, monkeypatch):
    monkeypatch.setattr("etude.storage.study.study.PAGE", 4)
    study = study_of(database, 12)
    assert [trial.number for trial in study.trials()] == list(range(12))
    assert [trial.number for trial in study.trials(after=9)] == [10, 11]


# ---- leases ------------------------------------------------------------------------------------


def test_the_trial_of_a_silent_worker_goes_back_to_the_queue(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 2)
    (lost,) = study.claim(1, "killed", seconds=30)
    clock.now += 29
    assert [c.number for c in study.claim(2, "b", seconds=100)] == [1]
    clock.now += 1
    assert study.counts() == Counts(waiting=1, running=1)
    (again,) = study.claim(2, "b")
    assert (again.number, again.attempt, study.trial(0).lost) == (0, 2, 1)
    assert study.finish([result(lost, loss=9.0)]) == [Acceptance.LATE]
    assert study.fail(lost, "late") == Acceptance.LATE
    assert study.finish([result(again)]) == [Acceptance.ACCEPTED]
    assert study.trial(0).loss == loss_of(again)


def test_a_heartbeat_holds_a_lease_and_tells_which_are_lost(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 2)
    claims = study.claim(2, "a", seconds=30)
    for _ in range(5):
        clock.now += 20
        assert study.heartbeat(claims, seconds=30) == []
        assert study.claim(1, "b") == []
    clock.now += 31
    (taken,) = study.claim(1, "b")
    assert study.heartbeat(claims, seconds=30) == [claims[0]]  # nobody had taken the other
    assert study.counts() == Counts(running=2)
    study.finish([result(taken), result(claims[1])])
    assert study.heartbeat(claims) == claims


def test_a_claim_among_some_takes_their_expired_trials_and_leaves_the_others(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 4)
    study.claim(4, "killed", seconds=30)
    assert study.waiting() == []
    clock.now += 31
    assert study.waiting() == [0, 1, 2, 3]
    assert [c.number for c in study.claim(9, "b", among=[1, 3])] == [1, 3]
    assert study.waiting() == [0, 2]
    assert study.claim(9, "b", among=[1, 3]) == []
    assert study.counts() == Counts(waiting=2, running=2)
    assert [study.trial(number).lost for number in range(4)] == [0, 1, 0, 1]
    assert [c.number for c in study.claim(9, "c")] == [0, 2]


def test_of_two_claims_of_one_trial_the_first_is_lost(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 1)
    (first,) = study.claim(1, "a", seconds=30)
    clock.now += 31
    (second,) = study.claim(1, "a", seconds=30)
    assert study.heartbeat([first, second], seconds=30) == [first]
    assert study.heartbeat([second], seconds=30) == []


def test_parameters_are_those_of_the_trials_in_order(opened):
    study = study_of(opened(), 5)
    assert list(study.parameters()) == [(t.number, t.parameters) for t in study.trials()]


def test_an_expired_lease_counts_until_another_worker_has_the_trial(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 2)
    (late,) = study.claim(1, "slow", seconds=10, among=[0])
    clock.now += 1_000
    study.claim(1, "b", among=[1])  # returns trial 0 to the queue, and does not take it
    assert study.finish([result(late)]) == [Acceptance.ACCEPTED]
    assert study.counts() == Counts(running=1, done=1)


def test_a_trial_that_kills_its_workers_fails_in_the_end(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 1)
    for i in range(3):
        (claim,) = study.claim(1, f"w{i}", seconds=10, most_lost=3)
        clock.now += 10
    assert study.claim(1, "w3", most_lost=3) == []
    trial = study.trial(0)
    assert (trial.state, trial.lost) == (TrialState.FAILED, 3)
    assert trial.error == (
        "its worker was lost 3 times: the process was killed, or it sent no heartbeat"
    )
    assert study.finish([result(claim)]) == [Acceptance.SAME]


@settings(ONE_DATABASE, max_examples=12)
@given(
    jumps=st.lists(
        st.floats(-1e6, 1e6) | st.sampled_from([-30.0, 30.0, 29.9, -0.1, 0.0]),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_no_jump_of_the_clock_loses_a_trial_or_finishes_one_twice(opened, jumps):
    clock = Clock()
    database = opened(clock=clock)
    study = study_of(database, 4)
    held = study.claim(2, "first", seconds=30)
    told = []
    for jump in jumps:
        clock.now += jump
        held += study.claim(1, "next", seconds=30)
    clock.now += 30  # after any jump a lease lasts no longer than its length
    held += study.claim(4, "last", seconds=30)
    told = study.finish([result(claim) for claim in held])
    assert study.counts() == Counts(done=4)
    assert told.count(Acceptance.ACCEPTED) == 4
    database.delete("rates", force=True)


def test_a_clock_set_back_keeps_no_trial_from_the_queue(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 1)
    study.claim(1, "killed", seconds=30)
    clock.now -= 86_400
    assert [c.number for c in study.claim(1, "b", seconds=30)] == [0]


def test_the_time_of_day_decides_nothing(opened, monkeypatch):
    """Leases follow the server's clock, or the machine's monotonic one; not this process's."""
    study = study_of(opened(), 1)
    (claim,) = study.claim(1, "a", seconds=30)
    for jump in (1e6, -1e6):
        monkeypatch.setattr("time.time", lambda jump=jump: 1.7e9 + jump)
        assert study.claim(1, "b") == []
    assert study.finish([result(claim)]) == [Acceptance.ACCEPTED]


def test_a_keeper_sends_heartbeats_while_a_worker_trains(database):
    study = study_of(database, 2)
    claims = study.claim(2, "a", seconds=0.6)
    with LeaseKeeper(study, claims, seconds=0.6) as keeper:
        keeper.drop(claims[1:])
        threading.Event().wait(1.2)
        assert [c.number for c in study.claim(2, "b")] == [1]
        assert keeper.lost == ()
    assert keeper.error is None


def test_a_keeper_tells_which_claims_are_lost(opened):
    clock = Clock()
    study = study_of(opened(clock=clock), 2)
    claims = study.claim(2, "a", seconds=30)
    clock.now += 31
    study.claim(1, "b")
    told = threading.Event()
    kept = study.heartbeat

    def heartbeat(held, *, seconds):
        lost = kept(held, seconds=seconds)
        told.set()
        return lost

    study.heartbeat = heartbeat
    with LeaseKeeper(study, claims, seconds=0.1) as keeper:
        assert told.wait(20)
    assert keeper.lost == (claims[0],)


# ---- more than one at a time -------------------------------------------------------------------


def test_two_drivers_on_one_study_finish_every_trial_once(opened):
    study_of(opened(), 40)
    told: list[Acceptance] = []
    lock = threading.Lock()

    def drive(study):
        while claims := study.claim(3, threading.current_thread().name):
            found = study.finish([result(claim) for claim in claims])
            with lock:
                told.extend(found)

    drivers = [threading.Thread(target=drive, args=(opened().resume("rates"),)) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert told == [Acceptance.ACCEPTED] * 40
    assert opened().resume("rates").counts() == Counts(done=40)


def test_many_that_open_an_empty_database_at_once_make_one_schema(place, tmp_path):
    errors: list[Exception] = []

    def open_it():
        try:
            with StudyDatabase(place, folder=tmp_path) as database:
                database.open_study("rates", PLAN, parameters(5))
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with StudyDatabase(place) as database:
        assert database.resume("rates").counts() == Counts(waiting=5)


def test_an_operation_whose_acknowledgement_is_lost_can_be_run_again(database, monkeypatch):
    """The connection breaks at the commit, and nobody knows whether the transaction passed."""
    run = Connector._run

    def twice(self, work, patience, options):
        run(self, work, patience, options)
        return run(self, work, patience, options)

    monkeypatch.setattr(Connector, "_run", twice)
    study = study_of(database, 6)
    assert study.add([{"lr": 9.0}]) == [6]
    claims = study.claim(4, "a")
    assert [(c.number, c.attempt) for c in claims] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert study.counts() == Counts(waiting=3, running=4)
    assert study.heartbeat(claims) == []
    assert study.finish([result(claim) for claim in claims[:2]]) == [Acceptance.SAME] * 2
    assert study.fail(claims[2], "no") == Acceptance.SAME
    study.release(claims[3:])
    assert study.counts() == Counts(waiting=4, done=2, failed=1)


def test_a_study_without_a_folder_says_so_where_a_record_is_stored(server):
    with StudyDatabase(server.emptied()) as database:
        study = study_of(database, 1)
        (claim,) = study.claim(1, "a")
        with pytest.raises(StorageError, match="no folder for records and weights: open it with"):
            study.finish([result(claim, record=record())])
        assert study.finish([result(claim)]) == [Acceptance.ACCEPTED]


def test_the_folder_of_files_is_beside_a_sqlite_file(tmp_path: Path):
    with StudyDatabase(tmp_path / "studies.db") as database:
        assert database.folder == tmp_path / "studies.files"
