"""The laws of a verdict: probabilities, missing evidence, facts, and the table of its weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.diagnosis.finding import Cause, Diagnosis, Finding, Symptom, Verdict
from etude.diagnosis.history import History, LayerInfo
from etude.diagnosis.symptoms.curve import loss_curve
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.features import OF_CAUSE, OF_RUN, PROPER, gains
from etude.diagnosis.verdict.hints import HINTS, hints
from etude.diagnosis.verdict.judge import judge
from etude.diagnosis.verdict.measures import Measures
from etude.diagnosis.verdict.model import SOURCES, TABLE, odds, read_table, usual_table
from etude.diagnosis.verdict.probes import CAUSES, SHORT, Probes, ShortProbe
from etude.diagnosis.verdict.sentences import sentences
from etude.errors import BadValueError
from etude.record import Evaluation

TEXT = files("etude.diagnosis.verdict").joinpath(TABLE).read_text(encoding="utf-8")

numbers = st.floats(-20, 20) | st.just(math.nan)
shares = st.sampled_from([SHORT, 1.0])
findings = st.lists(
    st.builds(
        Finding,
        st.sampled_from([*Symptom, *Cause]),
        st.just("It was seen."),
        st.none() | st.just("0"),
        st.none() | st.integers(0, 99),
    ),
    max_size=6,
)
histories = st.builds(
    lambda loss, updates: History(
        len(loss), np.array(loss), np.full(len(loss), 0.1), np.arange(updates % (len(loss) + 1)),
        layers=(LayerInfo("0", "linear", 0, activation="tanh"), LayerInfo("1", depth=1)),
    ),
    st.lists(st.floats(0.01, 1e3) | st.just(math.nan), min_size=0, max_size=120),
    st.integers(0, 200),
)  # fmt: skip
measured = st.builds(
    Measures, *[numbers] * 10, st.just("0"), *[numbers] * 4, st.booleans(), st.booleans(),
    st.sampled_from(["", "sgd", "adam", "adadelta"]),
)  # fmt: skip
probed = st.builds(
    lambda rows, learned: Probes(tuple(rows), learned, learned, 3.0),
    st.lists(
        st.builds(
            ShortProbe, st.sampled_from(sorted(CAUSES)), shares, numbers.map(abs), numbers,
            st.floats(-10, 10), st.floats(-10, 10), st.booleans(), st.booleans(),
        ),
        max_size=6,
    ),
    numbers,
)  # fmt: skip
evaluations = st.lists(
    st.builds(Evaluation, st.integers(0, 99), st.floats(0.01, 100), st.none()), max_size=4
).map(tuple)
evidence = st.builds(
    lambda found, history, known, seen, shown: Evidence(tuple(found), history, known, seen, shown),
    findings,
    st.none() | histories,
    st.none() | measured,
    evaluations,
    st.none() | probed,
)


@given(evidence)
@settings(max_examples=60, deadline=None)
def test_probabilities_are_probabilities_whatever_is_missing(known: Evidence) -> None:
    found = odds(known)
    assert 0.0 <= found.faulty <= 1.0
    assert all(0.0 <= p <= 1.0 for _, p in found.causes)
    assert math.fsum(p for _, p in found.causes) == pytest.approx(found.faulty)
    assert {cause for cause, _ in found.causes} == set(Cause)
    assert [p for _, p in found.causes] == sorted((p for _, p in found.causes), reverse=True)


@given(evidence, st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_findings_and_probes_does_not_matter(known: Evidence, draw: Any) -> None:
    mixed = list(known.findings)
    draw.shuffle(mixed)
    other = replace(known, findings=tuple(mixed))
    if known.probes is not None:
        rows = list(known.probes.probes)
        draw.shuffle(rows)
        other = replace(other, probes=replace(known.probes, probes=tuple(rows)))
    assert odds(other) == odds(known)


@given(evidence)
@settings(max_examples=60, deadline=None)
def test_a_verdict_can_be_told_and_kept(known: Evidence) -> None:
    found = judge(known)
    if found is None:
        assert known.history is None
        return
    json.dumps(found.to_dict(), allow_nan=False)
    assert "nan" not in str(found)
    assert str(found)
    if found.cause is not None:
        assert found.faulty
        assert found.ranked[0] == (found.cause, found.probability)
        assert all(text.endswith(".") for text in found.evidence)


@given(evidence)
@settings(max_examples=40, deadline=None)
def test_hints_lie_between_nothing_and_much(known: Evidence) -> None:
    found = hints(known)
    assert set(found) == set(HINTS)
    assert all(math.isnan(value) or 0.0 <= value <= 1.0 for value in found.values())


@pytest.mark.parametrize(
    "cause", [Cause.GRADIENTS_NOT_CLEARED, Cause.PARAMETERS_NOT_TRAINED, Cause.BAD_DATA]
)
@given(evidence)
@settings(max_examples=15, deadline=None)
def test_a_fact_wins_outright_with_its_measured_probability(cause: Cause, known: Evidence) -> None:
    symptoms = [f for f in known.findings if isinstance(f.what, Symptom)]
    found = odds(replace(known, findings=(*symptoms, Finding(cause, "It is so.", step=3))))
    assert found.causes[0][0] == cause
    assert found.causes[0][1] >= usual_table().certain ** 2 - 1e-9


def test_a_fact_is_told_with_its_text_its_layer_and_what_follows() -> None:
    facts = (
        Finding(Symptom.STALLED, "The loss stands still.", step=9),
        Finding(Cause.UNSCALED_INPUTS, "The inputs have a mean of 1000.", layer="first", step=0),
        Finding(Symptom.SATURATED, "It is flat.", layer="1", step=5),
    )
    empty = np.empty(0)
    found = judge(Evidence(facts, History(100, empty, empty, np.empty(0, int))))
    assert found is not None
    assert (found.cause, found.layer, found.step) == (Cause.UNSCALED_INPUTS, "first", 0)
    assert found.evidence == ("The inputs have a mean of 1000.",)
    assert found.follows == (Symptom.SATURATED,)
    told = str(Diagnosis(facts, seen=("100 updates",), verdict=found)).splitlines()
    assert told[0].startswith("unscaled_inputs in first (")
    assert len(told) == 1 + len(facts)


def test_nothing_seen_gives_no_verdict_and_few_updates_no_fault() -> None:
    assert judge(Evidence()) is None
    loss = np.ones(12)
    short = judge(Evidence((), History(12, loss, loss, np.arange(12))))
    assert short is not None
    assert not short.faulty


def test_what_a_probe_has_shown_is_told_with_its_losses() -> None:
    shown = ShortProbe("rate x 10", 1.0, 0.2, math.nan, 0.7, 0.7, True, False, before=0.9)
    known = Evidence(probes=Probes((shown,), 0.1, 0.1, 3.0))
    (text,) = sentences(known, Cause.LR_TOO_LOW)
    assert "after the run the validation loss is 0.2 instead of 0.9" in text
    assert sentences(known, Cause.LR_TOO_HIGH) == ()


def test_a_verdict_that_is_healthy_is_silent() -> None:
    well = Verdict(False, None, 0.97)
    assert str(Diagnosis((), seen=("9 updates",), verdict=well)) == "healthy"
    assert Diagnosis((), seen=("9 updates",), verdict=well).healthy
    sick = Verdict(True, None, 0.8, ((Cause.LR_TOO_LOW, 0.2),))
    found = Diagnosis((), seen=("9 updates",), verdict=sick)
    assert not found.healthy
    assert "cannot tell what; the likeliest: lr_too_low 20%" in str(found)


def test_the_history_until_its_end_is_the_history() -> None:
    loss = np.linspace(1, 0, 20)
    history = History(20, loss, loss, np.arange(0, 20, 4))
    assert hints(Evidence(history=history.until(20))) == pytest.approx(
        hints(Evidence(history=history)), nan_ok=True
    )
    assert history.until(9).steps.tolist() == [0, 4, 8]


# ---- the table ---------------------------------------------------------------------------------


def test_the_table_names_every_feature_once_and_says_what_made_it() -> None:
    table = usual_table()
    assert set(table.weights) == set(SOURCES)
    for weights in table.weights.values():
        assert set(weights.run) == set(OF_RUN)
        assert set(weights.cause) == {*OF_CAUSE, *PROPER}
        assert all(one.right <= one.said for one in weights.reliability)
        assert weights.cause["stated"] > 0
        assert weights.cause["hint"] > 0
    # Every case has a history; those with a task are fewer, and those with probes fewer still.
    said = [sum(one.said for one in table.weights[name].reliability) for name in SOURCES]
    assert said == sorted(said, reverse=True)
    assert said[0] == table.cases > 100
    assert said[-1] > table.cases / 2
    assert table.programs == 22


def changed(*path: str, value: Any) -> str:
    """The table's text with one value changed; the value itself if there is no path."""
    content = json.loads(TEXT)
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[]", "the table is .*: give an object"),
        ("cos\nsystem\n(S'true'\ntR.", "is no JSON"),
        (changed("extra", value=1), "'extra' is unknown"),
        (changed("certain", value=2), "certain is 2: give a number from 0 to 1"),
        (changed("certain", value=True), "certain is True: give a number"),
        (changed("certain", value="__import__('os')"), "certain is .*: give a number"),
        (changed("weights", "history", "intercept", value=math.nan), "intercept is nan"),
        (changed("weights", "history", "run", value={}), "'.*' is missing"),
        (changed("weights", "task", "cause", "stated", value=None), "stated is None"),
        (changed("weights", "probes", "reliability", value={}), "reliability is no list"),
        (changed("made_from", "digest", value=7), "digest is 7: give a text"),
    ],
)
def test_a_table_of_a_stranger_is_read_as_names_and_numbers_or_refused(
    text: str, message: str
) -> None:
    with pytest.raises(BadValueError, match=message):
        read_table(text)


