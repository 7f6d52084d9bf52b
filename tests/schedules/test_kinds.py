"""The worked exercises, every argument of every kind, what is refused, and peers' defects."""

from __future__ import annotations

import inspect
import math
import pickle

import pytest

from etude.errors import BadTypeError, BadValueError
from etude.schedules import (
    KINDS,
    constant,
    cosine,
    exponential,
    growing,
    inverse_time,
    linear,
    multi_step,
    natural_exponential,
    noam,
    one_cycle,
    one_cycle_momentum,
    parse,
    piecewise_interpolate,
    plateau,
    polynomial,
    restarts,
    step,
    tanh,
    warmup,
)

VARIED: dict[str, tuple[str, ...]] = {
    "constant": ("constant()", "constant(0.5)", "constant(length=5) >> linear(9)"),
    "cosine": ("cosine(50)", "cosine(60)", "cosine(50, floor=0.1)", "cosine(50, exponent=2)"),
    "exp_range": (
        "exp_range(10, 0.9)", "exp_range(11, 0.9)", "exp_range(10, 0.8)",
        "exp_range(10, 0.9, down=7)", "exp_range(10, 0.9, floor=0.1)",
    ),
    "exponential": (
        "exponential(0.9)", "exponential(0.8)", "exponential(0.9, every=3)",
        "exponential(0.9, every=3, staircase=True)",
    ),
    "growing": (
        "growing(50)", "growing(60)", "growing(50, start=0.1)", "growing(50, shape='linear')",
        "growing(50, stairs=3)",
    ),
    "hypergradient": (
        "hypergradient()", "hypergradient(log=((1, -0.5),))",
        "hypergradient(beta=0.9, log=((1, -0.5),))",
        "hypergradient(beta=0.9, low=0.8, log=((1, -0.5),))",
        "hypergradient(beta=0.9, rule='additive', log=((1, -5.0),))",
        "hypergradient(rule='additive', log=((1, 1e6),))",
        "hypergradient(rule='additive', high=3.0, log=((1, 1e6),))",
    ),
    "inverse_time": (
        "inverse_time(0.1)", "inverse_time(0.2)", "inverse_time(0.1, power=2)",
        "inverse_time(0.1, every=7)", "inverse_time(0.1, every=7, staircase=True)",
    ),
    "linear": ("linear(50)", "linear(60)", "linear(50, start=0.5)", "linear(50, end=0.5)"),
    "multi_step": ("multi_step((5, 9))", "multi_step((5, 8))", "multi_step((5, 9), 0.5)"),
    "natural_exponential": (
        "natural_exponential(0.1)", "natural_exponential(0.2)",
        "natural_exponential(0.1, every=3)",
    ),
    "noam": ("noam(20)", "noam(30)", "noam(20, d_model=64)"),
    "one_cycle": (
        "one_cycle(60)", "one_cycle(50)", "one_cycle(60, rise=0.2)", "one_cycle(60, div=9)",
        "one_cycle(60, final_div=9)", "one_cycle(60, anneal='linear')",
        "one_cycle(60, three_phase=True)",
    ),
    "one_cycle_momentum": (
        "one_cycle_momentum(60)", "one_cycle_momentum(50)", "one_cycle_momentum(60, rise=0.2)",
        "one_cycle_momentum(60, high=0.9)", "one_cycle_momentum(60, low=0.8)",
        "one_cycle_momentum(60, anneal='linear')", "one_cycle_momentum(60, three_phase=True)",
    ),
    "piecewise_constant": (
        "piecewise_constant((5, 9), (1, 2, 3))", "piecewise_constant((5, 8), (1, 2, 3))",
        "piecewise_constant((5, 9), (1, 2, 4))",
    ),
    "piecewise_interpolate": (
        "piecewise_interpolate((5, 9), (1, 2))", "piecewise_interpolate((5, 8), (1, 2))",
        "piecewise_interpolate((5, 9), (1, 3))",
        "piecewise_interpolate((5, 9), (1, 2), shape='cosine')",
    ),
    "plateau": tuple(
        f"plateau({options}log=((5, 1.0), (10, 1.0), (15, 0.9995), (20, 0.9), (25, 1.5)))"
        for options in (
            "", "patience=0, ", "patience=0, factor=0.5, ", "patience=0, mode='max', ",
            "patience=0, threshold=0.01, ", "patience=0, threshold=0.3, threshold_mode='abs', ",
            "patience=0, cooldown=3, ", "patience=0, floor=0.05, ",
            "patience=0, factor=0.5, eps=0.3, ",
        )
    ),
    "polynomial": (
        "polynomial(20)", "polynomial(30)", "polynomial(20, power=2)", "polynomial(20, end=0.1)",
        "polynomial(20, cycle=True)", "polynomial(20, k_decay=2)",
    ),
    "restarts": (
        "restarts(10)", "restarts(11)", "restarts(10, length_mult=2)",
        "restarts(10, height_mult=0.5)", "restarts(10, floor=0.1)", "restarts(10, cycles=2)",
    ),
    "rex": ("rex(50)", "rex(60)", "rex(50, floor=0.1)"),
    "rsqrt": ("rsqrt(50)", "rsqrt(60)"),
    "step": ("step(5, 0.1)", "step(6, 0.1)", "step(5, 0.2)"),
    "tanh": ("tanh(50)", "tanh(60)", "tanh(50, low=-4)", "tanh(50, high=4)", "tanh(50, floor=0.1)"),
    "triangular": (
        "triangular(10)", "triangular(11)", "triangular(10, 7)", "triangular(10, floor=0.1)",
        "triangular(10, per_cycle=0.5)", "triangular(10, per_step=0.9)",
    ),
    "triangular2": ("triangular2(10)", "triangular2(11)", "triangular2(10, 7)",
                    "triangular2(10, floor=0.1)"),
    "warmup": ("warmup(50)", "warmup(60)", "warmup(50, start=0.1)", "warmup(50, shape='cosine')"),
    "wsd": (
        "wsd(9, 9, 60)", "wsd(8, 9, 60)", "wsd(9, 8, 60)", "wsd(9, 9, 61)",
        "wsd(9, 9, 60, floor=0.1)", "wsd(9, 9, 60, shape='cosine')", "wsd(9, 9, 60, shape='sqrt')",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"function"}))
