"""Samplers: proposals within the ranges, the same at every try, and what is refused."""

import math
import statistics
import sys

import pytest

from etude.errors import BadTypeError, BadValueError, MissingExtraError
from etude.storage.study import StudyDatabase
from etude.studies import samplers
from etude.studies.groups import GroupTrainer
from etude.studies.plan import StudyPlan
from etude.studies.samplers import Sampled, searches
from etude.studies.study import resume, study

PLAN = {
    "name": "sampled",
    "tasks": "cancer-mlp",
    "lrs": {"from": 1e-4, "to": 1.0},
    "seeds": [0, 1],
    "steps": 3,
    "sampler": "tpe",
    "trials": 10,
}


@pytest.fixture
def run(tmp_path):
    def go(**changes):
        storage = tmp_path / f"{changes.pop('at', 's')}.db"
        return study({**PLAN, **changes}, storage=storage, engine="loop", progress=False)

    return go


def rates(found):
    return [row.lr for row in found.rows]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])  # cmaes needs two ranges
def test_proposals_lie_in_the_range_and_are_the_same_again(run, sampler):
    found = run(sampler=sampler)
    assert len(found.rows) == 20
    assert len(set(rates(found))) == 10
    assert all(1e-4 <= lr <= 1.0 for lr in rates(found))
    for lr in set(rates(found)):
        assert {row.seed for row in found.rows if row.lr == lr} == {0, 1}
    assert run(sampler=sampler, at="again") == found


def proposals(plan, loss):
    """The rates that a sampler proposes, round by round, if a formula gives the losses."""
    sampled, losses, found = Sampled(plan), {}, []
    while trials := sampled._next(losses):
        losses |= {one.key: loss(one.recipe.lr) for one in trials}
        found.append([one.recipe.lr for one in trials])
    return found


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_results_decide_what_is_proposed_after_the_first_rounds(sampler):
    ranges = {"lrs": {"from": 1e-4, "to": 1.0}, "batch_sizes": {"from": 8, "to": 64, "by": 8}}
    plan = StudyPlan(**{**PLAN, **ranges, "sampler": sampler, "trials": 32, "seeds": 0})
    low, high = (
        proposals(plan, lambda lr, best=best: abs(math.log10(lr / best))) for best in (1e-3, 0.3)
    )
    assert low[0] == high[0]  # nothing is known yet
    assert low[-1] != high[-1]
    assert statistics.geometric_mean(low[-1]) < statistics.geometric_mean(high[-1])
    assert all(1e-4 <= lr <= 1.0 for rates in low + high for lr in rates)


def test_the_second_round_depends_on_the_results_of_the_first(run):
    short, long = (run(trials=20, seeds=0, steps=steps, at=str(steps)) for steps in (3, 30))
    assert rates(short)[:16] == rates(long)[:16]
    assert rates(short)[16:] != rates(long)[16:]


def test_each_kind_of_run_is_searched_in_its_own_range(run):
    found = run(
        optimizers=["adam", "sgd"],
        lrs={"adam": {"from": 1e-4, "to": 1e-3}, "sgd": {"from": 0.1, "to": 1.0}},
        batch_sizes={"from": 8, "to": 64, "by": 8},
        seeds=0,
        trials=5,
    )
    assert len(found.rows) == 10
    for row in found.rows:
        assert row.lr <= 1e-3 if row.kind.optimizer == "adam" else row.lr >= 0.1
        assert row.kind.batch_size in range(8, 65, 8)


def test_an_interrupted_study_goes_on_to_the_same_end(run, tmp_path, monkeypatch):
    whole = run(at="whole")
    real, calls = GroupTrainer.train, []

    def stop(self, trials):
        calls.append(len(trials))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, trials)

    monkeypatch.setattr(GroupTrainer, "train", stop)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; 16 of 20 trials are stored"):
        run()
    with StudyDatabase(tmp_path / "s.db") as database:
        counts = database.resume("sampled").counts()
    assert (counts.done, counts.waiting) == (16, 4)
    assert resume("sampled", storage=tmp_path / "s.db", engine="loop", progress=False) == whole
    assert calls == [16, 4, 4]
    assert run() == whole
    assert calls == [16, 4, 4]


def test_a_trial_that_fails_is_told_as_failed(tmp_path, run, monkeypatch):
    monkeypatch.setenv("ETUDE_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\nfrom etude import Task\n\ndef broken():\n"
        "    def loss(output, target):\n        raise RuntimeError('no loss today')\n"
        "    return Task(torch.nn.Linear(1, 1), (torch.ones(8, 1), torch.ones(8, 1)), loss=loss)\n"
    )
    found = run(tasks=f"{file}:broken", seeds=0, trials=9)
    assert [str(row.state) for row in found.rows] == ["failed"] * 9


def test_a_divergence_does_not_end_the_search(run):
    found = run(lrs={"from": 1e-2, "to": 1e7}, seeds=0, trials=12)
    assert len(found.rows) == 12
    assert any(row.diverged for row in found.rows)


def test_the_round_of_a_search_does_not_depend_on_its_length():
    one = Sampled(StudyPlan(**PLAN)).first()
    other = Sampled(StudyPlan(**{**PLAN, "trials": 500})).first()
    assert one == other
    assert len(one) == samplers.ROUND * 2


def test_the_plan_of_a_sampler_comes_back_from_its_plain_form():
    plan = StudyPlan(**PLAN)
    assert plan.plain()["lrs"] == {"from": 1e-4, "to": 1.0}
    (one,), (other,) = searches(plan), searches(StudyPlan(**plan.plain()))
    assert (one.base, dict(one.spans)) == (other.base, dict(other.spans))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "tpee"}, "unknown sampler 'tpee': did you mean 'tpe'"),
        ({"sampler": 3}, "sampler=3: give a name"),
        ({"sampler": None}, "trials is how many proposals a sampler makes"),
        ({"trials": None}, "sampler='tpe' without trials"),
        ({"trials": 0}, "trials=0 is out of bounds"),
        ({"trials": 1.5}, "trials=1.5 is not a whole number"),
        ({"halving": 2}, "halving and sampler exclude each other"),
        ({"sampler": None, "trials": None}, "is no range: give from, to, and either"),
    ],
)
def test_bad_plans_are_refused_with_the_fix(changes, message):
    with pytest.raises((BadValueError, BadTypeError), match=message):
        StudyPlan(**{**PLAN, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrs": [0.1, 0.2]}, "sampler='tpe' has no range to sample: give one"),
        ({"batch_sizes": {"from": -4, "to": 64, "by": 2}}, "batch_size=-4 is out of bounds"),
        ({"seeds": {"from": 0, "to": 9_999, "by": 1}, "trials": 9_000}, "the plan has 90,000,000"),
    ],
)
def test_what_no_run_can_have_is_refused_before_any_training(changes, message):
    with pytest.raises(BadValueError, match=message):
        searches(StudyPlan(**{**PLAN, **changes}))


def test_cmaes_needs_two_ranges_and_its_library(monkeypatch):
    plan = StudyPlan(**{**PLAN, "sampler": "cmaes"})
    with pytest.raises(BadValueError, match="sampler='cmaes' needs at least two ranges"):
        searches(plan)
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingExtraError, match=r"a sampler needs cmaes .*etude\[search\]"):
        Sampled(plan)
