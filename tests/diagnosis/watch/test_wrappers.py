"""A watch of models in wrappers: the same bits, and the readings of the model inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.functional import cross_entropy

from etude.diagnosis.history import Quantity, RunQuantity
from tests.diagnosis.programs import classes, net, opened


def fit(wrap, *, watched, accumulate=1, seed=0):
    """Train a wrapped model; return the weights and what the watch has read."""
    x, y = classes(128)
    torch.manual_seed(0)
    model = wrap(net(8, 16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.arange(16)

    def loss():
        return cross_entropy(model(x[chosen]), y[chosen])

    def train():
        nonlocal chosen
        for _ in range(20):
            optimizer.zero_grad()
            for _ in range(accumulate):
                chosen = torch.randint(0, 128, (16,), generator=draws)
                (loss() / accumulate).backward()
            optimizer.step()

    history = None
    if watched:
        with opened(model, optimizer, every=1, loss=loss) as w:
            train()
        assert w.report().healthy
        assert w.report().unseen == ()
        history = w.report().history
    else:
        train()
    return [p.detach().clone() for p in model.parameters()], history


def check(wrap, **options):
    """Compare a watched run with an unwatched one, and return the readings."""
    plain, _ = fit(wrap, watched=False, **options)
    weights, history = fit(wrap, watched=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(plain, weights, strict=True))
    assert [layer.name for layer in history.layers] == ["0", "2"]
    return history


@pytest.fixture
def group(tmp_path):
    """A group of one process."""
    address = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def readings(history):
    return [
        history.of_layers(Quantity.UPDATE_RATIO),
        history.of_layers(Quantity.ACTIVATION_VARIANCE),
        history.of_run(RunQuantity.RATE_OVER_CRITICAL),
        history.loss,
    ]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_distributed_and_replicated_models_are_read_as_the_model_inside(group, accumulate):
    plain = check(lambda model: model, accumulate=accumulate)
    for wrap in (nn.parallel.DistributedDataParallel, nn.DataParallel):
        wrapped = check(wrap, accumulate=accumulate)
        for one, other in zip(readings(plain), readings(wrapped), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def _rank(rank: int, folder: str) -> None:
    address = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.set_num_threads(1)
    history = check(nn.parallel.DistributedDataParallel, seed=rank)
    torch.save([torch.from_numpy(one) for one in readings(history)], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_each_of_two_processes_reads_its_own_batches_and_the_same_updates(tmp_path: Path):
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(one[0], two[0], equal_nan=True)  # the mean gradient's step
    for own, other in zip(one[1:], two[1:], strict=True):
        assert not torch.equal(own.nan_to_num(), other.nan_to_num())
        assert torch.equal(own.isnan(), other.isnan())


def test_a_scaled_loss_hides_clipping_and_the_report_says_so():
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    with opened(model, optimizer, every=1) as w:
        for _ in range(20):
            optimizer.zero_grad()
            scaler.scale(cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert "clipping" not in w.report().seen
    (said,) = w.report().unseen
    assert "GradScaler" in said
