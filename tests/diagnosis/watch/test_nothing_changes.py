"""A watched loop has the bits of another, and its hooks are always removed."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from tests.diagnosis.programs import classes, net, opened
from tests.diagnosis.watch.common import PLAIN, hooks_of


def noisy():
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3),
    )  # fmt: skip


def end_state(kind, way, watched, every):
    """Train 24 updates; return all that they leave."""
    x, y = classes(128)
    torch.manual_seed(0)
    model = noisy()
    optimizer = kind(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=way == "scaled")
    w = opened(model, optimizer, every=every) if watched else None
    losses = []
    for t in range(48 if way == "accumulated" else 24):
        i = torch.randint(0, 128, (16,))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "scaled"):
            loss = cross_entropy(model(x[i]), y[i])
        losses.append(loss.item())
        if way == "closure":

            def closure(i=i):
                optimizer.zero_grad()
                again = cross_entropy(model(x[i]), y[i])
                again.backward()
                return again

            optimizer.step(closure)
            continue
        scaler.scale(loss).backward()
        if way == "accumulated" and t % 2 == 0:
            continue
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if t == 12:
            model.eval()
            with torch.no_grad():
                losses.append(model(x).sum().item())
            model.train()
    if w is not None:
        w.close()
        assert w.report().history.updates == 24
    tensors = [*model.state_dict().values(), torch.get_rng_state(), torch.tensor(losses)]
    for state in optimizer.state_dict()["state"].values():
        tensors += [v for v in state.values() if isinstance(v, torch.Tensor)]
    return tensors, [m.training for m in model.modules()]


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "plain"),
        (lambda p: torch.optim.Adam(p, lr=0.01), "plain"),
        (lambda p: torch.optim.Adam(p, lr=0.01), "accumulated"),
        (lambda p: torch.optim.AdamW(p, lr=0.01), "scaled"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, fused=True), "scaled"),
        (lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3), "closure"),
    ],
)
def test_a_watched_run_has_the_bits_of_an_unwatched_one(kind, way, every):
    plain, modes = end_state(kind, way, watched=False, every=every)
    watched, watched_modes = end_state(kind, way, watched=True, every=every)
    assert modes == watched_modes
    assert len(plain) == len(watched)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_an_evaluation_of_a_watched_transformer_has_the_same_bits():
    """Torch evaluates a transformer in another way where a hook is attached to a layer."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    head, x = nn.Linear(8, 2), torch.randn(4, 5, 8)
    for model in (layer, nn.Sequential(layer, head)):
        model.eval()
        with torch.no_grad():
            plain = model(x)
        with opened(model, torch.optim.SGD(model.parameters(), lr=0.1)), torch.no_grad():
            assert torch.equal(model(x), plain)


def test_hooks_are_removed_at_the_end_and_closing_twice_is_allowed():
    model = net(8, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = opened(model, optimizer)
    assert len(hooks_of(model, optimizer)) == 4
    assert not w.closed
    w.close()
    w.close()
    assert w.closed
    assert not hooks_of(model, optimizer)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_removed_after_an_error_in_the_loop(error):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            raise error("in the forward pass")

    model = Failing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error, match="in the forward pass"), opened(model, optimizer):
        model(torch.zeros(1, 2))
    assert not hooks_of(model, optimizer)
    assert no_mode_is_active()


def no_mode_is_active():
    """Whether torch functions are called without any mode in between."""
    return not torch.overrides.has_torch_function([torch.zeros(1)])


def test_hooks_are_removed_where_the_watch_is_forgotten():
    model = net(8, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = opened(model, optimizer)
    ref = weakref.ref(w)
    del w
    gc.collect()
    assert ref() is None
    assert not hooks_of(model, optimizer)


def test_two_watches_may_close_in_any_order():
    model = net(8, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first, second = opened(model, optimizer), opened(model, optimizer)
    first.close()
    assert torch.autograd.backward is not PLAIN[0]
    x, y = classes(32)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    second.close()
    assert second.report().history.updates == 5
    assert first.report().history.updates == 0


def test_a_copy_of_a_watched_model_is_not_watched():
    x, y = classes(32)
    model = net(8, 8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, optimizer, every=1) as w:
        twin = copy.deepcopy(model)
        saved = pickle.loads(pickle.dumps(model))
        for one in (twin, saved):
            cross_entropy(one(x), y).backward()
        torch.save(model, io.BytesIO())
        assert w.report().history.updates == 0
        assert torch.equal(twin(x), saved(x))


def test_a_mode_of_the_users_own_still_hears_the_functions():
    class Counting(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.count += getattr(func, "__name__", "") == "linear"
            return func(*args, **(kwargs or {}))

    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, optimizer, every=1), Counting() as counting:
        cross_entropy(model(x), y).backward()
        optimizer.step()
    assert counting.count == 2


def test_a_model_that_is_compiled_after_the_watch_began_is_compiled_whole():
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, optimizer) as w:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for _ in range(20):
            optimizer.zero_grad()
            cross_entropy(compiled(x), y).backward()
            optimizer.step()
    report = w.report()
    assert report.healthy
    assert "a compiled or replicated copy" in " ".join(report.unseen)
