"""Every sentence about a study is held against its trials, counted anew from the rows."""

import itertools
import math
import re
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.report.study.content import StudyContent
from etude.report.study.findings import findings
from etude.report.study.naming import interval_text, name_of, trials_text
from etude.studies.analysis.intervals import Interval, mean_interval
from tests.studies.common import kind, made, valley

NUMBER = r"[−-]?[\d.]+(?:e-?\d+)?"


@st.composite
def studies(draw):
    """Studies of one or two tasks × optimizers × schedules × widths, whose losses are drawn."""
    tasks, optimizers, schedules = (
        draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        for names in (["one", "two"], ["sgd", "adam"], ["cosine()", "constant()"])
    )
    widths = draw(st.lists(st.sampled_from([4, 8, 16]), min_size=1, max_size=3, unique=True))
    kinds = {}
    for task, optimizer, schedule, width in itertools.product(tasks, optimizers, schedules, widths):
        one = kind(task, optimizer=optimizer, schedule=schedule, width=width)
        kinds[one] = valley(
            draw(st.sampled_from([0.003, 0.03, 0.3])),
            draw(st.floats(0.1, 1.5)),
            draw(st.floats(0, 0.3)),
            draw(st.sampled_from([0.5, 5.0, math.inf])),
        )
    levels = {one: draw(st.floats(0.5, 3)) for one in kinds}
    halves = {
        one: (lambda lr, seed, level=level: level + 0.01 * seed) for one, level in levels.items()
    }
    limits = {one: draw(st.floats(0.05, 50)) for one in kinds if draw(st.booleans())}
    seeds = draw(st.integers(1, 3))
    return made(kinds, seeds=seeds, halves=halves, limits=limits)


def said(result, *beginnings, records=False):
    """Return the findings that begin so; those that need Records only if they are read."""
    kept = StudyContent(result).records if records else {}
    return [f for f in findings(result, kept) if re.match("|".join(beginnings), f.text)]


def losses_at(result):
    """Return kind → rate → losses over seeds, from the rows alone."""
    found = defaultdict(lambda: defaultdict(list))
    for row in result.rows:
        found[row.kind][row.lr].append(row.loss)
    return found


def best_of(table):
    """Return the best rate and its losses; None if no rate has only finite ones."""
    means = {lr: sum(values) / len(values) for lr, values in table.items()}
    lr = min(means, key=means.get)
    return (lr, table[lr]) if math.isfinite(means[lr]) else None


@settings(max_examples=20, deadline=None)
@given(studies())
def test_every_finding_names_trials_of_the_study_and_every_sentence_ends(result):
    for finding in findings(result, StudyContent(result).records):
        assert finding.text.endswith(".")
        assert finding.trials
        assert set(finding.trials) <= {row.number for row in result.rows}
        assert "nan" not in finding.text.lower().replace("finance", "")
        assert "None" not in finding.text


@settings(max_examples=20, deadline=None)
@given(studies())
def test_the_best_of_each_task_is_the_least_mean_and_its_interval_is_that_of_its_seeds(result):
    tables = losses_at(result)
    for task in {k.task for k in tables}:
        own = {k: b for k, t in tables.items() if k.task == task and (b := best_of(t))}
        told = said(result, rf"{task}: the least")
        if not own:
            assert not told
            continue
        (lr, values) = min(own.values(), key=lambda pair: sum(pair[1]) / len(pair[1]))
        (finding,) = told
        assert (
            f"the least mean final loss is {interval_text(mean_interval(values))}" in finding.text
        )
        assert f"at a rate of {lr:g}" in finding.text
        if len(values) == 1:
            assert "(one seed)" in finding.text
            if len(own) > 1:
                assert "it cannot be told whether" in finding.text


@settings(max_examples=20, deadline=None)
@given(studies())
def test_the_runs_that_diverged_are_counted(result):
    (finding,) = said(result, r"\d+ of \d+ runs diverged")
    broken, runs = map(int, re.match(r"(\d+) of (\d+)", finding.text).groups())
    assert broken == sum(row.diverged for row in result.rows)
    assert runs == len(result.rows)
    for number, of, name in re.findall(r"(\d+) of (\d+) with (\w+)", finding.text):
        own = [row for row in result.rows if row.kind.optimizer == name]
        assert (int(number), int(of)) == (sum(row.diverged for row in own), len(own))


def groups(result, free):
    """Return for each group of kinds that differ only in `free` the best runs of each rival."""
    found = defaultdict(dict)
    halves = defaultdict(lambda: defaultdict(list))
    for row in result.rows:
        halves[row.kind][row.lr].append(row.half_loss)
    for one, table in losses_at(result).items():
        best = best_of(table)
        if best is None:
            continue
        key = (one.task, one.settings, *(() if "schedule" in free else (one.schedule,)),
               *(() if "optimizer" in free else (one.optimizer,)))  # fmt: skip
        rival = getattr(one, free[0])
        mean = sum(best[1]) / len(best[1])
        half = halves[one][best[0]]
        if rival not in found[key] or mean < found[key][rival][0]:
            found[key][rival] = mean, sum(half) / len(half)
    return [group for group in found.values() if len(group) > 1]


