"""The search alone, on fields whose curves are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etude.schedules import constant, cosine
from etude.trials.curve import Curve, Exposure
from etude.trials.guess import Guess
from etude.trials.phase import Phase
from etude.tuning.search.ladder import ladder_for
from etude.tuning.search.search import Search

LOOKS = tuple(i / 20 for i in range(1, 21))
ENOUGH = 3000
"""Calls after which a search counts as endless."""

Score = Callable[[float, float], float]
"""(log10 of the rate, share of the run) -> score."""


@dataclass
class Point:
    """A rate whose curve is a formula."""

    lr: float
    score: Score
    training: Score
    end: float
    share: float = 0.0
    asked: set[float] = field(default_factory=set)

    @property
    def diverged(self) -> bool:
        return self.end <= self.share and self.end < 1

    def curve(self) -> Curve:
        shares = sorted({s for s in (*LOOKS, *self.asked) if s <= min(self.share, self.end) + 1e-9})
        at = math.log10(self.lr)
        scores = tuple(self.score(at, s) for s in shares)
        return Curve(self.lr, tuple(shares), scores, tuple(self.training(at, s) for s in shares))


@dataclass
class Formula:
    """A field of such rates that counts what is spent, and refuses to go beyond the budget."""

    left: float
    score: Score
    training: Score = lambda at, share: 1 - share
    end: Callable[[float], float] = lambda at: math.inf
    untrained_score: float = 1.0
    untrained_loss: float = 1.0
    exposure: Exposure = Exposure.of(constant(), 1000)  # noqa: RUF009
    lowest: float = 1e-15
    hopeless: bool = False
    alone: bool = False
    points: dict[float, Point] = field(default_factory=dict)
    calls: int = 0
    went: list[tuple[Phase, list[Point], list[Point]]] = field(default_factory=list)
    guessed: list[Guess[Point, float] | None] = field(default_factory=list)

    def enter(self, lr: float) -> Point:
        self._count()
        if self.alone and self.points:
            return next(iter(self.points.values()))
        end = self.end(math.log10(lr))
        return self.points.setdefault(lr, Point(lr, self.score, self.training, end))

    def trials(self) -> list[Point]:
        return list(self.points.values())

    def go(
        self,
        trials: Sequence[Point],
        share: float,
        phase: Phase,
        ahead: Sequence[Point] = (),
        guess: Guess[Point, float] | None = None,
    ) -> None:
        self._count()
        self.guessed.append(guess)
        assert phase in Phase
        assert not set(map(id, trials)) & set(map(id, ahead))
        self.went.append((phase, list(trials), list(ahead)))
        for one in trials:
            self.left -= max(0.0, min(share, one.end) - min(one.share, one.end))
            one.share = max(one.share, share)
            one.asked.add(share)
        assert self.left >= -1e-6

    def price(self, trial: Point, share: float) -> float:
        return 0.0 if trial.diverged else max(0.0, share - trial.share)

    def fresh(self, share: float) -> float:
        return share

    def _count(self) -> None:
        self.calls += 1
        assert self.calls < ENOUGH, "the search does not end"


def search(of: Formula, centre: float = 0.0) -> Point:
    budget = of.left
    best = Search(of, ladder_for(budget), centre).run()
    assert of.left >= -1e-6
    assert best in of.trials()
    return best


def valley(optimum: float, width: float) -> Score:
    """At every share, rates are the worse the further they are from the optimum."""

    def score(at: float, share: float) -> float:
        return 1 - (0.2 + 0.7 * share) / (1 + ((at - optimum) / width) ** 2)

    return score


def breaking(limit: float) -> Callable[[float], float]:
    """Rates above a limit diverge after a twentieth of the run."""
    return lambda at: 0.05 if at > limit else math.inf


budgets = st.floats(1.2, 30)
optima = st.floats(-3, 3)
widths = st.floats(0.2, 1.5)
limits = st.floats(0.3, 2)


@given(budgets, optima, widths, limits)
def test_it_ends_with_a_finished_rate_that_no_other_beats(budget, optimum, width, limit):
    of = Formula(budget, valley(optimum, width), end=breaking(optimum + limit))
    best = search(of)
    sound = [p for p in of.trials() if not p.diverged]
    if not sound:
        assert best.diverged
        return
    finished = [p for p in sound if p.share >= 1]
    assert best in finished
    assert best.curve().at(1.0) == min(p.curve().at(1.0) for p in finished)


@given(budgets, optima, widths, limits)
def test_an_optimum_far_away_is_found_or_the_best_stands_at_an_edge(budget, optimum, width, limit):
    of = Formula(budget, valley(optimum, width), end=breaking(optimum + limit))
    best = search(of)
    rates = [p.lr for p in of.trials()]
    near = abs(math.log10(best.lr) - optimum) <= 0.45
    if budget >= 6:
        assert near
    else:
        assert near or best.lr in (min(rates), max(rates))


@pytest.mark.slow
@given(st.floats(1.2, 15), st.floats(0, 15), optima, widths, limits)
def test_more_budget_is_never_worse(budget, more, optimum, width, limit):
    """Up to where a coarse grid happens to lie: a fifth of a decade and some rounding."""
    few, many = (
        search(Formula(b, valley(optimum, width), end=breaking(optimum + limit)))
        for b in (budget, budget + more)
    )
    if few.diverged:
        return
    near, far = (abs(math.log10(p.lr) - optimum) for p in (many, few))
    assert near <= max(far, 0.25) + 0.01


@pytest.mark.slow
@given(st.floats(3, 15), st.floats(0, 15), optima, widths)
def test_from_the_full_ladder_on_more_budget_is_never_worse_at_all(budget, more, optimum, width):
    few, many = (search(Formula(b, valley(optimum, width))) for b in (budget, budget + more))
    at = [p.curve().at(1.0) for p in (few, many)]
    assert at[1] <= at[0] + 0.02


def flow(optimum: float, width: float, exposure: Exposure) -> tuple[Score, Score]:
    """Score and training loss of a run that overfits once it has come further than `optimum`."""

    def along(at: float, share: float) -> float:
        return at + math.log10(max(exposure.behind(share), 1e-9)) - optimum

    def score(at: float, share: float) -> float:
        u = along(at, share)
        return 0.3 + 0.7 * (1 - 1 / (1 + (u / width) ** 2)) * (1.0 if u < 0 else 0.6)

    return score, lambda at, share: 1 / (1 + 10 ** along(at, share))


@pytest.mark.slow
@given(
    st.floats(1.5, 20),
    st.floats(0.5, 0.95),
    st.floats(0.4, 0.8),
    st.sampled_from([constant(), cosine()]),
)
def test_a_leader_that_overfits_gives_way_to_the_rate_its_turn_points_to(
    budget, ahead, width, schedule
):
    """The rates begin around one that leads early, `ahead` decades above the best.

    With less than two runs the turn must show by a quarter of the run.
    """
    exposure = Exposure.of(schedule, 1000)
    beyond = ahead + math.log10(exposure.behind(1 / 4))
    assume(budget >= 2 or beyond > width / 3)
    score, training = flow(0.0, width, exposure)
    of = Formula(budget, score, training, exposure=exposure)
    best = search(of, centre=ahead)
    assert abs(math.log10(best.lr)) <= (0.45 if budget < 2.6875 else 0.3)


@pytest.mark.parametrize("budget", [2.6875, 3.0, 3.5])
def test_a_leader_that_turned_early_takes_no_place_from_a_lower_rate(budget):
    """By 3/8 of its run it has overfitted so far that it trails the others' best by much. It still
    scores better than the rate that is best at the end, and which goes on in its place."""
    exposure = Exposure.of(constant(), 1000)
    score, training = flow(0.0, 0.5, exposure)
    of = Formula(budget, score, training, exposure=exposure)
    best = search(of, centre=0.6875)
    assert abs(math.log10(best.lr)) <= 0.1
    turned = next(p for p in of.trials() if abs(math.log10(p.lr) - 0.9) < 0.05)
    assert max(turned.asked) < 3 / 4


brief = st.floats(1.2, 1.74)
"""Budgets that compare rates at one pause only."""


@given(brief, optima, widths, limits)
def test_a_brief_search_finishes_the_best_of_what_it_compared_at_its_one_pause(
    budget, optimum, width, limit
):
    of = Formula(budget, valley(optimum, width), end=breaking(optimum + limit))
    best = search(of)
    pause = ladder_for(budget).rungs[0].share
    sound = [p for p in of.trials() if not p.diverged]
    assume(sound)
    assert all(p.asked <= {pause, 1.0} for p in of.trials())
    compared = [p for p in sound if pause in p.asked]
    assert best in sound
    if pause in best.asked:
        assert best.curve().at(pause) == min(p.curve().at(pause) for p in compared)
    assert len(compared) <= 1 + (budget - 1 + 1e-9) / pause


@given(st.floats(1.2, 1.99), optima, st.floats(0.3, 1.5), st.booleans())
def test_a_rate_that_starts_alone_is_followed_by_a_higher_one_while_it_falls(
    budget, centre, height, falls
):
    """Its score either falls evenly over the run, or stands where an early drop left it."""

    def score(at: float, share: float) -> float:
        return 1 - height * (share if falls else 0.5) - 1e-3 * share

    of = Formula(budget, score)
    search(of, centre)
    first, second = of.trials()[:2]
    assert math.log10(first.lr) == pytest.approx(centre, abs=0.01)
    stride = 0.4 if falls else -0.4
    assert math.log10(second.lr / first.lr) == pytest.approx(stride, abs=0.01)


@pytest.mark.parametrize("budget", [1.2, 1.25, 1.3, 1.4])
def test_a_rate_alone_that_overfits_is_left_for_the_rate_its_turn_points_to(budget):
    exposure = Exposure.of(constant(), 1000)
    score, training = flow(0.0, 0.5, exposure)
    of = Formula(budget, score, training, exposure=exposure)
    best = search(of, centre=1.1)
    assert len(of.trials()) == 2
    assert best.asked == {1.0}
    assert abs(math.log10(best.lr)) <= 0.45


@given(budgets, optima, widths, limits)
def test_what_is_trained_ahead_is_what_is_finished_next(budget, optimum, width, limit):
    """So that no update is in vain: unless the best diverges in its last stretch."""
    of = Formula(budget, valley(optimum, width), end=breaking(optimum + limit))
    search(of)
    for place, (phase, trials, ahead) in enumerate(of.went):
        assert not ahead or phase == Phase.FINISH
        if phase == Phase.FINISH:
            assert not any(one.diverged for one in trials)
            rest = of.went[place + 1 :]
            assert [p for what, ps, _ in rest for p in ps if what == Phase.RUNNER_UP] == ahead


DEGENERATE: dict[str, Callable[[float], Formula]] = {
    "all infinite": lambda b: Formula(b, lambda at, s: math.inf),
    "all infinite, untrained too": lambda b: Formula(
        b, lambda at, s: math.inf, untrained_score=math.inf
    ),
    "all equal": lambda b: Formula(b, lambda at, s: 0.5),
    "all untrained": lambda b: Formula(b, lambda at, s: 1.0),
    "all worse": lambda b: Formula(b, lambda at, s: 2.0 + s),
    "all break at once": lambda b: Formula(b, lambda at, s: 0.5, end=lambda at: 0.0),
    "all break at the end": lambda b: Formula(b, lambda at, s: 0.5, end=lambda at: 0.99),
    "one only": lambda b: Formula(b, lambda at, s: 0.5, alone=True),
    "one only, infinite": lambda b: Formula(b, lambda at, s: math.inf, alone=True),
    "one only, overfits": lambda b: Formula(b, lambda at, s: abs(s - 0.1), alone=True),
    "the lower the better": lambda b: Formula(b, lambda at, s: 0.5 + at / 100),
    "the higher the better": lambda b: Formula(b, lambda at, s: 0.5 - at / 100),
    "all overfit": lambda b: Formula(b, lambda at, s: abs(s - 0.1)),
    "undefined at first": lambda b: Formula(b, valley(1.0, 0.5), untrained_score=math.inf),
    "undefined early": lambda b: Formula(
        b, lambda at, s: math.inf if s < 0.3 else valley(1.0, 0.5)(at, s)
    ),
    "negative": lambda b: Formula(b, lambda at, s: valley(1.0, 0.5)(at, s) - 5, untrained_score=-4),
    "no area": lambda b: Formula(b, valley(1.0, 0.5), exposure=Exposure.of(0.0 * constant(), 100)),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("budget", [1.2, 1.3, 1.375, 1.5, 2.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("final", [True, False])
def test_it_ends_whatever_the_field(name, budget, final):
    of = DEGENERATE[name](budget)
    best = Search(of, ladder_for(budget), 0.0, final=final).run()
    assert best in of.trials()
    assert of.left >= -1e-6
    assert all(1e-16 < p.lr < 1e16 for p in of.trials())
    anything = any(not p.diverged and math.isfinite(p.score(0, 1.0)) for p in of.trials())
    if final and anything and "break" not in name and name != "undefined early":
        assert best.share >= 1


@pytest.mark.slow
@given(
    budgets,
    st.dictionaries(
        st.integers(-60, 60), st.tuples(st.floats(-2, 2), st.floats(0, 1.2)), max_size=30
    ),
    st.floats(0, 1),
)
def test_it_ends_within_its_budget_on_any_noise(budget, table, slope):
    """Scores and breaks at random, the same whenever they are asked for."""

    def drawn(at: float) -> tuple[float, float]:
        return table.get(round(5 * at), (0.5, 1.2))

    of = Formula(
        budget,
        lambda at, s: drawn(at)[0] + slope * math.sin(50 * s + at),
        end=lambda at: drawn(at)[1],
    )
    best = search(of)
    finished = [p for p in of.trials() if p.share >= 1 and not p.diverged]
    if finished:
        assert best in finished


@given(st.floats(0.1, 30), optima, widths, st.integers(2, 7))
def test_folds_are_searched_without_a_finish(more, optimum, width, folds):
    budget = 1 + folds * 0.25 + more

    @dataclass
    class Folds(Formula):
        def go(
            self,
            trials: Sequence[Point],
            share: float,
            phase: Phase,
            ahead: Sequence[Point] = (),
            guess: Guess[Point, float] | None = None,
        ) -> None:
            before = self.left
            super().go(trials, share, phase, ahead, guess)
            self.left -= (folds - 1) * (before - self.left)
            assert self.left >= -1e-6

        def price(self, trial: Point, share: float) -> float:
            return folds * super().price(trial, share)

        def fresh(self, share: float) -> float:
            return folds * share

    of = Folds(budget - 1, valley(optimum, width))
    best = Search(of, ladder_for(budget, folds), 0.0, final=False).run()
    assert best in of.trials()
    furthest = max(p.share for p in of.trials())
    assert best.share == furthest
