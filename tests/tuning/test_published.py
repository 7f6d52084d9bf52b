"""Published rules: Step Law on its authors' table, muP, LoRA; what lies outside is said."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import etude
from etude import Recipe, Task, tasks
from etude.errors import BadTypeError, BadValueError, StorageError, UnknownNameError
from etude.tuning.published import RULES, Setup, read_rule, step_law

TABLE = (
    (2.147e8, 4.0e9, 2.762e-3), (2.147e8, 1.14e10, 2.762e-3), (2.147e8, 2.0e10, 3.906e-3),
    (2.147e8, 1.0e11, 7.812e-3), (2.683e8, 5.0e9, 1.953e-3), (2.683e8, 1.42e10, 3.906e-3),
    (2.683e8, 2.5e10, 3.906e-3), (2.683e8, 8.0e10, 3.906e-3), (4.293e8, 8.0e9, 1.953e-3),
    (4.293e8, 2.27e10, 1.953e-3), (4.293e8, 4.0e10, 2.762e-3), (4.293e8, 5.0e10, 1.953e-3),
    (5.368e8, 1.0e10, 9.766e-4), (5.368e8, 2.84e10, 1.953e-3), (5.368e8, 5.0e10, 2.762e-3),
    (1.074e9, 2.0e10, 1.381e-3), (1.074e9, 5.69e10, 1.381e-3),
)  # fmt: skip
"""Parameters, tokens and the best rate of each size in data/dense_lr_bs_loss.csv of
github.com/step-law/steplaw: the rate of the lowest smooth loss, rates a factor of √2 apart."""


def setup(task: Task, recipe: Recipe, steps: int = 100) -> Setup:
    samples = steps * (recipe.batch_size if isinstance(recipe.batch_size, int) else 1)
    return Setup(task.build(), task, recipe, samples)


def test_step_law_holds_on_the_table_of_its_authors() -> None:
    ratios = [step_law(n, d) / best for n, d, best in TABLE]
    assert max(max(r, 1 / r) for r in ratios) < 2
    assert 0.7 < statistics.median(ratios) < 1.0


def test_step_law_counts_the_tokens_of_a_run_and_says_that_it_is_outside() -> None:
    task = tasks.get("text-transformer")
    recipe = Recipe(**task.defaults)
    start = read_rule("step law").start(setup(task, recipe))
    per_sample = (task.train.targets() or 0) / (task.train.samples or 1)
    tokens = 100 * recipe.batch_size * per_sample
    model = task.build()
    inner = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(("emb", "pos")))
    inner -= sum(p.numel() for p in model.head.parameters())
    assert start.lr == pytest.approx(step_law(inner, tokens))
    assert "parameters (fitted on 2.1e+08 to 1.1e+09)" in start.outside
    assert "tokens (fitted on 4e+09 to 1e+11)" in start.outside
    within = read_rule("step_law(tokens=2e10)").start(setup(task, recipe))
    assert "tokens" not in within.outside


def test_step_law_is_refused_where_it_says_nothing() -> None:
    text, digits = tasks.get("text-transformer"), tasks.get("digits-mlp")
    with pytest.raises(BadValueError, match="known for adamw, not for sgd"):
        read_rule("step law").start(setup(text, Recipe(optimizer="sgd")))
    with pytest.raises(BadValueError, match="this task has no attention"):
        read_rule("step law").start(setup(digits, Recipe()))
    rows = tasks.get("digits-transformer")
    with pytest.raises(BadValueError, match="this task has no target per token"):
        read_rule("step law").start(setup(rows, Recipe()))


@pytest.mark.parametrize(
    ("optimizer", "lr_mult", "factor"),
    [("adamw", None, 0.25), ("sgd", None, 0.5), ("adamw", "mup(16)", 1.0)],
)
def test_mup_carries_a_rate_from_a_width(
    optimizer: str, lr_mult: str | None, factor: float
) -> None:
    task = tasks.get("digits-mlp", width=64)
    recipe = Recipe(optimizer=optimizer, lr_mult=lr_mult)
    start = read_rule("mup(base_width=16, lr=0.02)").start(setup(task, recipe))
    assert start.lr == pytest.approx(0.02 * factor)


def test_mup_needs_both_numbers_and_the_same_base() -> None:
    for text in ("mup", "mup(64)", "mup(lr=0.1)", "mup(base_width=0, lr=0.1)"):
        with pytest.raises(BadValueError, match=r"such as 'mup\(base_width=64, lr=0\.01\)'"):
            read_rule(text)
    task = tasks.get("digits-mlp", width=64)
    with pytest.raises(BadValueError, match="multipliers are of a base width of 32"):
        read_rule("mup(16, 0.02)").start(setup(task, Recipe(lr_mult="mup(32)")))


class Adapted(nn.Module):
    """A frozen layer with an adapter under names of its own, and one under peft's."""

    def __init__(self, name: str = "lora") -> None:
        super().__init__()
        self.base = nn.Linear(6, 4).requires_grad_(False)
        first, second = ("lora_A", "lora_B") if name == "lora" else ("down", "up")
        self.add_module(first, nn.Linear(6, 2, bias=False))
        self.add_module(second, nn.Linear(2, 4, bias=False))
        self.names = first, second
        self.scaling = 8.0
        nn.init.zeros_(self.get_submodule(second).weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (self.get_submodule(name) for name in self.names)
        return self.base(x) + self.scaling * second(first(x))


def small(name: str = "lora") -> Task:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=g)
    y = torch.randn(6, 4, generator=g)
    return Task(lambda: Adapted(name), (x, x @ y), valid=0.25, loss=F.mse_loss)