def test_every_argument_changes_some_value(name: str) -> None:
    curves = {text: tuple(parse(text)(t) for t in range(70)) for text in VARIED[name]}
    assert len(set(curves.values())) == len(curves)
    arguments = set(inspect.signature(KINDS[name].make).parameters) - {"log"}
    arguments -= {"on"}  # it says what a recipe reports: tests/training/test_feedback.py
    assert len(VARIED[name]) > len(arguments) - (name == "constant")


def table(s: object, n: int) -> list[float]:
    return [s(t) for t in range(n)]  # type: ignore[operator]


def test_the_worked_exercises() -> None:
    decay = 0.1 * step(10, 0.5)
    assert [decay(t) for t in (0, 10, 20, 30)] == [0.1, 0.05, 0.025, 0.0125]
    smooth = 0.1 * exponential(0.5, every=10)
    assert smooth(5) == pytest.approx(0.1 * 0.5**0.5)
    annealed = 0.1 * cosine(50, floor=0.01)
    textbook = [0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(math.pi * t / 50)) for t in range(10)]
    assert table(annealed, 10) == pytest.approx(textbook, rel=1e-13)
    assert table(0.1 * polynomial(50, power=2.0), 10) == pytest.approx(
        [0.1 * (1 - t / 50) ** 2 for t in range(10)], rel=1e-13
    )
    assert table(0.1 * exponential(0.95), 10) == pytest.approx(
        [0.1 * 0.95**t for t in range(10)], rel=1e-13
    )
    assert natural_exponential(0.3)(7) == pytest.approx(math.exp(-2.1))
    assert inverse_time(0.5, power=0.75)(8) == pytest.approx(5**-0.75)
    cycled = polynomial(10, power=1.0, cycle=True)
    assert [cycled(t) for t in (0, 5, 10, 15, 20)] == [1.0, 0.5, 0.0, 0.25, 0.0]
    d, W = 512, 4_000
    paper = [d**-0.5 * min((t + 1) ** -0.5, (t + 1) * W**-1.5) for t in range(0, 9_000, 100)]
    assert [noam(W, d)(t) for t in range(0, 9_000, 100)] == pytest.approx(paper, rel=1e-12)
    assert tanh(100)(50) == pytest.approx(0.5 * (1 - math.tanh(-2.0)))


