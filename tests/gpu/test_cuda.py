"""Training on a CUDA device: the same bits twice and after a resume, and close to the CPU's.

ETUDE_TEST_GPU=1 pytest tests/gpu
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude import Recipe, Task
from etude.diagnosis.remedies.table import REMEDIES
from etude.diagnosis.verdict.measures import measures
from etude.engines import LoopEngine, engine_for, train_many
from etude.errors import TaskError
from etude.measure.gradient_norm import GradientNorm
from etude.optimizers import ROWS
from etude.training.run import Run
from tests import helpers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

RECIPE = Recipe(optimizer="adamw", lr=3e-3, steps=40, batch_size=32, evaluations=4)


def data(count: int = 256) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 3, 8, 8, generator=g)
    y = torch.arange(count) % 2
    return x + 0.5 * (2 * y - 1)[:, None, None, None], y


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), *helpers.mlp(192, 8, 2))


def task(model: Any = cnn) -> Task:
    return Task(model, data(), loss=cross_entropy, metric="accuracy")


def weights(record: etude.Record) -> Tensor:
    assert record.model is not None
    return torch.cat([p.detach().flatten().double() for p in record.model.parameters()])


def recipe_of(name: str) -> Recipe:
    row = ROWS[name]
    if row.closure:  # these compare losses along their step: no clipping
        return RECIPE.replace(optimizer=name, lr=row.lr, steps=6)
    return RECIPE.replace(optimizer=name, lr=row.lr, steps=24, clip_norm=1.0)


TAKE_DENSE = [name for name, row in ROWS.items() if row.installed and name != "sparse_adam"]


@pytest.mark.parametrize("name", TAKE_DENSE)
def test_every_optimizer_gives_the_same_bits_twice(name):
    first, second = (etude.train(task(mlp), recipe_of(name), device="cuda") for _ in range(2))
    assert first.status == "finished", first.reason
    assert first.environment["device"].startswith("cuda")
    assert torch.equal(weights(first), weights(second))
    assert first.evaluations == second.evaluations


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", TAKE_DENSE)
def test_every_optimizer_resumes_to_the_bit(name, tmp_path: Path):
    recipe = recipe_of(name)
    at = recipe.steps // 2

    def stop(run: Run) -> None:
        if run.step == at:
            raise StoppedError("half way")

    with pytest.raises(StoppedError, match="half way"):
        etude.train(
            task(mlp), recipe, device="cuda", folder=tmp_path, on_step=stop, checkpoint_every=at
        )
    resumed = etude.train(task(mlp), device="cuda", folder=tmp_path, resume=True)
    whole = etude.train(task(mlp), recipe, device="cuda")
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("model", [mlp, cnn])
def test_losses_are_those_of_the_cpu_up_to_roundoff(model):
    recipe = RECIPE.replace(steps=10)
    here, there = (etude.train(task(model), recipe, device=d) for d in ("cpu", "cuda"))
    if model is mlp:  # dropout draws other masks on another device
        for a, b in zip(here.series["loss"], there.series["loss"], strict=True):
            assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)
    assert [e.step for e in here.evaluations] == [e.step for e in there.evaluations]


def test_a_batch_without_an_answered_target_counts_nothing():
    """The number of answered targets stays on the device, and so does the loss."""
    x, y = data(64)
    y = torch.where(torch.arange(64) % 4 == 0, torch.tensor(-100), y)
    some = Task(mlp, (x, y), loss=cross_entropy, metric=None)
    recipe = RECIPE.replace(optimizer="sgd", batch_size=1, steps=24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the CPU: that an update has no answered target
        here, there = (etude.train(some, recipe, device=d) for d in ("cpu", "cuda"))
    assert 0 in here.series["loss"]
    for a, b in zip(here.series["loss"], there.series["loss"], strict=True):
        assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)


def test_half_precision_trains():
    record = etude.train(task(), RECIPE.replace(precision="bfloat16"), device="cuda")
    assert record.status == "finished"
    assert record.evaluations[-1].loss < record.evaluations[0].loss


def test_a_run_that_breaks_is_named_at_its_update():
    """The loss is read now and then only: the update at fault is found in what was kept."""
    x = torch.linspace(-1, 1, 64)[:, None]
    line = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    recipe = RECIPE.replace(optimizer="sgd", schedule="constant()", steps=100)
    here, there = (etude.train(line, recipe.replace(lr=1e6), device=d) for d in ("cpu", "cuda"))
    assert here.status == there.status == "diverged"
    assert abs(len(here.series["loss"]) - len(there.series["loss"])) <= 1
    assert etude.train(line, recipe.replace(lr=0.1), device="cuda").status == "finished"


@pytest.mark.parametrize("engine", ["loop", "vmap", "auto"])
def test_every_engine_trains_members_like_the_loop(engine):
    recipes = [RECIPE.replace(lr=lr) for lr in (1e-3, 3e-3, 1e-2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        records = train_many(task(mlp), recipes, engine, device="cuda", evaluations=4)
    alone = [etude.train(task(mlp), recipe, device="cuda") for recipe in recipes]
    for one, other in zip(records, alone, strict=True):
        assert one.status == other.status == "finished"
        for a, b in zip(one.evaluations, other.evaluations, strict=True):
            assert math.isclose(a.loss, b.loss, rel_tol=5e-3, abs_tol=1e-3)


def test_trials_that_wait_in_the_machine_s_memory_change_nothing():
    """A stream of its own copies each state out, while the device trains others."""
    recipe = RECIPE.replace(steps=64)
    held, moved = (
        etude.tune(task(mlp), recipe, 3.0, device="cuda", progress=False, memory=memory)
        for memory in (None, 1)
    )
    assert (held.lr, held.tied, held.cost) == (moved.lr, moved.tied, moved.cost)
    first, second = (
        torch.cat([p.flatten() for p in one.model.parameters()]) for one in (held, moved)
    )
    assert torch.equal(first, second)


def test_a_tuning_gives_the_same_answer_twice():
    first, second = (
        etude.tune(task(mlp), RECIPE.replace(steps=64), 1.5, device="cuda", progress=False)
        for _ in range(2)
    )
    assert (first.lr, first.tied, first.cost) == (second.lr, second.tied, second.cost)
    assert torch.equal(
        torch.cat([p.flatten() for p in first.model.parameters()]),
        torch.cat([p.flatten() for p in second.model.parameters()]),
    )


class WeightNorm(etude.Observer):
    def on_update(self, state):
        return torch.nn.utils.get_total_norm(state.parameters)


@pytest.mark.parametrize("lr_mult", [None, "trust(0.1)", "hyperball()"])
@pytest.mark.parametrize("observers", [(), (GradientNorm(), WeightNorm())])
def test_updates_seldom_wait_for_the_device(observers, lr_mult):
    """The loop waits at every sixteenth update for the losses, and once an epoch for its order.

    What observers return is read with the losses: one more wait where on_update returns something.
    """
    recipe = RECIPE.replace(steps=200, lr_mult=lr_mult)
    run = Run(task(mlp), recipe, device="cuda", observers=observers)
    run.check()
    run.advance(20)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run.advance(20 + 64)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    print(f"{len(waits)} waits in 64 updates")
    epochs = 64 * 32 // 204  # a fifth of the 256 samples is held out
    pieces = 2 if observers else 1  # losses with the gradients' readings, and those of on_update
    assert len(waits) <= 64 // 16 * pieces + epochs + 2


def test_engines_leave_runs_whole_on_a_device():
    runs = [Run(task(mlp), RECIPE.replace(lr=lr), device="cuda") for lr in (1e-3, 1e-2)]
    for run in runs:
        run.check()
    with engine_for("vmap") as engine:
        engine.advance(runs, 20)
    LoopEngine().advance(runs, 40)
    assert [run.step for run in runs] == [40, 40]
    assert all(run.status == "finished" for run in runs)


def watched(every: int | None, steps: int = 96) -> tuple[Tensor, int]:
    """Return the weights after a plain loop on the device, and how often it waited."""
    torch.manual_seed(0)
    model = mlp().cuda()  # torch's own kernels of a pooling give other bits every time
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = (part.cuda() for part in data())
    with (
        nullcontext() if every == 0 else etude.watch(model, optimizer, every=every),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for step in range(steps):
                chosen = slice(32 * step % 256, 32 * step % 256 + 32)
                optimizer.zero_grad()
                torch.autograd.backward(cross_entropy(model(x[chosen]), y[chosen]))
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchroniz" in str(w.message) for w in caught)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), waits


@pytest.mark.parametrize("every", [None, 1])
def test_a_watch_changes_no_bit_and_seldom_waits_for_the_device(every):
    (bare, own), (seen, waits) = watched(0), watched(every)
    assert torch.equal(bare, seen)
    print(f"{waits} waits in 96 updates")
    assert waits - own <= 96 // 8


@pytest.mark.parametrize("bad", [2, -1])
@pytest.mark.parametrize("rows", [1, 256])
def test_a_label_out_of_bounds_is_named_and_the_device_can_be_used_on(bad, rows):
    x, y = data()
    y[torch.arange(rows)] = bad
    wrong = Task(mlp, (x, y), loss=cross_entropy, metric="accuracy")
    with pytest.raises(TaskError, match="labels are 0 to 1"):
        etude.train(wrong, RECIPE, device="cuda")
    found = etude.diagnose(wrong, RECIPE, device="cuda", progress=False)
    assert "label" in str(found)
    assert torch.ones(1, device="cuda").item() == 1


def test_the_tensors_of_a_loss_are_moved_and_the_user_s_own_loss_is_not():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7]))
    weighted = Task(mlp, data(), loss=loss, metric="accuracy")
    here, there = (etude.train(weighted, RECIPE, device=d) for d in ("cpu", "cuda"))
    assert math.isclose(here.series["loss"][5], there.series["loss"][5], rel_tol=1e-3)
    assert loss.weight.device.type == "cpu"


class Sequences(nn.Module):
    """An LSTM over the rows of a picture; cuDNN keeps its weights in one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(24, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.cell(x.transpose(1, 2).flatten(2))[0][:, -1])
        return found