def test_the_table_is_read_back() -> None:
    assert read_table(TEXT) == usual_table()


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6))
def test_gains_beyond_a_constant_are_told_apart_below_the_largest(values: list[float]) -> None:
    names = ["rate / 10", "rate x 10", "warmup", "clip 90%", "adamw", "normalisation"]
    shown = [
        ShortProbe(name, SHORT, 1.0, math.nan, value, 0.0, False, False)
        for name, value in zip(names[: len(values)], values, strict=True)
    ]
    _, found = gains(Evidence(probes=Probes(tuple(shown))))
    own = [found[CAUSES[one.name][0]] for one in shown]
    raw = [max(value, 0.0) for value in values]
    assert max(own) == pytest.approx(min(max(raw), 1.0))
    assert all(after <= before for after, before in zip(own, raw, strict=True))
    if max(raw) <= 1.0:
        assert own == raw


def test_a_rate_far_above_the_usual_one_and_a_large_dropout_speak_for_their_causes() -> None:
    usual, fast = (hints(Evidence(measures=Measures(rate=r))) for r in (0.0, 2.0))
    assert (usual[Cause.LR_TOO_HIGH], fast[Cause.LR_TOO_HIGH]) == (0.0, 1.0)
    some, most = (hints(Evidence(measures=Measures(drop=p))) for p in (0.5, 0.95))
    assert some[Cause.TOO_MUCH_REGULARISATION] == 0.0
    assert most[Cause.TOO_MUCH_REGULARISATION] == 1.0


def broken_at(update, size, seed=0):
    """Return losses near 2.3 that jump to a level of their own at an update, with noise there."""
    loss = 2.3 + 0.1 * np.random.default_rng(seed).standard_normal(300)
    loss[update:] = size * (1 + 0.1 * np.random.default_rng(seed).standard_normal(300 - update))
    return History(300, loss, np.full(300, 5.0), np.arange(0))


@given(st.integers(3, 60), st.floats(10, 1e6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_run_that_breaks_in_its_first_updates_starts_before_it_breaks(update, size, seed):
    history = broken_at(update, size, seed)
    assert loss_curve(history).start == pytest.approx(2.3, rel=0.2)
    assert hints(Evidence((), history))[Cause.LR_TOO_HIGH] > 0.6


@given(st.floats(0.01, 10), st.floats(0, 2), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_start_of_a_noisy_run_is_that_of_all_its_first_losses(fall, noise, seed):
    loss = np.exp(-fall * np.linspace(0, 1, 200))
    loss += noise * np.random.default_rng(seed).standard_normal(200)
    assert loss_curve(History(200, loss, loss, np.arange(0))).start == np.median(loss[:10])
