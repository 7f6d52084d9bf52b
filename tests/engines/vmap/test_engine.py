"""Stacked training: member i is run i, whatever the optimizer, the module and the company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Recipe, Task
from etude.engines import LoopEngine, VmapEngine
from etude.engines.vmap.execution import Execution
from etude.engines.vmap.loop import BLOCK
from etude.engines.vmap.optimizers import RULES
from etude.optimizers.table import ROWS
from etude.tasks.table import get
from etude.training.request import AdvanceRequest
from tests.engines.common import (
    BASE,
    assert_close,
    both,
    counting,
    data,
    mlp,
    noisy,
    quarters,
    runs_of,
    same_bits,
    task,
)
from tests.engines.vmap.common import members, quiet

OPTIMIZERS: dict[str, Any] = {
    "sgd": "sgd",
    "sgd momentum": {"name": "sgd", "momentum": 0.9},
    "sgd dampened": {"name": "sgd", "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01},
    "sgd nesterov": {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "adagrad": {"name": "adagrad", "lr_decay": 0.1, "initial_accumulator_value": 0.2},
    "rmsprop": "rmsprop",
    "rmsprop centered": {"name": "rmsprop", "momentum": 0.5, "centered": True},
    "adam": {"name": "adam", "betas": (0.8, 0.95), "weight_decay": 0.01, "eps": 1e-6},
    "adam amsgrad": {"name": "adam", "amsgrad": True},
    "adamw": {"name": "adamw", "weight_decay": 0.1},
    "nadam": {"name": "nadam", "weight_decay": 0.01},
    "nadam decoupled": {"name": "nadam", "weight_decay": 0.1, "decoupled_weight_decay": True},
    "lion": {"name": "lion", "weight_decay": 0.1},
}


class TestMemberIsRun:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_every_optimizer_also_after_a_pause(self, name: str) -> None:
        if name == "lion":
            pytest.importorskip("pytorch_optimizer")
        engine = quiet()
        ours, theirs = both(
            task(), members(optimizer=OPTIMIZERS[name], lr=0.01), engine, (7, 13, None)
        )
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_the_table_and_the_formulas_name_the_same_optimizers(self) -> None:
        assert set(RULES) == {row.stacked for row in ROWS.values() if row.vmap}

    @pytest.mark.parametrize(
        "fields",
        [
            {"clip_norm": 0.1},
            {"clip_value": 0.01},
            {"clip_adaptive": 0.02},
            {"clip_adaptive": 0.05, "clip_norm": 0.2, "clip_value": 0.05},
            {"accumulate": 2, "batch_size": 8},
            {"l1": 1e-3, "l2": 1e-2},
            {"label_smoothing": 0.1},
            {"schedules": {"momentum": "0.9 - 0.5 * (1.0 - linear())"}},
            {"optimizer": "adamw", "schedules": {"momentum": "0.5 + 0.25 * warmup(20)"}},
            {"optimizer": "adamw", "schedules": {"weight_decay": "0.5 * linear()"}},
            {"lr_mult": {"2.*": 3.0, "*.bias": 0.5}},
            {"lr_mult": {"0.weight[2:5]": 0.25}},
            {"lr_mult": "no_decay() * decay(0.5)", "optimizer": "adamw"},
            {"initialisation": "orthogonal"},
            {"early_stopping": 2},
            {"batch_size": "all"},
        ],
        ids=lambda fields: " ".join(fields),
    )
    def test_every_field_of_the_recipe(self, fields: dict[str, Any]) -> None:
        engine = quiet()
        ours, theirs = both(task(), members(**fields), engine, (9, None))
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_per_member_numbers(self) -> None:
        base = BASE.replace(optimizer={"name": "sgd", "momentum": 0.9}, clip_norm=0.5)
        recipes = [
            base.replace(
                optimizer={"name": "sgd", "momentum": m, "weight_decay": d}, clip_norm=c, steps=s
            )
            for m, d, c, s in [(0.5, 0.0, 0.1, 20), (0.9, 0.1, 1.0, 15), (0.95, 0.01, 0.3, 25)]
        ]
        ours, theirs = both(task(), recipes, quiet())
        assert [run.step for run in ours] == [20, 15, 25]
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_dropout_and_normalisation_draw_and_count_as_alone(self) -> None:
        engine = quiet()
        ours, theirs = both(task(noisy), members(), engine, (8, None))
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
            assert int(one.model[1].num_batches_tracked) == 20

    @pytest.mark.parametrize(
        ("name", "options", "steps"),
        [
            ("digits-mlp", {"width": 32, "normalisation": "layer", "residual": True}, 8),
            ("digits-cnn", {"dropout": 0.1, "normalisation": "batch", "width": 4}, 5),
            ("digits-resnet", {"width": 4}, 4),
            ("digits-rnn", {"width": 16}, 5),
            ("digits-lstm", {"width": 16, "depth": 2, "dropout": 0.2}, 5),
            ("digits-gru", {"width": 16}, 5),
            ("digits-transformer", {"width": 16, "dropout": 0.1}, 5),
            ("digits-autoencoder", {"width": 32}, 8),
        ],
    )
    def test_every_bundled_family(self, name: str, options: dict[str, Any], steps: int) -> None:
        of = get(name, **options)
        base = Recipe(**{**of.defaults, "steps": steps, "batch_size": 16})
        engine = quiet()
        recipes = [base, base.replace(lr=base.lr / 2, seed=4)]
        ours, theirs = both(of, recipes, engine)
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            for a, b in zip(one.series["loss"], other.series["loss"], strict=True):
                assert abs(a - b) < 2e-3 * max(1, abs(b))

    def test_a_step_of_ones_own_and_tied_weights(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
                self.b.weight = self.a.weight

            def forward(self, x: Tensor) -> Tensor:
                return self.b(torch.tanh(self.a(x)))

        of = Task(
            Tied, (data()[0],), step=lambda model, batch: F.mse_loss(model(batch[0]), batch[0])
        )
        engine = quiet()
        ours, theirs = both(of, members(lr=0.1), engine, (6, None))
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
            assert one.model.b.weight is one.model.a.weight

    def test_frozen_and_unused_parameters_stay_as_they_are(self) -> None:
        class Partly(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.frozen = nn.Linear(6, 2), nn.Linear(6, 2)
                self.unused = nn.Linear(3, 3)
                self.frozen.requires_grad_(False)

            def forward(self, x: Tensor) -> Tensor:
                return self.used(x) + self.frozen(x)

        decayed = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
        engine = quiet()
        ours, theirs = both(task(Partly), members(optimizer=decayed), engine)
        assert engine.notes == []
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
            assert torch.equal(one.model.unused.weight, other.model.unused.weight)

    def test_a_mapping_of_tensors_as_data(self) -> None:
        x, y = data()
        of = Task(
            mlp, {"x": x, "y": y}, step=lambda model, b: F.cross_entropy(model(b["x"]), b["y"])
        )
        ours, theirs = both(of, members(), quiet())
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_members_of_other_seeds_differ(self) -> None:
        ours = runs_of(task(noisy), [BASE.replace(seed=seed) for seed in range(3)])
        quiet().advance(ours)
        assert len({run.series["loss"][0] for run in ours}) == 3
        assert len({run.series["loss"][-1] for run in ours}) == 3


class TestCompany:
    @pytest.mark.parametrize(("model", "tolerance"), [(mlp, 0.0), (noisy, 1e-5)])
    def test_divergence_leaves_the_others_alone(self, model: Any, tolerance: float) -> None:
        """To the bit; but normalisation sums in an order that depends on the stack's size."""
        wild = BASE.replace(lr=1e30, optimizer={"name": "sgd", "weight_decay": 1.0})
        tame = members(steps=2 * BLOCK + 5, optimizer={"name": "sgd", "weight_decay": 0.01})
        together = runs_of(task(model), [tame[0], wild, tame[1], tame[2]])
        alone = runs_of(task(model), tame)
        quiet().advance(together, AdvanceRequest(evaluation_steps=quarters))
        quiet().advance(alone, AdvanceRequest(evaluation_steps=quarters))
        broken = together.pop(1)
        assert broken.status == "diverged"
        for one, other in zip(together, alone, strict=True):
            assert same_bits(one, other) if not tolerance else True
            assert_close(one, other, tolerance)

    def test_divergence_is_found_where_the_loop_finds_it(self) -> None:
        wild = {"name": "sgd", "weight_decay": 1.0}
        recipes = [BASE.replace(optimizer=wild), BASE.replace(optimizer=wild, lr=1e6)]
        ours, theirs = both(task(), recipes, quiet())
        assert theirs[1].status == "diverged"
        assert ours[1].step == theirs[1].step > 0
        assert ours[1].reason == theirs[1].reason
        assert len(ours[1].series["loss"]) == ours[1].step

    def test_a_stack_of_one_and_chunks_give_the_same_bits(self) -> None:
        whole, parts = runs_of(task(noisy), members()), runs_of(task(noisy), members())
        quiet().advance(whole, AdvanceRequest(evaluation_steps=quarters))
        VmapEngine(compile="never", largest=2).advance(
            parts, AdvanceRequest(evaluation_steps=quarters)
        )
        for one, other in zip(whole, parts, strict=True):
            assert_close(one, other, 1e-5)

    def test_a_paused_member_goes_on_in_the_loop(self) -> None:
        ours, theirs = runs_of(task(noisy), members()), runs_of(task(noisy), members())
        quiet().advance(ours, 8)
        LoopEngine().advance(ours, AdvanceRequest(evaluation_steps=quarters))
        LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
        for one, other in zip(ours, theirs, strict=True):
            one.state.evaluations = other.evaluations  # those before the pause were not asked for
            assert_close(one, other)

    def test_members_that_stand_at_different_updates(self) -> None:
        ours, theirs = runs_of(task(), members()), runs_of(task(), members())
        LoopEngine().advance(ours[:1], 6)
        quiet().advance(ours)
        LoopEngine().advance(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_stop_keeps_what_was_computed(self) -> None:
        ours = runs_of(task(), members(steps=4 * BLOCK))
        quiet().advance(ours, AdvanceRequest(stop=counting(3)))
        assert {run.step for run in ours} == {BLOCK} or {run.step for run in ours} == {2 * BLOCK}
        assert {run.status for run in ours} == {"stopped"}
        theirs = runs_of(task(), members(steps=4 * BLOCK))
        quiet().advance(ours)
        LoopEngine().advance(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_out_of_memory_halves_the_stack(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = Execution.step

        def scarce(self: Execution, state: Any, *rest: Any) -> Any:
            if len(state.rows) > 2:
                raise torch.OutOfMemoryError("no room")
            return whole(self, state, *rest)

        monkeypatch.setattr(Execution, "step", scarce)
        engine = quiet()
        recipes = [BASE.replace(seed=seed) for seed in range(5)]
        with pytest.warns(UserWarning, match="out of memory with") as said:
            ours, theirs = both(task(), recipes, engine)
        assert len(said) == 2
        assert engine.notes[0] == "vmap: out of memory with 5 members; going on with 3"
        assert engine.notes[1] == "vmap: out of memory with 3 members; going on with 2"
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_progress_is_told(self) -> None:
        seen: list[int] = []
        ours = runs_of(task(), members(steps=BLOCK + 3))
        quiet().advance(ours, AdvanceRequest(on_step=lambda run, step: seen.append(step)))
        assert seen[:3] == [BLOCK] * 3
        assert seen[-1] == BLOCK + 3
