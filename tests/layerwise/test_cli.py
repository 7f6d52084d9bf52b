"""`etude layerwise` and `etude sensitivity`."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from etude import Task, tasks
from etude.cli.main import command_line
from etude.cli.options.lr_mult import rules
from etude.cli.options.recipe_options import choose_recipe
from etude.cli.sensitivity import show
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.layerwise.planning import plan
from etude.measure import sensitivity as module
from etude.measure.sensitivity import Response, Sensitivity, sensitivity
from etude.recipe import Recipe
from etude.tasks.models import lstm, mlp


@pytest.fixture
def etude(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["etude", *words])
        code = 0
        try:
            command_line()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# ---- etude layerwise -------------------------------------------------------------------------


def test_layerwise_prints_every_row_whole_in_a_narrow_terminal(etude: Callable) -> None:
    code, out, _ = etude("layerwise", "digits-lstm", "--lr-mult", "*[forget]=3", "--lr", "0.01")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.strip().startswith("layers.0")]
    assert rows[0][:5] == ["layers.0.cell.weight_ih_l0[forget]", "512", "*[forget]", "3", "0.03"]
    assert rows[1][:6] == ["layers.0.cell.weight_ih_l0[rest]", "1", "536", "–", "1", "0.01"]
    assert "10 rows, 2 layers, 19\u202f594 numbers; 2\u202f000 updates" in out


def test_layerwise_without_multipliers_shows_ones(etude: Callable) -> None:
    code, out, _ = etude("layerwise", "digits-mlp", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["lr_mult"] is None
    assert {row["multiplier"] for row in found["rows"]} == {1.0}


def test_layerwise_json_and_page(etude: Callable) -> None:
    code, out, _ = etude(
        "layerwise", "digits-cnn", "--lr-mult", "decay(0.5) * no_decay()", "--lr-mult",
        "head.bias=2", "--html", "rates.html", "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    assert found["lr_mult"] == {"@policy": "decay(0.5) * no_decay()", "head.bias": 2.0}
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["convs.0.conv.weight"]["multiplier"] == 0.125
    assert rows["head.bias"]["rule"] == "head.bias × no_decay"
    assert rows["head.bias"]["decay"] == 0.0
    assert "convs.0.conv.weight" in Path("rates.html").read_text()


def test_layerwise_runs_the_coordinate_check(etude: Callable) -> None:
    words = ("layerwise", "digits-mlp", "--lr", "0.01", "--widths", "64,128,256,512")
    code, out, _ = etude(*words, "--lr-mult", "mup(64)")
    assert code == 0
    assert "Coordinate check passed" in out
    code, out, _ = etude(*words)
    assert code == 1
    assert "Coordinate check failed at head" in out
    code, _, err = etude(*words[:-1], "wide")
    assert code == 2
    assert "write whole numbers, such as 64,128" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr-mult", "*[forgot]=3"], "did you mean 'forget'?"),
        (["--lr-mult", "haed=3"], "did you mean 'head'?"),
        (["--lr-mult", "head=-1"], "give a finite number >= 0"),
        (["--lr-mult", "head"], "write SELECTOR=FACTOR, such as head=3"),
        (["--lr-mult", "decay()", "--lr-mult", "no_decay()"], "'decay() * no_decay()'"),
        (["--lr-mult", "*[forget]=3", "--optimizer", "muon"], "muon refuses"),
    ],
)
def test_layerwise_says_what_is_wrong_in_words(etude: Callable, words: list, message: str) -> None:
    code, _, err = etude("layerwise", "digits-lstm", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_options_become_a_table_a_policy_or_both() -> None:
    assert rules(None) is None
    assert rules(["a.b=0.5", "*[cell]=linear()"]) == {"a.b": 0.5, "*[cell]": "linear()"}
    assert rules(["mup(base_width=64) * no_decay()"]) == "mup(base_width=64) * no_decay()"


def test_set_reaches_into_the_multipliers_with_and_without_quotes(tmp_path: Path) -> None:
    task = tasks.get("digits-lstm")
    changes = ['lr_mult."*[forget]"=3', "lr_mult.head.weight=0.5", "lr_mult.@bias=linear()"]
    recipe = choose_recipe(task, None, changes)
    assert recipe.lr_mult is not None
    assert recipe.lr_mult.plain() == {"*[forget]": 3.0, "head.weight": 0.5, "@bias": "linear()"}
    recipe = choose_recipe(task, None, ["lr_mult=decay(0.5)", "lr_mult.head=2"])
    assert recipe.lr_mult is not None
    assert recipe.lr_mult.plain() == {"@policy": "decay(0.5)", "head": 2.0}
    Recipe(lr_mult={"head": 3.0}).save(tmp_path / "recipe.toml")
    recipe = choose_recipe(task, tmp_path / "recipe.toml", ["lr_mult.@bias=2"])
    assert recipe.lr_mult is not None
    assert recipe.lr_mult.plain() == {"head": 3.0, "@bias": 2.0}
    with pytest.raises(BadValueError, match="only 'optimizer', 'schedules' and 'lr_mult' have"):
        choose_recipe(task, None, ["lr.x=3"])


# ---- sensitivity -----------------------------------------------------------------------------


def response(part: str, factor: float, *effects: float) -> Response:
    return Response(part, factor, tuple(1 - e for e in effects), effects)


def test_a_response_is_better_only_beyond_its_spread() -> None:
    clear = response("a", 3.0, 0.10, 0.11, 0.09, 0.10)
    assert clear.verdict == "better"
    assert clear.effect == pytest.approx(0.10)
    assert clear.spread == pytest.approx(0.008165, rel=1e-3)
    assert clear.margin == pytest.approx(3.182446 * clear.spread / 2)
    assert response("a", 3.0, 0.3, -0.2, 0.1, 0.1).verdict == "nothing"
    assert response("a", 3.0, -0.10, -0.11).verdict == "worse"
    gone = response("a", 3.0, 0.1, -math.inf)
    assert gone.verdict == "diverged"
    assert gone.effect == -math.inf


def test_kinds_and_gates_are_measured_within_the_budget() -> None:
    task = tasks.get("digits-lstm", width=8)
    found = sensitivity(task, Recipe(steps=400, batch_size=16), budget=2.0, seeds=2, progress=False)
    assert {r.part for r in found.responses} == {
        "*", "@linear", "@recurrent", "@bias", "*[input]", "*[forget]", "*[cell]", "*[output]",
    }  # fmt: skip
    assert found.cost <= 2.0
    assert found.steps == math.floor(2.0 * 400 / 38)
    assert all(len(r.losses) == 2 for r in found.responses)
    json.dumps(found.plain(), allow_nan=False)


def test_a_rate_that_is_too_low_is_called_that() -> None:
    task = tasks.get("digits-cnn", width=4)
    recipe = Recipe(lr=1e-3, steps=300, batch_size=32)
    found = sensitivity(task, recipe, budget=3.0, seeds=3, parts=["@bias"], progress=False)
    whole = next(r for r in found.responses if r.part == "*" and r.factor == 3.0)
    assert whole.verdict == "better"
    assert "too low, which affects every part. Tune the rate first" in found.advice()


def test_nothing_is_proposed_where_nothing_helps() -> None:
    rows = (response("*", 3.0, 0.1, -0.1), response("@bias", 3.0, 0.1, -0.1))
    found = Sensitivity("t", Recipe(), 10, (0, 1), (1.0, 1.0), rows, {}, None, 1.0)
    assert found.advice() == (
        "No multiplier helps by more than its margin: keep one rate for all parts."
    )


def test_what_does_not_hold_on_fresh_seeds_is_not_proposed(monkeypatch) -> None:
    # Every multiplier looks a little better on the first seeds and worse on the fresh ones.
    def losses(lab: Any, given: Any, seeds: Any) -> tuple[float, ...]:
        lab.updates += 1
        return tuple(
            1.0 + 0.001 * s - (0 if given is None else 0.1 if s < 3 else -0.1) for s in seeds
        )

    monkeypatch.setattr(module._Lab, "losses", losses)
    task = tasks.get("digits-cnn", width=4)
    found = sensitivity(task, seeds=3, budget=5.0, progress=False, parts=["@bias"])
    assert found.trial is not None
    assert found.proposal == {}
    assert "do not lower the loss on new seeds" in found.advice()


def test_a_part_that_needs_another_rate_is_found_and_proposed() -> None:
    # One layer hears its inputs a twentieth as loud: its curvature is 400 times smaller.
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud = nn.Linear(4, 1)
            self.faint = nn.Linear(4, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.loud(x[:, :4]) + self.faint(0.05 * x[:, 4:])

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    task = Task(Deaf, (x, x @ torch.randn(8, 1)), loss=nn.functional.mse_loss)
    recipe = Recipe(optimizer="sgd", lr=0.2, schedule="constant()", steps=200, batch_size=32)
    found = sensitivity(
        task, recipe, budget=6.0, seeds=4, factor=30.0, parts=["faint"], progress=False
    )
    verdicts = {(r.part, r.factor): r.verdict for r in found.responses}
    assert verdicts["faint", 30.0] == "better"
    assert verdicts["*", 30.0] == "diverged"
    assert found.proposal == {"faint": 30.0}
    assert found.trial is not None
    assert found.trial.effect > found.trial.margin
    assert "Proposed: faint × 30" in found.advice()


def test_narrower_rules_come_first_and_shadowed_ones_are_dropped() -> None:
    from etude.layerwise import parts_of

    parts = parts_of(lstm(inputs=2, outputs=3, width=4))
    gates = [f"*[{g}]" for g in ("input", "forget", "cell", "output")]
    rows = [response("@recurrent", 3.0, 0.5, 0.5), *(response(g, 2.0, 0.1, 0.1) for g in gates)]
    assert set(module._propose(rows, parts)) == set(gates)
    rows = [response("@linear", 3.0, 0.5, 0.5), response("@bias", 3.0, 0.1, 0.1)]
    assert list(module._propose(rows, parts)) == ["@linear", "@bias"]
    plan(module._propose(rows, parts), parts)


def test_gates_are_left_out_where_the_optimizer_cannot_have_them() -> None:
    task = tasks.get("digits-lstm", width=4)
    found = sensitivity(
        task, Recipe(optimizer="muon", steps=400, batch_size=8), budget=2.0, seeds=2, progress=False
    )
    assert not any("[" in r.part for r in found.responses)
    assert "Gates were left out: muon" in found.advice()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": 1}, BadValueError, "a spread needs 2 to 10"),
        ({"seeds": 2.5}, BadTypeError, r"seeds=2\.5 is not a whole number"),
        ({"factor": 1}, BadValueError, "factor=1 is out of bounds: give a number > 1"),
        ({"budget": math.nan}, BadValueError, "budget=nan is out of bounds"),
        ({"budget": True}, BadTypeError, "budget=True is not a number"),
        ({"budget": 0.01}, BadValueError, r"too few to compare: give at least"),
        ({"parts": ["*[reset]"]}, BadValueError, r"matches no parameter"),
    ],
)
def test_bad_numbers(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sensitivity(tasks.get("digits-mlp", width=4), progress=False, **options)


def test_a_recipe_with_multipliers_or_one_that_diverges() -> None:
    task = tasks.get("diabetes-mlp", width=4)
    with pytest.raises(BadValueError, match="has lr_mult: sensitivity starts from one"):
        sensitivity(task, Recipe(lr_mult="decay(0.5)"), progress=False)
    wild = Recipe(optimizer="sgd", lr=1e6, steps=200, batch_size=32)
    with pytest.raises(TaskError, match="the recipe itself diverges at lr=1e"):
        sensitivity(task, wild, progress=False)


def test_sensitivity_on_the_command_line(etude: Callable) -> None:
    words = ("sensitivity", "cancer-mlp", "--budget", "0.6", "--seeds", "2")
    code, out, err = etude(*words)
    assert code == 0, err
    assert "2 seeds" in out
    assert "@bias" in out
    code, out, _ = etude(*words, "--json")
    assert json.loads(out)["seeds"] == [0, 1]


def test_a_multiplier_of_everything_is_not_tried_against_the_same_rate(monkeypatch) -> None:
    # Every part looks better three times as fast: together they are the rate, and no news.
    def losses(lab: Any, given: Any, seeds: Any) -> tuple[float, ...]:
        factor = 1.0 if given is None else next(iter(given.values()))
        return tuple(1.0 + 0.001 * s - (0.1 if factor > 1 else 0.0) for s in seeds)

    monkeypatch.setattr(module._Lab, "losses", losses)
    task = tasks.get("digits-mlp", width=4)
    found = sensitivity(task, seeds=3, budget=9.0, progress=False, parts=["@linear", "@bias"])
    assert {r.verdict for r in found.responses if r.factor == 3.0} == {"better"}
    assert found.trial is None
    assert found.proposal == {}
    assert "Tune the rate first" in found.advice()
    assert "are together one multiplier for the whole model" in found.advice()


def test_small_runs_keep_to_one_thread_however_many_there_are() -> None:
    seen: list[int] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return nn.functional.cross_entropy(output, target)

    x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
    task = Task(lambda: mlp(inputs=4, outputs=3, width=8), (x, y), (x, y), loss=loss)
    recipe = Recipe(steps=64, batch_size=16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sensitivity(task, recipe, budget=4.0, seeds=2, parts=["@bias"], progress=False)
    finally:
        torch.set_num_threads(before)
    # The batch that is tried before the size of a step is known has both, and so have its halves.
    assert seen.count(2) == 2
    assert seen.count(1) == len(seen) - 2 > 16


def test_what_to_do_next_is_printed_as_commands(etude: Callable, capsys) -> None:
    rows = (response("*", 3.0, 0.10, 0.11), response("@bias", 3.0, 0.2, 0.21))
    trial = response(module.TOGETHER, 3.0, 0.1, 0.11)
    found = Sensitivity("mine", Recipe(), 10, (0, 1), (1.0, 1.0), rows, {"@bias": 3.0}, trial, 1.0)
    own = ["--optimizer", "sgd", "--set", "lr=0.1", "--set", "clip_norm=1"]
    show(found, ["digits-lstm", "--with", "width=8"], own)
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if "etude" in line]
    subject = ["digits-lstm", "--with", "width=8"]
    kept = ["--optimizer", "sgd", "--set", "clip_norm=1"]
    assert lines == [
        ["etude", "tune", *subject, *kept, "--out", "runs/mine-tuned"],
        ["etude", "sensitivity", *subject, "--recipe", "runs/mine-tuned/recipe.toml"],
        ["etude", "tune", *subject, *kept, "--set", "lr_mult.@bias=3"],
    ]


def test_the_words_of_the_command_line_come_back_in_the_next_ones(etude: Callable) -> None:
    code, out, err = etude(
        "sensitivity", "cancer-mlp", "--with", "width=8", "--lr", "1e-3", "--steps", "100",
        "--budget", "6", "--seeds", "2", "--part", "@bias",
    )  # fmt: skip
    assert code == 0, err
    assert "etude tune cancer-mlp --with width=8 --steps 100 --out runs/cancer-mlp-tuned" in out