def test_a_recurrent_network_is_trained_saved_and_looked_at_without_a_warning(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*deterministic")
        record = etude.train(task(Sequences), RECIPE, device="cuda", folder=tmp_path / "run")
        read = etude.Record.load(tmp_path / "run")
        etude.diagnose(task(Sequences), RECIPE, device="cuda", progress=False)
        found = etude.tune(
            task(Sequences), RECIPE, 1.5, device="cuda", folder=tmp_path / "tuned", progress=False
        )
    assert record.status == read.status == "finished"
    assert found.lr > 0


def test_members_of_a_population_go_on_from_their_files(tmp_path: Path):
    found = etude.population(
        task(mlp), RECIPE.replace(steps=200), device="cuda", folder=tmp_path / "p", progress=False
    )
    assert found.model is not None


def test_runs_of_one_task_share_its_data_and_are_stacked():
    runs = [Run(task(mlp), RECIPE, device="cuda")]
    runs += [Run(runs[0].task, RECIPE.replace(lr=lr), device="cuda") for lr in (1e-3, 1e-2)]
    assert runs[0].device == next(runs[0].model.parameters()).device
    assert all(run.task is runs[0].task for run in runs)
    with engine_for("vmap") as engine:
        engine.advance(runs, 20)
        assert not engine.notes


def test_a_caller_s_random_numbers_on_the_device_stay_as_they_were():
    """In a process of its own: the training is the first to take the device into use."""
    code = (
        "import torch, etude\n"
        "from tests.gpu.test_cuda import RECIPE, mlp, task\n"
        "torch.manual_seed(5)\n"
        "etude.train(task(mlp), RECIPE.replace(steps=4), device='cuda')\n"
        "found = torch.randn(3, device='cuda')\n"
        "torch.manual_seed(5)\n"
        "assert torch.equal(torch.randn(3, device='cuda'), found)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_of_classes_in_a_partial_are_moved():
    loss = partial(cross_entropy, weight=torch.tensor([0.3, 0.7]))
    weighted = Task(mlp, data(), loss=loss, metric="accuracy")
    here, there = (etude.train(weighted, RECIPE, device=d) for d in ("cpu", "cuda"))
    assert math.isclose(here.series["loss"][5], there.series["loss"][5], rel_tol=1e-3)
    assert loss.keywords["weight"].device.type == "cpu"


def test_a_step_that_penalises_the_gradient_of_a_recurrent_network_is_evaluated():
    """cuDNN's cells have no gradient in evaluation mode."""

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        x = x.detach().requires_grad_()
        scores = model(x)
        (slope,) = torch.autograd.grad(scores.sum(), x, retain_graph=True)
        return cross_entropy(scores, y) + 0.01 * slope.square().mean()

    record = etude.train(Task(Sequences, data(), step=step), RECIPE, device="cuda")
    assert record.status == "finished"
    assert math.isfinite(record.evaluations[-1].loss)


def test_a_metric_with_a_state_reads_outputs_that_are_no_tensor():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("hits", torch.zeros(()))

        def reset(self) -> None:
            self.hits.zero_()

        def update(self, output: dict[str, Tensor], target: Tensor) -> None:
            self.hits += (output["scores"].argmax(1) == target).sum()

        def compute(self) -> Tensor:
            return self.hits

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.net(x)}

    of = Task(Named, data(), loss=lambda o, t: cross_entropy(o["scores"], t), metric=Held())
    assert etude.train(of, RECIPE, device="cuda").status == "finished"


def test_remedies_apply_to_a_model_that_is_on_the_device():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7]))
    held = Task(mlp().cuda(), data(), loss=loss)
    recipe = RECIPE.replace(steps=4)
    for name, remedy in REMEDIES.items():
        applied = remedy.apply(held, recipe)
        if applied is not None:
            assert etude.train(applied.task, applied.recipe).status == "finished", name