def test_growing_in_stairs_begins_small_and_ends_at_one() -> None:
    s = growing(40, start=0.001, stairs=4)
    assert [s(t) for t in (0, 9, 10, 20, 30, 39)] == pytest.approx(
        [0.001, 0.001, 0.01, 0.1, 1.0, 1.0]
    )


def test_the_floor_is_reached_to_the_last_digit() -> None:
    s = cosine(10**6)
    exact = math.sin(math.pi / (2 * 10**6)) ** 2
    assert s(10**6 - 1) == pytest.approx(exact, rel=1e-14)
    # the usual ½(1 + cos) has lost its digits there
    assert abs(0.5 * (1 + math.cos(math.pi * (1 - 1e-6))) / exact - 1) > 1e-9


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cosine(-1), "length is -1; it must be at least 0"),
        (lambda: cosine(math.nan), "length is nan; it must be a finite number"),
        (lambda: cosine(5, floor=2), "floor is 2; it must be at most 1"),
        (lambda: cosine(5, exponent=0), "exponent is 0; it must be above 0"),
        (lambda: warmup(5, start=-0.1), "start is -0.1; it must be at least 0"),
        (lambda: warmup(5, shape="exponential"), "both must be above 0"),
        (lambda: warmup(5, shape="cosin"), "did you mean 'cosine'"),
        (lambda: step(0, 0.1), "every is 0; it must be above 0"),
        (lambda: step(5, 0.0), "gamma is 0.0; it must be above 0"),
        (lambda: restarts(0), "period is 0; it must be above 0"),
        (lambda: restarts(5, length_mult=0.5), "length_mult is 0.5; it must be at least 1"),
        (lambda: restarts(5, length_mult=1.001), "it must be 1 or at least 1.01"),
        (lambda: restarts(5, cycles=0), "cycles is 0"),
        (lambda: multi_step((5, 3)), "milestones has 3 after 5; put them in rising order"),
        (lambda: multi_step(()), "milestones is empty"),
        (lambda: piecewise_interpolate((1, 2), (1.0,)), "values has 1 numbers and points 2"),
        (lambda: parse("piecewise_constant((1, 2), (1.0,))"), "2 boundaries need 3"),
        (lambda: polynomial(0, cycle=True), "length is 0; it must be above 0"),
        (lambda: polynomial(5, cycle=True, k_decay=2), "use only one of the two"),
        (lambda: tanh(5, low=3, high=3), "high is 3.0; it must be above low"),
        (lambda: one_cycle(100, rise=0.5, three_phase=True), "it must be below 0.5"),
        (lambda: one_cycle(100, rise=1.0), "it must be below 1"),
        (lambda: one_cycle("2 epochs"), "give it in steps, or leave it out"),
        (lambda: one_cycle_momentum(100, low=0.99), "low is 0.99; it must be at most 0.95"),
        (lambda: noam("5%", d_model=64), "give warmup in steps"),
        (lambda: growing(5, stairs=1), "stairs is 1; it must be at least 2"),
        (lambda: cosine(5).clip(), "neither low nor high"),
        (lambda: cosine(5).clip(1, 0), "swap them"),
        (lambda: constant().repeat(), "has no length and cannot be repeated"),
        (lambda: cosine(0).repeat(), "has length 0"),
        (lambda: constant().fit(5), "is endless and cannot be fitted"),
        (lambda: cosine(0).fit(5), "has length 0"),
        (lambda: cosine(5).stretch(0), "factor is 0; it must be above 0"),
        (lambda: cosine(5) / 0, "divisor is 0"),
        (lambda: math.inf * cosine(5), "factor is inf; it must be a finite number"),
        (lambda: 10**400 * cosine(5), "must be a finite number"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(build: object, message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cosine(True), "length is True; it must be a number of steps"),
        (lambda: cosine(5, floor="low"), "floor is 'low'; it must be a number"),
        (lambda: exponential(0.5, staircase=1), "staircase is 1; it must be True or False"),
        (lambda: multi_step(5), "it must be a tuple"),
        (lambda: "2" * cosine(5), "factor is '2'; it must be a number"),
        (lambda: warmup(5, shape=3), "shape is 3; it must be one of"),
        (lambda: cosine(5) >> 0.1, "segments is 0.1; it must be a schedule"),
        (lambda: 0.1 >> cosine(5), "segments is 0.1; it must be a schedule"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_name(build: object, message: str) -> None:
    with pytest.raises(BadTypeError, match=message):
        build()  # type: ignore[operator]


def test_schedules_cannot_be_changed() -> None:
    s = cosine(5)
    with pytest.raises(AttributeError, match="cannot assign"):
        s.length = 6


class TestDefectsOfPeers:
    """What users hit elsewhere, and do not here."""

    def test_a_plateau_goes_inside_a_join(self) -> None:  # torch's SequentialLR refuses it
        s = (warmup(10) >> plateau(patience=0)).given([(15, 1.0), (20, 1.0)])
        assert (s(5), s(15), s(20)) == (0.5, 1.0, 0.1)

    def test_a_product_of_decays_is_never_negative(self) -> None:  # torch's ChainedScheduler is
        s = cosine(20, floor=0.1) * exponential(0.9)
        assert all(s(t) > 0 for t in range(100))

    def test_one_cycle_holds_its_end(self) -> None:  # torch's OneCycleLR rebounds
        s = one_cycle(10)
        assert s(10) == s(11) == s(1_000) == min(s(t) for t in range(20))

    def test_a_rise_of_one_step_is_fine(self) -> None:  # torch divides by zero
        assert one_cycle(10, rise=0.1)(1) == 1.0
        assert one_cycle(10, rise=0.01)(0) == 1.0

    def test_a_warmup_of_zero_steps_is_none(self) -> None:  # optax sticks at the initial value
        s = warmup(0) >> cosine(10)
        assert table(s, 20) == table(cosine(10), 20)
        assert warmup(0)(0) == 1.0

    def test_warmup_does_not_drop_the_rate_at_its_end(self) -> None:  # timm's default does
        s = warmup(50) >> cosine(100)
        assert s(49) == 0.98
        assert s(50) == 1.0
        assert s(51) > 0.999

    def test_every_schedule_can_be_pickled(self) -> None:  # optax's closures cannot
        for row in KINDS.values():
            for text in row.examples:
                assert pickle.loads(pickle.dumps(parse(text))) == parse(text)

    def test_moving_the_end_makes_no_jump(self) -> None:  # it does in open_clip and mmengine
        s = warmup(100) >> cosine(900)
        assert s.extend(at=500, horizon=2_000)(500) == s(500)

    def test_restarts_never_give_a_rate_of_zero_on_a_restart(self) -> None:  # sd-scripts
        s = restarts(7, length_mult=3.0)
        starts = [7 * (3**i - 1) // 2 for i in range(30)]
        assert [s(t) for t in starts] == [1.0] * 30

    def test_interpolation_is_right_on_arrays(self) -> None:  # optax is silently wrong
        import numpy as np

        s = piecewise_interpolate((0, 10, 30), (1.0, 0.5, 0.1))
        np.testing.assert_allclose(s(np.arange(40)), table(s, 40), rtol=1e-14)

    def test_seeking_equals_stepping(self) -> None:  # torch resumes at another rate
        s = 0.1 * (warmup(5) >> restarts(7, length_mult=2.0, height_mult=0.5))
        stepped = table(s, 200)
        assert [parse(repr(s))(t) for t in reversed(range(200))] == stepped[::-1]

    def test_a_linear_decay_ends_at_its_end_exactly(self) -> None:
        assert linear(3, end=0.1)(3) == 0.1