def test_lora_is_the_prior_or_ten_times_a_known_rate() -> None:
    from etude.optimizers.choice import OptimizerChoice
    from etude.optimizers.prior import centre_of

    task = small()
    start = read_rule("lora").start(setup(task, Recipe()))
    assert start.lr == pytest.approx(10 ** centre_of(task.build(), 48, OptimizerChoice("adamw")))
    assert read_rule("lora(full=2e-4)").start(setup(task, Recipe())).lr == pytest.approx(2e-3)
    own = read_rule("lora(first='down*', scaling=8.0)").start(setup(small("own"), Recipe()))
    assert own.lr == pytest.approx(start.lr)
    with pytest.raises(BadValueError, match="no trained parameter is named lora_A"):
        read_rule("lora").start(setup(small("own"), Recipe()))
    with pytest.raises(BadValueError, match=r"first='dawn\*' matches no matrix: did you mean"):
        read_rule("lora(first='dawn*')").start(setup(small("own"), Recipe()))


def test_a_search_begins_there_and_says_so(tmp_path) -> None:
    recipe = Recipe(steps=40, batch_size=16)
    options = {"progress": False, "engine": "loop"}
    best = etude.tune(small(), recipe, 1.5, start_from="lora(full=1e-3)", **options)
    rates = [trial.lr for trial in best.trials]
    assert min(rates) <= 0.01 <= max(rates)
    assert min(rates) > 0.001
    assert any("The search began at 0.01, from lora, 10 times full" in n for n in best.notes)
    plain = etude.tune(small(), recipe, 1.5, **options)
    assert not any("search began" in note for note in plain.notes)


def test_a_larger_budget_begins_at_the_same_rule(tmp_path) -> None:
    recipe = Recipe(steps=40, batch_size=16)
    options = {"progress": False, "engine": "loop"}
    home = {"folder": tmp_path / "tuning"}
    first = etude.tune(small(), recipe, 1.5, start_from="lora(full=1e-3)", **home, **options)
    more = etude.tune(small(), budget=2.0, resume=True, **home, **options)
    assert {t.lr for t in first.trials} <= {t.lr for t in more.trials}
    assert any("10 times full fine-tuning at 0.001" in note for note in more.notes)
    with pytest.raises(BadValueError, match="leave lr_range, lrs and start_from out"):
        etude.tune(small(), resume=True, start_from="lora", **home, **options)


def test_a_rule_outside_of_its_domain_warns() -> None:
    text = tasks.get("text-transformer", width=16, depth=1, heads=2)
    recipe = Recipe(steps=16, batch_size=4)
    with pytest.warns(UserWarning, match=r"'step_law\(\)' is used outside of its domain"):
        etude.tune(text, recipe, 1.2, start_from="step law", progress=False, engine="loop")


def test_wrong_texts_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown rule 'steplaw': did you mean 'step_law'"):
        read_rule("steplaw")
    with pytest.raises(UnknownNameError, match="unknown argument of lora 'ful'"):
        read_rule("lora(ful=1)")
    with pytest.raises(BadTypeError, match="give a rule as text"):
        read_rule(3)
    with pytest.raises(BadValueError, match="leave it or over= out"):
        etude.tune(small(), Recipe(), start_from="lora", over={"batch_size": [8, 16]})
    assert all(repr(rule()) == f"{name}()" for name, rule in RULES.items() if name != "mup")


def test_a_damaged_rule_in_a_folder_is_named(tmp_path) -> None:
    recipe, home = Recipe(steps=40, batch_size=16), tmp_path / "tuning"
    options = {"progress": False, "engine": "loop", "folder": home}
    etude.tune(small(), recipe, 1.2, start_from="lora", **options)
    path = next(p for p in home.iterdir() if p.suffix == ".json" and "start_from" in p.read_text())
    path.write_text(path.read_text().replace('"lora()"', '"lura()"'))
    with pytest.raises(StorageError, match=r"is damaged.*unknown rule 'lura'"):
        etude.tune(small(), budget=2.0, resume=True, **options)