def test_neighbours_are_found_where_a_loader_and_tensors_are_compared():
    x, y = data()
    loader = DataLoader(TensorDataset(x[128:], y[128:]), batch_size=32)
    mixed = Task(mlp, (x[:128], y[:128]), valid=loader, loss=cross_entropy)
    assert math.isfinite(measures(mixed, RECIPE, device="cuda").across)


class Apart(nn.Module):
    """Its first layer is on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(192, 8), nn.Linear(8, 2).cuda()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x.flatten(1)).relu().cuda())
        return found


def test_a_model_on_two_devices_is_watched():
    model = Apart()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = data(32)
    with (
        warnings.catch_warnings(),
        etude.watch(model, optimizer, every=1, on_finding=lambda _: None) as watch,
    ):
        warnings.simplefilter("error")
        for _ in range(20):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(x), y.cuda()))
            optimizer.step()
    assert watch.report().seen


@pytest.mark.parametrize("model", [mlp, Sequences])
def test_what_was_trained_on_the_device_is_compressed(model):
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7], device="cuda"))
    x, y = data()
    held = Task(model, (x.cuda(), y.cuda()), loss=loss, metric="accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*deterministic")
        record = etude.train(held, RECIPE, device="cuda")
        found = etude.compress(
            record, prune=0.5, task=held, budget=1.5, device="cuda", progress=False
        )
    assert found.sparsity > 0.4


@dataclass
class Pictures:
    """A batch of one's own."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.x.to(device), self.y.to(device))


