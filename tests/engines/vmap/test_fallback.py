"""What is not stacked is trained one run after another, with the reason; errors are passed on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

from etude import Task
from etude.engines import VmapEngine
from etude.engines.vmap.execution import Execution
from etude.engines.vmap.loop import BLOCK
from etude.errors import BadValueError, TaskError
from etude.training.observer import named_functions
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from tests.engines.common import (
    BASE,
    assert_close,
    both,
    data,
    mlp,
    noisy,
    quarters,
    runs_of,
    same_bits,
    task,
)
from tests.engines.vmap.common import members, quiet


class TestErrors:
    def test_an_error_of_the_callers_is_not_taken_for_ours(self) -> None:
        def on_step(state: RunState, step: int) -> None:
            raise RuntimeError("of the caller's")

        runs = runs_of(task(), members(steps=2 * BLOCK))
        with pytest.raises(RuntimeError, match="of the caller's"):
            quiet().advance(runs, AdvanceRequest(on_step=on_step))
        assert {run.step for run in runs} == {BLOCK}

    def test_an_evaluation_that_fails_names_the_member(self) -> None:
        def metric(output: Tensor, target: Tensor) -> float:
            if not torch.is_grad_enabled():
                raise ValueError("it broke")
            return 0.0

        of = Task(mlp, data(), loss=F.cross_entropy, metric=metric)
        runs = [Run(of, recipe) for recipe in members()]
        with pytest.raises(TaskError, match=r"^metric .*it broke") as caught:
            quiet().advance(runs, AdvanceRequest(evaluation_steps=quarters))
        assert "in the run at lr 0.05, seed 0" in caught.value.__notes__

    def test_an_update_that_fails_is_the_loops_to_answer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: Any) -> Any:
            raise RuntimeError("no rule for it\nand more")

        monkeypatch.setattr(Execution, "step", failing)
        engine = quiet()
        with pytest.warns(UserWarning, match=r"a stacked update failed \(no rule for it\)"):
            ours, theirs = both(task(noisy), members(), engine)
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y * 2 if y.sum() > 0 else y


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.1 * torch.randn_like(x))


class Fickle(nn.Module):
    """Computes something else where it is stacked: what only the comparison can find."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch._C._functorch.is_batchedtensor(next(self.net.parameters()))
        return self.net(x) * (1.1 if stacked else 1.0)


class TestFallback:
    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            (Branch, "the model cannot be stacked: .*data-dependent control flow"),
            (Drawing, "the model cannot be stacked: .*random"),
            (Fickle, "the model cannot be stacked: its gradient differs from the loop's by"),
            (lambda: weight_norm(nn.Linear(6, 2)), "the model is parametrized"),
        ],
    )
    def test_a_model_that_does_not_fit(self, model: Any, reason: str) -> None:
        engine = quiet()
        with pytest.warns(UserWarning, match=f"vmap: {reason}.*loop engine instead") as said:
            ours, theirs = both(task(model), members(), engine, (7, None))
        assert len(said) == len(engine.notes) == 1
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"optimizer": "radam"}, "the optimizer radam has no stacked formula"),
            ({"precision": "bfloat16"}, "precision='bfloat16'"),
            ({"clip_percentile": 50}, "clip_percentile"),
            ({"activity": 0.1}, "activity="),
            ({"lr_mult": {"0.*": "warmup(5)"}}, "follows a schedule"),
        ],
    )
    def test_a_recipe_that_does_not_fit(self, fields: dict[str, Any], reason: str) -> None:
        engine = quiet()
        with pytest.warns(UserWarning, match=reason):
            ours, theirs = both(task(), [BASE.replace(**fields), BASE], engine)
        assert same_bits(ours[0], theirs[0])
        assert_close(ours[1], theirs[1])

    def test_data_that_does_not_fit(self) -> None:
        loader = DataLoader(TensorDataset(*data()), batch_size=16)
        of = Task(mlp, loader, valid=data(), loss=F.cross_entropy)
        with pytest.warns(UserWarning, match="the training data is not in tensors"):
            ours, theirs = both(of, members(), quiet())
        for one, other in zip(ours, theirs, strict=True):
            assert same_bits(one, other)

    def test_observers_of_one_run_do_not_fit(self) -> None:
        run = Run(task(), BASE, observers=named_functions({"one": lambda state: 1.0}))
        with pytest.warns(UserWarning, match="the observer 'one' does not list 'vmap' among its"):
            quiet().advance([run])
        assert run.series["one"] == [1.0] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "often"}, "compile='often': give 'auto', 'never' or 'always'"),
        ({"largest": 0}, "largest=0: give at least 1, or None"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        VmapEngine(**options)
