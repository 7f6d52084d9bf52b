"""Populations: who copies whom, the schedule that is learned, and its replay to the bit."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import etude
from etude import Recipe, Task
from etude.engines import PoolEngine
from etude.errors import BadTypeError, BadValueError, Interrupted, StorageError
from etude.methods.exploit import copies
from etude.methods.lowering import Lowering, Next
from etude.methods.population import FACTORS, population
from etude.methods.rate_history import RateHistory
from etude.record import Evaluation, Status
from etude.report import present
from etude.report.methods import population_curves
from etude.schedules import Clock, constant, cosine, parse, warmup
from etude.trials.pool import TrialPool
from etude.trials.score import Goal
from tests.helpers import noisy, task

BASE = Recipe(
    optimizer={"name": "sgd", "momentum": 0.9},
    schedule="warmup('10%') >> cosine()",
    steps=40,
    batch_size=16,
    evaluations=4,
)
RATES = (0.001, 0.01, 0.1, 1.0)
MEMBERS = {"lrs": RATES, "generations": 5, "truncation": 0.5, "progress": False}


def trained(given=None, recipe=BASE, **more):
    return population(given or task(noisy), recipe, **{"engine": "loop", **MEMBERS, **more})


def weights(model):
    return [tensor.tolist() for tensor in model.state_dict().values()]


def said(found):
    """All that a population says, but for the time it took."""
    plain = {name: value for name, value in found.plain().items() if name != "seconds"}
    series = {n: values.tolist() for n, values in found.record.series.items()}
    return str(plain), str(series), weights(found.model)


# ---- who copies whom -------------------------------------------------------------------------

scores = st.lists(st.one_of(st.floats(-5, 5), st.just(math.inf)), min_size=2, max_size=12)
shares = st.floats(0.01, 0.5)
seeds = st.integers(0, 2**63 - 1)


@given(scores, shares, seeds, st.integers(1, 99))
def test_the_worse_copy_the_better_and_none_of_those_copies(row, share, seed, generation):
    found = copies(row, share, FACTORS, seed, generation)
    donors, members = {one.donor for one in found}, {one.member for one in found}
    count = max(1, math.floor(share * len(row)))
    sound = [score for score in row if math.isfinite(score)]
    assert not donors & members
    assert all(math.isfinite(row[donor]) for donor in donors)
    if not sound:
        assert not found
        return
    broken = {i for i, score in enumerate(row) if not math.isfinite(score)}
    assert broken <= members
    assert len(members) == max(min(count, len(row) - min(count, len(sound))), len(broken))
    for one in found:
        assert one.factor in FACTORS
        assert row[one.donor] <= row[one.member]
        assert sum(score < row[one.donor] for score in row) < count


@given(scores, shares, seeds, st.integers(1, 99))
def test_draws_depend_on_the_seed_the_generation_and_the_member_alone(row, share, seed, generation):
    one, two = (copies(row, share, FACTORS, seed, generation) for _ in range(2))
    assert one == two
    # A score that changes no rank changes no draw.
    assert copies([3 * s for s in row], share, FACTORS, seed, generation) == one


def test_other_seeds_and_generations_draw_otherwise():
    row = [float(i) for i in range(8)]
    drawn = [
        tuple(copies(row, 0.5, FACTORS, seed, generation))
        for seed in range(4)
        for generation in range(1, 5)
    ]
    assert len(set(drawn)) == len(drawn)


# ---- the schedule that is learned ------------------------------------------------------------


@given(
    st.floats(1e-6, 10),
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(FACTORS)), max_size=6),
    st.sampled_from([constant(), cosine(), warmup("10%") >> cosine()]),
)
def test_the_text_of_a_history_is_read_back_and_gives_the_same_rates(lr, moves, base):
    history, step = RateHistory(lr), 0
    for after, factor in moves:
        step += after
        history = history.moved(step, factor)
    schedule = history.schedule(base)
    read = parse(repr(schedule))
    assert read == schedule
    clock = Clock(horizon=200)
    bound, plain = read.over(clock), base.over(clock)
    for t in range(200):
        factor = history.factors[sum(b <= t for b in history.boundaries)]
        assert bound(t) == plain(t) * factor


@pytest.mark.parametrize("schedule", ["warmup('10%') >> cosine()", "constant()"])
def test_training_with_the_learned_schedule_gives_the_best_member_to_the_bit(schedule):
    """Members that begin low, whose copies go up."""
    of, recipe = task(noisy), BASE.replace(schedule=schedule)
    found = trained(of, recipe, lrs=(0.001, 0.002), factors=(1.5, 2.0))
    assert found.history.boundaries
    assert found.record.status == Status.FINISHED
    again = etude.train(of, Recipe.from_toml(found.recipe.to_toml()), evaluations=5)
    assert weights(again.model) == weights(found.model)
    for name in ("lr", "loss"):
        assert again.series[name].tobytes() == found.record.series[name].tobytes()
    bound = parse(repr(found.schedule)).over(BASE.steps)
    assert found.record.series["lr"].tolist() == [found.lr * bound(t) for t in range(BASE.steps)]


def test_every_member_tells_its_rates_scores_and_donors():
    found = trained()
    assert found.ends == (8, 16, 24, 32, 40)
    assert [one.rates[0] for one in found.members] == list(RATES)
    for one in found.members:
        assert len(one.rates) == len(one.scores) == len(one.donors) == 5
        assert one.donors[0] is None
        for place in range(1, 5):
            donor = one.donors[place]
            if donor is None:
                assert one.rates[place] == one.rates[place - 1]
                continue
            moved = one.rates[place] / found.members[donor].rates[place - 1]
            assert any(math.isclose(moved, factor) for factor in FACTORS)
    best = min(range(4), key=lambda i: (found.members[i].scores[-1], i))
    assert found.best == best
    assert found.copied == sum(d is not None for m in found.members for d in m.donors) > 0
    assert found.record.evaluations[-1].step == BASE.steps


def test_a_population_costs_a_run_for_each_member_and_copies_cost_nothing():
    assert trained().cost == pytest.approx(4.0)
    broken = trained(lrs=(0.01, 0.1, 1e30))
    assert 2.0 < broken.cost <= 3.0
    assert math.isinf(broken.members[2].scores[0])
    assert broken.members[2].donors[1] is not None
    assert all(math.isfinite(score) for score in broken.members[2].scores[1:])


def test_if_every_member_diverges_it_says_so():
    found = trained(lrs=(1e29, 1e30))
    assert found.best is None
    assert "Every member diverged" in found.advice()
    assert present(found).notice == found.advice()
    assert found.plain()["best"] is None


def test_an_edge_is_said():
    found = trained(lrs=(1e-6, 1e-5), factors=[1.0])
    assert "began at the highest rate" in found.advice()


# ---- engines, folders -------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_population_and_another_one_differs():
    assert said(trained()) == said(trained())
    other = trained(recipe=BASE.replace(seed=1))
    assert other.record.series["loss"].tolist() != trained().record.series["loss"].tolist()


@pytest.mark.slow
def test_processes_give_the_bits_of_the_loop():
    with PoolEngine(2) as pool:
        assert said(trained(engine=pool)) == said(trained())


def test_stacked_members_end_near_those_of_the_loop():
    of = task()
    ours, theirs = (trained(of, engine=engine) for engine in ("vmap", "loop"))
    assert not ours.notes
    assert [one.donors for one in ours.members] == [one.donors for one in theirs.members]
    assert ours.recipe == theirs.recipe
    for mine, other in zip(ours.members, theirs.members, strict=True):
        assert mine.scores == pytest.approx(other.scores, rel=1e-3)


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_population_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch, calls):
    of, home = task(noisy), tmp_path / "run"
    go, done = TrialPool.go, []

    def stopped(self, *args, **more):
        done.append(1)
        if len(done) > calls:
            raise Interrupted("stopped")
        go(self, *args, **more)

    monkeypatch.setattr(TrialPool, "go", stopped)
    with pytest.raises(Interrupted, match="stopped"):
        trained(of, folder=home)
    monkeypatch.setattr(TrialPool, "go", go)
    found = population(of, folder=home, resume=True, engine="loop", progress=False)
    assert said(found) == said(trained(of))
    assert (home / "model.safetensors").exists()


@pytest.mark.parametrize("copied", [0, 1])
def test_a_kill_between_two_copies_changes_nothing(tmp_path, monkeypatch, copied):
    of, home = task(noisy), tmp_path / "run"
    branch, done = TrialPool.branch, []

    def killed(self, *args):
        done.append(1)
        if len(done) == 3 + copied:
            raise KeyboardInterrupt
        return branch(self, *args)

    monkeypatch.setattr(TrialPool, "branch", killed)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        trained(of, folder=home)
    monkeypatch.setattr(TrialPool, "branch", branch)
    found = population(of, folder=home, resume=True, engine="loop", progress=False)
    assert said(found) == said(trained(of))


def test_members_that_wait_on_disk_change_nothing():
    assert said(trained(memory=1)) == said(trained())


def test_a_folder_that_is_none_of_a_population_is_refused(tmp_path):
    with pytest.raises(
        StorageError, match=r"no population to resume: there is no population\.json"
    ):
        population(task(), folder=tmp_path / "none", resume=True)
    with pytest.raises(BadValueError, match="needs folder="):
        population(task(), resume=True)
    with pytest.raises(
        BadValueError, match="own recipe, members and all other values: leave them out"
    ):
        population(task(), members=4, folder=tmp_path, resume=True)
    of, home = task(), tmp_path / "run"
    trained(of, folder=home)
    with pytest.raises(StorageError, match="already holds a run"):
        trained(of, folder=home)
    with pytest.raises(StorageError, match="holds a population, which cannot be resumed as a run"):
        etude.train(of, folder=home, resume=True)
    file = home / "population.json"
    file.write_text(file.read_text().replace('"generations": 5', '"generations": 0'))
    with pytest.raises(StorageError, match=r"is damaged: BadValueError: generations=0"):
        population(of, folder=home, resume=True)


# ---- bad input, the report --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"members": 1, "lrs": None}, BadValueError, "members=1 is out of bounds: give at least 2"),
        ({"members": "8", "lrs": None}, BadTypeError, "members='8' is not a whole number"),
        ({"members": 3}, BadValueError, "members=3 and 4 rates in lrs: give one rate for each"),
        ({"lrs": [0.1]}, BadValueError, "a population needs at least two members"),
        ({"lrs": [0.1, 0.1]}, BadValueError, "lrs has 0.1 twice"),
        ({"generations": 1}, BadValueError, "generations=1 is out of bounds: give at least 2"),
        ({"generations": 41}, BadValueError, "generations=41 .* the run has 40 updates"),
        ({"truncation": 0.6}, BadValueError, "truncation=0.6 is out of bounds: .* at most 0.5"),
        ({"truncation": 0}, BadValueError, "truncation=0 is out of bounds"),
        ({"truncation": "half"}, BadTypeError, "truncation='half' is not a number"),
        ({"factors": []}, BadValueError, "factors is empty"),
        ({"factors": [0.0]}, BadValueError, "factors has 0.0: give numbers above 0"),
        ({"factors": ["2"]}, BadTypeError, "factors has '2', which is not a number"),
        ({"recipe": BASE.replace(early_stopping=2)}, BadValueError, "early_stopping would end"),
        ({"objective": "f1"}, BadValueError, "objective='f1'"),
    ],
)
def test_what_no_population_can_do_is_refused_before_training(more, kind, message):
    with pytest.raises(kind, match=message):
        trained(**more)


def test_without_rates_members_are_spread_around_the_tuners_start():
    found = trained(lrs=None, members=3, generations=2)
    rates = [one.rates[0] for one in found.members]
    assert len(rates) == 3
    for low, high in pairwise(rates):
        assert math.log10(high / low) == pytest.approx(0.4, abs=0.01)


def test_rates_of_its_own_are_lowered_until_a_member_learns(monkeypatch, tmp_path):
    """A prior that is a thousand times too high; rates that were given are kept."""
    monkeypatch.setattr("etude.methods.population.scaled", lambda centre, run: 3.0)
    line = Recipe(optimizer="sgd", schedule="constant()", steps=40, batch_size=16)
    x = torch.linspace(-1, 1, 64)[:, None]
    of = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
    found = population(of, line, 4, generations=10, progress=False, folder=tmp_path / "own")
    lowered = [note for note in found.notes if note.startswith("After update 8 every member was")]
    assert len(lowered) == 2
    assert 4 < found.cost <= 4 + 2 * 0.8
    assert max(one.rates[0] for one in found.members) < 3 < 1e3
    assert found.record.evaluations[-1].loss < 0.01 * found.untrained.loss
    given = [one.rates[0] * 10**3.2 for one in found.members]
    kept = population(of, line, lrs=given, generations=10, progress=False)
    assert kept.cost <= 4
    assert not [note for note in kept.notes if "began again" in note]


def test_rates_are_kept_where_a_task_learns_late():
    """The product of three signs: nothing shows in the first fifth, at any rate."""
    made = torch.Generator().manual_seed(0)
    x = (torch.rand(1200, 12, generator=made) > 0.5).float() * 2 - 1
    y = (x[:, 0] * x[:, 1] * x[:, 2] > 0).long()

    def network():
        model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
        nn.init.zeros_(model[2].weight)
        nn.init.zeros_(model[2].bias)
        return model

    late = Task(network, (x[:800], y[:800]), valid=(x[800:], y[800:]), loss=cross_entropy)
    flat = Recipe(optimizer="adam", schedule="constant()", steps=160, batch_size=32)
    plain = etude.train(late, flat.replace(lr=0.01), evaluations=1)
    found = population(late, flat, 3, progress=False)
    early = [score for one in found.members for score in one.scores[:4]]
    assert min(early) > 0.99 * found.untrained.loss
    assert plain.valid_loss < 0.1
    assert found.record.valid_loss < 0.1
    assert not found.notes


def test_members_of_the_first_rates_go_on_if_lower_ones_do_not_help(monkeypatch, tmp_path):
    """The first weight makes the validation loss worse at any rate, until the second follows."""
    monkeypatch.setattr("etude.methods.population.scaled", lambda centre, run: 0.25)
    x = torch.tensor([[1.0, 0.447], [1.0, -0.447], [-1.0, 0.447], [-1.0, -0.447]])
    other = torch.tensor([[1.0, -1.1]])

    def network():
        model = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    slow = Task(
        network, (x, x.sum(1, True)), valid=(other, other.sum(1, True)), loss=nn.functional.mse_loss
    )
    flat = Recipe(optimizer="sgd", schedule="constant()", steps=40, batch_size=4)
    asked = {"generations": 10, "progress": False, "engine": "loop"}
    found = population(slow, flat, 2, folder=tmp_path / "own", **asked)
    assert [note.split(":")[0] for note in found.notes if note.startswith("After")] == [
        *["After update 8 every member was worse than the untrained network or had diverged"] * 3,
        "After update 8 no member was clearly better than the untrained network at the lower rates "
        "either",
    ]
    assert found.cost == pytest.approx(2 + 3 * 0.4)
    assert found.record.valid_loss < 0.1 * found.untrained.loss
    first = [one.rates[0] for one in found.members]
    same = population(slow, flat, lrs=first, **asked)
    assert [one.scores for one in same.members] == [one.scores for one in found.members]
    again = population(slow, folder=tmp_path / "own", resume=True, progress=False)
    assert said(again) == said(found)


AT, WORSE, LESS = (Evaluation(8, loss, None) for loss in (1.0, 2.0, 0.5))
DIVERGED = None


@pytest.mark.parametrize(
    ("rows", "then"),
    [
        ([[WORSE, DIVERGED]], Next.LOWER),
        ([[DIVERGED, DIVERGED]], Next.LOWER),
        ([[WORSE, AT]], Next.GO_ON),
        ([[WORSE, LESS]], Next.GO_ON),
        ([[WORSE, WORSE], [AT, AT]], Next.RETURN),
        ([[DIVERGED, DIVERGED], [AT, AT]], Next.GO_ON),
        ([[WORSE, WORSE], [LESS, WORSE]], Next.GO_ON),
        ([[WORSE, WORSE]] * 3, Next.LOWER),
        ([[WORSE, WORSE]] * 4, Next.RETURN),
        ([[DIVERGED, DIVERGED]] * 4, Next.GO_ON),
    ],
)
def test_rates_are_lowered_only_where_all_are_worse_or_diverged(rows, then):
    lowering = Lowering(10, AT, Goal())
    for row in rows:
        assert lowering.after(1, [AT, AT]) is Next.GO_ON
        found = lowering.after(2, row)
    assert found is then
    if then is not Next.LOWER:
        assert lowering.after(3, [WORSE, WORSE]) is Next.GO_ON


def test_rates_at_which_a_member_was_better_are_lowered_only_if_all_diverged():
    for last, then in (([WORSE, WORSE], Next.GO_ON), ([DIVERGED, DIVERGED], Next.LOWER)):
        lowering = Lowering(10, AT, Goal())
        assert lowering.after(1, [LESS, WORSE]) is Next.GO_ON
        assert lowering.after(2, last) is then


def test_the_report_shows_every_member_and_the_line_of_the_best():
    found = trained()
    report = present(found)
    assert report.kind == "Population"
    curves = population_curves.info(found)
    assert len(curves.members) == 4
    assert len(curves.steps) == len(curves.best) == 6
    assert curves.best[0] == found.lr
    assert curves.best[-1] == pytest.approx(found.lr * found.history.factors[-1])
    assert repr(found.schedule) in str(report.sections)
    assert "member" in population_curves.draw(curves).to_json()
    never = replace(found, best=None)
    assert population_curves.info(never).best == ()
    assert torch.is_tensor(next(found.model.parameters()))


def test_a_population_that_learned_nothing_is_told():
    x = torch.linspace(-1, 1, 64)[:, None]
    line = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=torch.nn.functional.mse_loss)
    steep = Recipe(optimizer="sgd", schedule="constant()", steps=40, batch_size=16)
    found = population(line, steep, 2, lrs=[1.8, 2.0], generations=2, progress=False)
    assert found.best is not None
    assert found.record.evaluations[-1].loss > found.untrained.loss
    assert found.advice().startswith("No member ended better than the untrained network, from 1.8 ")
