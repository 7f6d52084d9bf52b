"""The watch: what it changes (nothing), what it reads, and what it makes of bad input."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

import etude
from etude.diagnosis.finding import Cause
from etude.diagnosis.history import Quantity, RunQuantity
from etude.errors import BadTypeError, BadValueError
from tests.diagnosis.programs import HEALTHY, classes, fit, net, opened, quiet

PLAIN = torch.autograd.backward, torch.amp.GradScaler.scale


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was():
    yield
    gc.collect()
    assert (torch.autograd.backward, torch.amp.GradScaler.scale) == PLAIN


def hooks_of(model, optimizer):
    return [
        *model._forward_hooks.values(),
        *model._forward_pre_hooks.values(),
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
    ]


# ---- nothing changes -----------------------------------------------------------------------------


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


# ---- hooks are always removed --------------------------------------------------------------------


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


# ---- what is read --------------------------------------------------------------------------------


def test_the_readings_are_those_computed_by_hand():
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    norms, ratios, losses, moves = [], [], [], []
    with opened(model, optimizer, every=1) as w:
        for _ in range(6):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            before = [p.detach().clone() for p in model.parameters()]
            norms.append([float(p.grad.detach().norm()) for p in model.parameters()])
            optimizer.step()
            move = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
            ratios.append(
                [
                    float(m.norm() / p.detach().norm())
                    for m, p in zip(move, model.parameters(), strict=True)
                ]
            )
            moves.append(torch.cat([m.flatten() for m in move[:2]]))
            losses.append(loss.item())
    history = w.report().history
    assert history.steps.tolist() == list(range(6))
    np.testing.assert_allclose(history.parameter_gradients, norms, rtol=1e-5)
    np.testing.assert_allclose(history.parameter_updates, ratios, rtol=1e-4)
    assert history.loss.tolist() == losses
    assert history.lr.tolist() == [0.1] * 6
    layer = np.sqrt(np.square(norms)[:, :2].sum(1))
    np.testing.assert_allclose(history.of_layers(Quantity.GRADIENT_NORM)[:, 0], layer, rtol=1e-5)
    cosine = [float(torch.cosine_similarity(a, b, 0)) for a, b in pairwise(moves)]
    found = history.of_layers(Quantity.UPDATE_COSINE)[:, 0]
    np.testing.assert_allclose(found[1:], cosine, atol=1e-4)
    assert np.isnan(found[0])


def test_a_large_tensor_is_estimated_within_a_few_percent():
    torch.manual_seed(0)
    model = nn.Linear(700, 300)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with opened(model, optimizer, every=1) as w:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(16, 700)).square().mean().backward()
            optimizer.step()
            norm = float(model.weight.grad.norm())
    history = w.report().history
    assert history.parameter_gradients[-1, 0] == pytest.approx(norm, rel=0.05)
    assert history.parameter_norms[-1, 0] == pytest.approx(
        float(model.weight.detach().norm()), rel=0.05
    )


def test_activations_are_read_wherever_they_are_called():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = torch.clamp(self.a(x), min=0)
            return torch.sigmoid(self.c(self.b(hidden).tanh()))

    x, _ = classes(64)
    torch.manual_seed(0)
    model = Functional()
    nn.init.constant_(model.a.bias[:3].detach(), -100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with opened(model, optimizer, every=1) as w:
        for _ in range(6):
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()
    history = w.report().history
    assert [layer.name for layer in history.layers] == ["a", "b", "c"]
    assert [layer.activation for layer in history.layers] == ["relu", "tanh", "sigmoid"]
    assert [layer.output for layer in history.layers] == [False, False, True]
    assert history.of_layers(Quantity.DEAD)[-1, 0] == 0.5
    assert np.isnan(history.of_layers(Quantity.SATURATED)[-1, 2])  # an output may saturate
    with torch.no_grad():
        hidden = model.b(torch.clamp(model.a(x), min=0))
    share = float((1 - hidden.tanh().square() < 0.05).float().mean())
    assert history.of_layers(Quantity.SATURATED)[-1, 1] == pytest.approx(share, abs=1e-6)
    variance = history.of_layers(Quantity.ACTIVATION_VARIANCE)[-1, 1]
    assert variance == pytest.approx(float(hidden.var()), rel=1e-5)


def test_clipped_updates_are_counted():
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, optimizer, every=1) as w:
        for t in range(6):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01 if t % 2 else 1e3)
            optimizer.step()
    assert w.report().history.of_run(RunQuantity.CLIPPED).tolist() == [0, 1] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_loss_is_read_without_its_scale(fused):
    x, y = classes(64)
    readings = []
    for scale in (1.0, 2.0**14):
        torch.manual_seed(0)
        model = net(8, 16, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        with opened(model, optimizer, every=1) as w:
            for _ in range(4):
                optimizer.zero_grad()
                scaler.scale(cross_entropy(model(x), y)).backward()
                scaler.step(optimizer)
                scaler.update()
        readings.append(w.report().history)
    np.testing.assert_allclose(readings[0].loss, readings[1].loss, rtol=1e-5)
    np.testing.assert_allclose(
        readings[0].parameter_gradients, readings[1].parameter_gradients, rtol=1e-4
    )


def test_the_mean_loss_of_accumulated_batches_is_one_update():
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with opened(model, optimizer) as w:
        for t in range(8):
            loss = cross_entropy(model(x), y) * (t + 1)
            loss.backward()
            losses.append(loss.item())
            if t % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    expected = [np.mean(losses[:4]), np.mean(losses[4:])]
    np.testing.assert_allclose(w.report().history.loss, expected, rtol=1e-6)


def test_a_loss_may_be_stated():
    model = net(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = classes(64)
    with opened(model, optimizer) as w:
        for t in range(4):
            loss = cross_entropy(model(x), y)
            for p, g in zip(
                model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True
            ):
                p.grad = g
            w.log(loss=torch.tensor(float(t)))
            optimizer.step()
    assert w.report().history.loss.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_two_networks_in_a_game_have_two_losses_and_one_count():
    report = HEALTHY["gan"](every=5).report()
    assert report.history.updates == 150
    assert not report.history.one_loss
    assert {layer.name.split(".")[0] for layer in report.history.layers} == {"generator", "judge"}
    own = report.history.of_layers(Quantity.GRADIENT_NORM)
    assert np.all(np.isfinite(own))


def test_every_states_the_sampled_updates_and_without_it_few_are_sampled():
    x, y = classes()
    for every, expected in ((1, 40), (7, 6)):
        model = net(8, 16, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        w = fit(model, optimizer, x, y, updates=40, every=every)
        assert w.report().history.samples == expected
        assert w.report().history.period == every
        assert f"{expected} of 40 updates, lately one in {every}" in w.report().seen


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_names_come_without_those_of_wrappers(wrap):
    x, y = classes(64)
    model = net(8, 16, 3)
    wrapped = wrap(model, backend="eager") if wrap is torch.compile else wrap(model)
    w = fit(wrapped, torch.optim.SGD(model.parameters(), lr=0.1), x, y, updates=20)
    report = w.report()
    assert [layer.name for layer in report.history.layers] == ["0", "2"]
    assert report.healthy
    if wrap is torch.compile:
        assert report.unseen == ("Activations cannot be read, since the model is compiled.",)


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


# ---- how findings are told -----------------------------------------------------------------------


def faulty(**options):
    """A loop that clears no gradients."""
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with etude.watch(model, optimizer, **options) as w:
        for _ in range(40):
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return w


def test_a_finding_is_told_once_to_a_callback():
    told = []
    report = faulty(on_finding=told.append).report()
    assert [finding.what for finding in told] == [Cause.GRADIENTS_NOT_CLEARED]
    assert told == list(report.findings)
    assert not report.healthy
    assert report.to_dict()["findings"][0]["what"] == "gradients_not_cleared"


def test_a_finding_is_told_once_to_a_logger(caplog):
    with caplog.at_level(logging.WARNING):
        faulty(logger=logging.getLogger("mine"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "zero_grad" in caplog.text


def test_a_finding_is_printed_once_to_standard_error(capsys):
    w = faulty()
    w.report()
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("etude: gradients not cleared")


def test_a_callback_that_fails_stops_nothing():
    def fail(finding):
        raise RuntimeError("mine")

    with pytest.warns(UserWarning, match="on_finding failed and is not called again: .*mine"):
        w = faulty(on_finding=fail)
    assert w.report().history.updates == 40
    assert len(w.report().findings) == 1


def test_an_error_of_the_watch_itself_stops_the_watch_alone(monkeypatch):
    from etude.diagnosis import loop_reader

    def fail(*args):
        raise RuntimeError("within")

    monkeypatch.setattr(loop_reader, "left_in_evaluation", fail)
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="the watch stopped at update 1 .*the training goes on"):
        w = fit(model, optimizer, x, y, updates=10)
    assert not hooks_of(model, optimizer)
    assert "RuntimeError: within" in str(w.report())


# ---- bad input -----------------------------------------------------------------------------------


def test_a_loop_that_never_steps_is_not_called_healthy():
    x, y = classes(64)
    model = net(8, 16, 3)
    with opened(model, torch.optim.SGD(model.parameters(), lr=0.1)) as w:
        cross_entropy(model(x), y).backward()
    assert str(w.report()) == "cannot tell: No step of the optimizer was seen."
    assert not w.report().healthy


def test_a_model_without_parameters():
    other = nn.Linear(1, 1)
    with opened(nn.ReLU(), torch.optim.SGD(other.parameters(), lr=0.1)) as w:
        other(torch.zeros(1, 1)).sum().backward()
    assert str(w.report()).startswith("cannot tell: The model has no parameters.")


def test_entering_twice_and_entering_a_closed_watch_are_told():
    model = net(8, 3)
    w = opened(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with w, pytest.warns(UserWarning, match="entered twice"), w:
        pass
    with pytest.warns(UserWarning, match="this watch is closed"), w:
        pass


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        (3, None, "model is 3: give a torch.nn.Module"),
        ([], None, "model is \\[\\]"),
        ([nn.Linear(1, 1), 2], None, "model is 2"),
        (nn.Linear(1, 1), None, "optimizer is None"),
        (nn.Linear(1, 1), [], "optimizer is \\[\\]"),
        (nn.Linear(1, 1), ["sgd"], "optimizer is 'sgd'"),
    ],
)
def test_other_things_are_refused(model, optimizer, message):
    with pytest.raises(BadTypeError, match=message):
        etude.watch(model, optimizer)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_a_period_is_a_positive_integer(every):
    model = nn.Linear(1, 1)
    with pytest.raises(BadValueError, match=r"every is .*: give a positive integer"):
        etude.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), every=every)


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


def test_quiet_is_quiet(capsys):
    faulty(on_finding=quiet)
    assert capsys.readouterr().err == ""
