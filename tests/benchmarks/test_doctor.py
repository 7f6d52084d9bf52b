"""The zoo of faulty programs: what it covers, what is held apart, and that every program runs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import etude
from benchmarks import doctor
from benchmarks.doctor import causes, keep, probe, score, verify
from benchmarks.doctor.case import Case
from benchmarks.doctor.diagnoser import Verdict
from benchmarks.doctor.edits import both, fields
from benchmarks.doctor.judge import bounded, distance, judged
from benchmarks.doctor.rivals import RIVALS
from benchmarks.doctor.score import Row
from etude.errors import BadValueError
from etude.recipe import Recipe
from etude.training.run import Run

HELD = {
    "curve-gan", "bursts-rnn", "digits-lora", "digits-mlp", "digits-vit", "patches-cnn",
    "patches-denoiser", "spirals-adamw", "text-transformer", "turned-resnet", "turned-rmsprop",
}  # fmt: skip
"""What the lot drew, before anything of the zoo was run under a watch."""


def faults():
    return [(program, edit) for program in doctor.PROGRAMS.values() for edit in program.faults]


def short(case: Case, steps: int = 2) -> Case:
    """Return a case that makes a few updates."""
    shorter = replace(case.program, setup=lambda: fields(steps=steps)(case.program.setup()))
    return replace(case, program=shorter)


@contextmanager
def counted(counts, model, optimizer):
    """Count the steps of every optimizer."""
    several = optimizer if isinstance(optimizer, tuple) else (optimizer,)
    for number, one in enumerate(several):
        counts[number] = 0

        def count(*_, number=number):
            counts[number] += 1

        one.register_step_post_hook(count)
    yield


def test_the_lot_holds_a_third_of_the_programs_apart():
    assert set(doctor.HELD) == HELD
    assert set(doctor.OPEN) | HELD == set(doctor.PROGRAMS)
    assert len(doctor.HELD) == len(doctor.PROGRAMS) // 3
    assert len(doctor.PROGRAMS) >= 20


def test_every_kind_of_network_has_a_program():
    assert {program.kind for program in doctor.PROGRAMS.values()} == set(causes.KINDS)


def test_every_cause_has_faults_in_at_least_three_programs_and_there_are_ninety():
    programs = defaultdict(set)
    for program, edit in faults():
        programs[edit.cause].add(program.name)
    assert set(programs) == set(causes.CAUSES)
    assert {cause: names for cause, names in programs.items() if len(names) < 3} == {}
    assert len(faults()) >= 90
    assert {edit.cause for program, edit in faults() if program.name in HELD} == set(causes.CAUSES)


def test_the_causes_are_those_that_etude_names():
    from etude.diagnosis.finding import Cause

    before_training = {"samples_mixed", "not_repeatable"}  # seen by `etude check` alone
    assert set(causes.CAUSES) == {str(cause) for cause in Cause} - before_training


def test_every_case_has_a_name_of_its_own_that_leads_back_to_it():
    cases = doctor.cases()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        again = doctor.get(case.name)
        assert (again.program, again.edit, again.seed) == (case.program, case.edit, case.seed)


def test_further_cases_are_of_open_programs_have_new_names_and_healthy_twins():
    scored = {case.name for case in doctor.cases()}
    for case in doctor.further():
        assert case.program.name in doctor.OPEN
        assert case.name not in scored
        assert doctor.get(case.name).edit == case.edit
        assert not case.twin.cause
        assert bool(case.cause) == (case.twin.name != case.name)
        if case.edit.layer:
            assert case.edit.layer in dict(case.setup().model().named_modules())
    names = [case.name for case in doctor.further()]
    assert len(set(names)) == len(names)


def test_every_fault_has_a_healthy_twin_of_the_same_program_and_seed():
    for case in doctor.cases():
        twin = case.twin
        assert not twin.cause
        assert (twin.program, twin.seed) == (case.program, case.seed)
        assert bool(case.cause) == (twin.name != case.name)


@pytest.mark.parametrize("name", list(doctor.PROGRAMS))
def test_a_program_builds_and_makes_two_updates_the_same_every_time(name):
    case = short(doctor.get(f"{name}/healthy/0"))
    counts: dict[int, int] = {}
    outcome = case.run(lambda model, optimizer: counted(counts, model, optimizer))
    assert set(counts.values()) == {2}
    assert len(outcome.losses) == 2
    assert all(map(math.isfinite, (*outcome.losses, outcome.score.error, outcome.score.loss)))
    assert case.run().losses == outcome.losses
    other = replace(case, seed=1).run()
    assert other.losses != outcome.losses


@pytest.mark.parametrize("name", list(doctor.PROGRAMS))
def test_every_edit_of_a_program_changes_it_and_names_a_module_that_is_there(name):
    program = doctor.PROGRAMS[name]
    digests = {}
    for edit in (None, *program.edits):
        case = Case(program, edit, 0)
        digests[case.name] = keep.digest(case)
        if edit is not None and edit.layer:
            setup = case.setup()
            with case.seeded("run"):
                assert edit.layer in dict(setup.model().named_modules()), (name, edit.name)
    assert len(set(digests.values())) == len(digests)


def test_a_case_that_is_not_in_the_loop_is_a_task_and_a_recipe():
    case = doctor.get("wine-tiny/decay of 1/2")
    recipe = case.recipe()
    assert isinstance(recipe, Recipe)
    assert (recipe.seed, recipe.optimizer.hyperparameters["weight_decay"]) == (2, 1.0)
    run = Run(case.task(), recipe)
    run.advance(2)
    assert not run.diverged
    assert isinstance(case.task(), etude.Task)


@pytest.mark.parametrize("name", ["digits-resnet/no zero_grad/0", "ring-gan/healthy/0"])
def test_a_case_of_the_loop_is_no_task(name):
    with pytest.raises(BadValueError, match=r"lies in the training loop.*use run"):
        doctor.get(name).task()
    with pytest.raises(BadValueError, match="lies in the training loop"):
        doctor.get(name).recipe()


def test_the_probe_changes_no_bit_and_reads_what_the_rules_need():
    case = short(doctor.get("digits-cnn/healthy/0"), 12)
    readings = probe.readings(case)
    assert readings.outcome is not None
    assert readings.outcome.losses == case.run().losses
    assert readings.steps == list(range(12))
    assert set(readings.layers) == {"0.0", "0.1", "1.0", "1.1", "4"} - {"0.1", "1.1"}
    assert all(len(row) == 12 for row in (*readings.layers.values(), *readings.units.values()))
    assert all(math.isfinite(r.gradient + r.update) for r in readings.layers["4"])
    assert readings.units["0.2"][0].kind == "ReLU"
    assert len(readings.epochs) == 12


def test_kept_readings_are_read_back_and_made_anew_when_the_case_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "CACHE", tmp_path)
    case = short(doctor.get("wine-tiny/healthy/0"), 3)
    made = keep.kept.__wrapped__(case)
    assert keep.kept.__wrapped__(case) == made
    longer = short(case, 4)
    assert len(keep.kept.__wrapped__(longer).outcome.losses) == 4
    assert len(list(tmp_path.iterdir())) == 1


def test_a_rule_fires_on_what_it_is_about(tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "CACHE", tmp_path)
    case = short(doctor.get("cancer-mlp/missing values/0"), 20)
    for rival in RIVALS:
        verdict = rival.diagnose(case)
        assert verdict.faulty
        assert set(verdict.causes) <= set(causes.CAUSES)
    assert not set().union(*(set(c) for r in RIVALS for c in r.causes.values())) - set(
        causes.CAUSES
    )


def row(cause="", causes=(), layer="", named="", update=None, program="digits-cnn"):
    return Row("x", program, cause, layer, 100, Verdict(tuple(causes), named, update))


def test_the_measures_count_what_they_say():
    rows = [
        row("lr_too_high", ["lr_too_high"], "", "", 9),
        row("bad_data", ["lr_too_low", "bad_data"], "a.b", "a", 29),
        row("bad_data", [], "a"),
        row("missing_residual", ["bad_data"], "blocks.1", "blocks.10", 49),
        row(),
        row("", ["lr_too_low"]),
    ]
    found = {name: measure(rows) for name, measure in score.MEASURES.items()}
    assert found == {
        "recall": 0.75,
        "false alarms": 0.5,
        "top-1 cause": 0.25,
        "top-3 cause": 0.5,
        "layer right": pytest.approx(1 / 3),
        "found after": 0.3,
    }
    low, high = score.interval(rows, score.MEASURES["recall"])
    assert low == high == 0.75


def test_tables_report_open_and_held_programs_apart():
    rows = [row("bad_data", ["bad_data"], update=1), row("bad_data", program="digits-mlp")]
    text = score.table({"some": rows})
    assert "| some | open | 1.00 (1.00 to 1.00) | nan" in text
    assert "| some | held | 0.00 (0.00 to 0.00) | nan" in text
    assert "| `bad_data` | 2 | 1 / 1 |" in score.by_cause({"some": rows})


def test_scores_are_in_units_of_a_constant():
    case = doctor.get("digits-mlp/healthy/0")
    setup = case.program.setup()

    class Constant(torch.nn.Module):
        def forward(self, x):
            shares = torch.bincount(setup.train[-1]).float()
            return (shares / shares.sum()).log().expand(len(x), -1)

    found = judged(Constant(), setup, setup)
    assert found.error == pytest.approx(1.0)
    assert found.loss == pytest.approx(1.0, abs=1e-5)
    assert bounded(math.nan) == bounded(math.inf) == bounded(1e9) == 10.0
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    assert distance(points, points) == pytest.approx(0.0, abs=1e-6)
    assert distance(points, points + 3) > 1


def test_every_case_is_stored_every_fault_harms_and_every_twin_learns():
    table = verify.read()
    every = {case.name: case for case in (*doctor.cases(), *doctor.further())}
    assert list(verify.complaints(table, list(every.values()))) == []
    assert set(table) == set(every)
    for case in every.values():
        row, edit = table[case.name], case.edit
        assert (row.cause, row.twin) == (case.cause, case.twin.name)
        assert edit is None or (row.layer, row.by) == (edit.layer, edit.by)
    content = json.loads(verify.TABLE.read_text(encoding="utf-8"))
    assert set(content) == {"torch", "thresholds", "cases"}


def test_complaints_name_what_does_no_harm_and_what_does_not_learn():
    case = doctor.get("digits-cnn/decay of 1/0")

    def told(fault, healthy, gain=0.0):
        twin = verify.Verified("", "", case.twin.name, "error", healthy, healthy, 1.0, "", gain)
        table = {
            case.name: replace(twin, cause=case.cause, error=fault, gain=None),
            case.twin.name: twin,
        }
        return list(verify.complaints(table, [case.twin, case]))

    assert told(0.9, 0.1) == []
    assert told(0.15, 0.1) == [f"{case.name}: {case.cause} costs 0.056, by error"]
    assert "healthy, but the error is 0.950 of a constant's" in told(0.99, 0.95)[0]
    assert "another rate lowers the error by 0.200" in told(0.9, 0.1, 0.2)[0]
    assert list(verify.complaints({}, [case])) == [f"{case.name}: not measured"]


def test_a_fault_is_made_on_top_of_its_twin():
    program = doctor.PROGRAMS["clusters-plain"]
    fault = program.edit("no clipping, large weights")
    assert fault.twin == "large weights, clipped"
    case = Case(program, fault, 0)
    with case.seeded("run"):
        model = case.setup().model()
    with case.seeded("run"):
        twin = case.twin.setup().model()
    assert case.setup().clip is None
    assert case.twin.setup().clip is not None
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert both()(program.setup()).clip == program.setup().clip