@settings(max_examples=20, deadline=None)
@given(studies())
def test_wins_and_flips_are_counted_from_the_rows(result):
    for free in (("optimizer", "schedule"), ("schedule",)):
        comparisons = groups(result, free)
        plural = f"{free[0]}s"
        wins = said(result, f"Of the {plural}")
        assert bool(wins) == bool(comparisons)
        if not comparisons:
            continue
        counted = defaultdict(int)
        for group in comparisons:
            counted[min(group, key=lambda name: group[name][0])] += 1
        for name, count in counted.items():
            assert f"{name} in {count}" in wins[0].text
        flips = sum(
            any(
                (group[a][0] - group[b][0]) * (group[a][1] - group[b][1]) < 0
                for a, b in itertools.combinations(group, 2)
            )
            for group in comparisons
        )
        order = said(result, rf"In \d+ of \d+ comparisons? of {plural}", f"The {plural} are in")
        assert len(order) == 1
        if flips:
            assert order[0].text.startswith(f"In {flips} of {len(comparisons)} comparison")
        else:
            assert "the same order" in order[0].text
        if len({row.seed for row in result.rows}) == 1:
            assert "in 90% of the draws" not in order[0].text


@settings(max_examples=20, deadline=None)
@given(studies())
def test_the_edge_is_counted_against_the_limit_of_each_kind(result):
    told = said(result, "The rate from which on")
    if not told:
        return
    higher, lower, unsure = map(
        int, re.search(r"higher in (\d+), lower in (\d+), and in (\d+)", told[0].text).groups()
    )
    limits = {(r.kind.task, r.kind.settings, r.kind.optimizer): r.limit
              for r in reversed(result.rows) if r.limit is not None}  # fmt: skip
    best = {}
    for one, table in losses_at(result).items():
        key = (one.task, one.settings, one.optimizer)
        found = best_of(table)
        mean = math.inf if found is None else sum(found[1]) / len(found[1])
        if key not in best or mean < best[key][0]:
            best[key] = mean, table
    counts = [0, 0, 0]
    for key, (_, table) in best.items():
        rates = sorted(table)
        trains = [sum(table[lr]) / len(table[lr]) < 2.0 for lr in rates]
        runs = [
            (i, j)
            for i in range(len(rates))
            for j in range(i, len(rates))
            if all(trains[i : j + 1])
        ]
        if not runs or key not in limits:
            continue
        _, last = max(runs, key=lambda run: (run[1] - run[0], -run[0]))
        if last + 1 == len(rates):
            continue
        low, high = rates[last], rates[last + 1]
        counts[0 if low > limits[key] else 1 if high < limits[key] else 2] += 1
    assert [higher, lower, unsure] == counts


@settings(max_examples=20, deadline=None)
@given(studies())
def test_a_drift_is_told_only_where_no_optimum_is_at_the_end_of_the_range(result):
    tables = losses_at(result)
    rates = sorted({row.lr for row in result.rows})
    for finding in said(result, ".*best rate goes as width to the power"):
        numbers = [float(n.replace("−", "-")) for n in
                   re.search(rf"power ({NUMBER}) \(({NUMBER}) to ({NUMBER})\)",
                             finding.text).groups()]  # fmt: skip
        assert numbers[1] <= numbers[0] <= numbers[2]
        assert ("no change" in finding.text) == (numbers[1] <= 0 <= numbers[2])
        for one in {row.kind for row in result.rows if row.number in finding.trials}:
            assert best_of(tables[one])[0] not in (rates[0], rates[-1])


def test_the_sensitivity_says_which_is_the_most_and_which_the_least():
    kinds = {
        kind("steep"): valley(0.1, 0.1, broken_above=0.5),
        kind("flat"): lambda lr, seed: 1.0 + 0.001 * seed + 0.01 * math.log10(lr / 0.1) ** 2,
    }
    (finding,) = said(made(kinds), "With sgd, at 5 rates")
    assert re.search(r"of the drop of the loss for steep, the most of 2 kinds", finding.text)
    assert finding.text.endswith("for flat, the least.")
    noisy = {kind("a"): valley(noise=0.9), kind("b"): valley(noise=0.95)}
    (finding,) = said(made(noisy), "With sgd, at 5 rates")
    assert finding.text.endswith("do not tell them apart.")


def test_an_option_that_lowers_the_sensitivity_is_said_to():
    kinds = {
        kind(qk_norm=False): valley(0.1, 0.5, broken_above=0.5),
        kind(qk_norm=True): valley(0.1, 0.5, broken_above=50),
    }
    (finding,) = said(made(kinds), "qk_norm")
    assert finding.text.startswith(
        "qk_norm True instead of False, all else equal: the sensitivity to the rate is lower in 1, "
        "higher in 0, and cannot be told apart in 0 of 1 comparison."
    )
    assert said(made(kinds, seeds=1), "qk_norm") == []


def test_the_linear_rule_is_named_where_the_optimum_follows_it():
    rates = [10 ** (-3 + i / 4) for i in range(13)]
    kinds = {kind(batch_size=b): valley(0.001 * b) for b in (10, 100)}
    told = [f for f in said(made(kinds, lrs=rates), ".*") if "goes as batch size" in f.text]
    assert len(told) == 1
    assert "compatible with the linear rule." in told[0].text


def test_a_study_without_results_says_nothing():
    result = made({})
    assert findings(result, {}) == []


def test_without_records_the_updates_to_a_target_are_not_told():
    kinds = {kind(): valley()}
    assert said(made(kinds), ".*is reached after", records=True)
    assert not said(made(kinds, records=False), ".*is reached after", records=True)


@given(st.sets(st.integers(0, 60), min_size=1, max_size=12))
def test_the_numbers_of_trials_are_said_as_ranges(numbers):
    text = trials_text(numbers).partition(" ")[2]
    if "more" in text:
        return
    read = set()
    for part in text.split(", "):
        low, _, high = part.partition("–")
        read |= set(range(int(low), int(high or low) + 1))
    assert read == numbers


def test_one_seed_has_no_interval_in_words():
    assert interval_text(Interval(1.5, 1.5, 1.5, 1)) == "1.5 (one seed)"
    assert name_of(kind("a"), ["batch_size"]) == "batch 16"
    with pytest.raises(AttributeError, match="depth"):
        name_of(kind("a"), ["depth"])