def test_a_batch_of_ones_own_is_moved():
    def collated(rows: Any) -> Pictures:
        x, y = zip(*rows, strict=True)
        return Pictures(torch.stack(x), torch.stack(y))

    loader = DataLoader(TensorDataset(*data()), batch_size=32, collate_fn=collated)
    own = Task(mlp, loader, valid=loader, step=lambda m, b: cross_entropy(m(b.x), b.y))
    assert etude.train(own, RECIPE.replace(batch_size=None), device="cuda").status == "finished"


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_module_of_lightning_is_read_where_it_is(place):
    pytest.importorskip("lightning.pytorch")
    from etude.interop.lightning import task as read
    from tests.interop.trainers.modules import loader, made, trainer_of

    module = made().to(place)
    learned, recipe = read(module, loader(), loader(24), trainer=trainer_of(max_steps=8))
    assert etude.train(learned, recipe, device="cuda").status == "finished"


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_trainer_of_transformers_is_tuned_on_any_device(place, tmp_path: Path):
    pytest.importorskip("transformers")
    from etude.interop.transformers import task as read
    from tests.interop.trainers.hugging_face import classifier, trainer_of

    learned, recipe = read(trainer_of(tmp_path, classifier(), max_steps=8))
    assert etude.train(learned, recipe, device=place).status == "finished"
