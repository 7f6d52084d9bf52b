"""Every fault that `etude.check` looks for: found on several kinds of network, and no other one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude.diagnosis.check import checks, one_batch, short_run
from etude.diagnosis.finding import Cause, Diagnosis, Symptom

RECIPE = etude.Recipe(optimizer="adamw", lr=1e-2, steps=100, batch_size=32)
PLAIN = RECIPE.replace(batch_size=None)


def images(count: int = 240, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a bright corner: which corner is the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=g)
    x = torch.randn(count, 1, 8, 8, generator=g)
    for row, label in enumerate(y.tolist()):
        x[row, 0, 4 * (label // 2) :, :][:4, 4 * (label % 2) :][:, :4] += 2.0
    return x, y


class Rows(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, outputs: int = 4, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=batch_first)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x.squeeze(1))[0][:, -1])
        return y


def mlp(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, outputs))


def cnn(outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(54, outputs),
    )  # fmt: skip


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn, "lstm": Rows}
each = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine changes what is seen in time, and tests are not about that."""
    monkeypatch.setattr(one_batch, "SECONDS", 600.0)
    monkeypatch.setattr(short_run, "SECONDS", 600.0)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what trains, for faults that are seen before."""
    monkeypatch.setattr(checks, "OF_TRAINING", ())


before_training = pytest.mark.usefixtures("untrained")


def task(
    network: Any, train: Any = None, loss: Any = F.cross_entropy, valid: Any = 0.25
) -> etude.Task:
    return etude.Task(network, images() if train is None else train, valid=valid, loss=loss)


def whats(found: Diagnosis) -> list[str]:
    return [str(finding.what) for finding in found.findings]


def the(found: Diagnosis) -> Any:
    """The only finding."""
    assert len(found.findings) == 1, found
    return found.findings[0]


def numbers(name: str) -> tuple[Tensor, Tensor]:
    x, _ = images()
    return x, x.flatten(1)[:, :1] * 0.7 + x.flatten(1)[:, 1:2] ** 2


@each
def test_a_healthy_task_is_healthy(name):
    found = etude.check(task(NETWORKS[name]), RECIPE)
    assert found.healthy, found
    assert len(found.seen) >= 13
    assert not found.unseen


@each
def test_a_healthy_regression_is_healthy(name):
    found = etude.check(task(lambda: NETWORKS[name](1), numbers(name), F.mse_loss), RECIPE)
    assert found.healthy, found


# ---- the last layer and the loss --------------------------------------------------------------


@before_training
@each
@pytest.mark.parametrize(
    ("last", "cause"),
    [
        (nn.Softmax(1), Cause.WRONG_LOSS_OR_OUTPUT),
        (nn.Sigmoid(), Cause.WRONG_LOSS_OR_OUTPUT),
        (nn.ReLU(), Cause.WRONG_LAST_LAYER),
        (nn.Tanh(), Cause.WRONG_LAST_LAYER),
    ],
)
def test_an_activation_before_cross_entropy(name, last, cause):
    found = etude.check(task(lambda: nn.Sequential(NETWORKS[name](), last)), RECIPE)
    assert found.findings[0].what == cause
    assert type(last).__name__.lower() in found.findings[0].text


@each
def test_log_probabilities_are_fine(name):
    network = lambda: nn.Sequential(NETWORKS[name](), nn.LogSoftmax(1))  # noqa: E731
    assert etude.check(task(network), RECIPE).healthy
    assert etude.check(task(network, loss=F.nll_loss), RECIPE).healthy


def test_a_softmax_of_the_users_own_is_seen_by_its_values():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            shares = self.net(x).exp()
            return shares / shares.sum(1, keepdim=True)

    assert etude.check(task(Own), RECIPE).findings[0].what == Cause.WRONG_LOSS_OR_OUTPUT


@before_training
@each
def test_logits_into_nll_loss(name):
    found = etude.check(task(NETWORKS[name], loss=F.nll_loss), RECIPE)
    assert found.findings[0].what == Cause.WRONG_LOSS_OR_OUTPUT
    assert "log-probabilities" in found.findings[0].text


def binary() -> tuple[Tensor, Tensor]:
    x, y = images()
    return x, (y > 1).float()[:, None]


@each
def test_a_doubled_and_a_missing_sigmoid(name):
    one = lambda: NETWORKS[name](1)  # noqa: E731
    closed = lambda: nn.Sequential(one(), nn.Sigmoid())  # noqa: E731
    logits, plain = F.binary_cross_entropy_with_logits, F.binary_cross_entropy
    assert etude.check(task(one, binary(), logits), RECIPE).healthy
    assert etude.check(task(closed, binary(), plain), RECIPE).healthy
    assert the(etude.check(task(closed, binary(), logits), RECIPE)).what == (
        Cause.WRONG_LOSS_OR_OUTPUT
    )
    missing = etude.check(task(one, binary(), plain), RECIPE)
    assert the(missing).what == Cause.WRONG_LOSS_OR_OUTPUT


@before_training
@each
def test_targets_that_the_last_activation_cannot_reach(name):
    x, y = numbers(name)
    y = (y - y.mean()) / y.std()
    for last in (nn.ReLU(), nn.Sigmoid()):
        found = etude.check(
            task(lambda last=last: nn.Sequential(NETWORKS[name](1), last), (x, y), F.mse_loss),
            RECIPE,
        )
        assert found.findings[0].what == Cause.WRONG_LAST_LAYER
    inside = (y - y.min()) / (y.max() - y.min())
    closed = lambda: nn.Sequential(NETWORKS[name](1), nn.Sigmoid())  # noqa: E731
    assert etude.check(task(closed, (x, inside), F.mse_loss), RECIPE).healthy


@each
def test_too_few_outputs_for_the_labels(name):
    found = etude.check(task(lambda: NETWORKS[name](3)), RECIPE)
    assert the(found).what == Cause.WRONG_LAST_LAYER
    assert the(found).evidence["highest"] == 3
    assert found.unseen


@each
def test_one_output_for_cross_entropy(name):
    x, y = images()
    found = etude.check(task(lambda: NETWORKS[name](1), (x, torch.zeros_like(y))), RECIPE)
    assert found.findings[0].what == Cause.WRONG_LAST_LAYER


@each
def test_labels_of_a_type_or_sign_that_do_not_fit(name):
    x, y = images()
    floats = etude.check(task(NETWORKS[name], (x, y.float())), RECIPE)
    assert the(floats).what == Cause.WRONG_LOSS_OR_OUTPUT
    assert ".long()" in the(floats).fix
    negative = etude.check(task(NETWORKS[name], (x, y - 1)), RECIPE)
    assert the(negative).what == Cause.LABELS_DO_NOT_MATCH
    padded = y.clone()
    padded[::10] = -100
    assert etude.check(task(NETWORKS[name], (x, padded)), RECIPE).healthy


@each
def test_targets_that_broadcast(name):
    x, y = numbers(name)
    found = etude.check(task(lambda: NETWORKS[name](1), (x, y.flatten()), F.mse_loss), RECIPE)
    assert the(found).what == Cause.WRONG_LOSS_OR_OUTPUT
    assert the(found).evidence == {"output": "(32, 1)", "targets": "(32,)"}


@each
def test_a_loss_of_ones_own_that_broadcasts(name):
    def squares(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) ** 2).mean()

    x, y = numbers(name)
    one = lambda: NETWORKS[name](1)  # noqa: E731
    found = etude.check(task(one, (x, y.flatten()), squares), RECIPE)
    assert Cause.WRONG_LOSS_OR_OUTPUT in whats(found)
    assert etude.check(task(one, (x, y), squares), RECIPE).healthy


# ---- the data ---------------------------------------------------------------------------------


@each
def test_nan_and_inf(name):
    for bad in (float("nan"), float("inf")):
        x, y = images()
        x[17, 0, 3, 3] = bad
        found = etude.check(task(NETWORKS[name], (x, y)), RECIPE)
        assert found.findings[0].what == Cause.BAD_DATA
        assert "row 17" in found.findings[0].text


def test_nan_that_the_loss_passes_over_is_no_fault():
    x, y = numbers("mlp")
    y[::7] = float("nan")

    def masked(output: Tensor, target: Tensor) -> Tensor:
        known = ~target.isnan()
        return F.mse_loss(output[known], target[known])

    assert etude.check(task(lambda: mlp(1), (x, y), masked), RECIPE).healthy


@each
def test_inputs_that_are_all_alike(name):
    x, y = images()
    found = etude.check(task(NETWORKS[name], (x[:1].expand_as(x).clone(), y)), RECIPE)
    assert found.findings[0].what == Cause.BAD_DATA


def test_half_of_a_table_that_never_changes():
    x, y = images()
    table = x.flatten(1)
    table[:, :40] = table[:1, :40].clone()
    assert Cause.BAD_DATA in whats(etude.check(task(mlp, (table, y)), RECIPE))
    words = torch.zeros(240, 64)
    words[torch.arange(240), y * 3] = 1.0
    assert etude.check(task(mlp, (words, y)), RECIPE).healthy


@before_training
@each
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_unscaled_inputs(name, factor):
    x, y = images()
    found = etude.check(task(NETWORKS[name], (factor * x, y)), RECIPE)
    assert found.findings[0].what == Cause.UNSCALED_INPUTS
    assert Cause.BAD_INITIALISATION not in whats(found)


def test_inputs_that_the_network_scales_itself_are_fine():
    x, y = images()
    network = lambda: nn.Sequential(nn.BatchNorm2d(1), mlp())  # noqa: E731
    assert etude.check(task(network, (1e3 * x, y)), RECIPE).healthy

    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x / 1e3)
            return y

    assert etude.check(task(Divides, (1e3 * x, y)), RECIPE).healthy


@before_training
@each
@pytest.mark.parametrize(("factor", "shift"), [(1e3, 0.0), (1.0, 1e3), (1e-4, 0.0)])
def test_unscaled_targets(name, factor, shift):
    x, y = numbers(name)
    found = etude.check(
        task(lambda: NETWORKS[name](1), (x, factor * y + shift), F.mse_loss), RECIPE
    )
    assert found.findings[0].what == Cause.UNSCALED_TARGETS


@before_training
@each
def test_validation_rows_that_training_holds(name):
    x, y = images()
    found = etude.check(task(NETWORKS[name], (x, y), valid=(x[:60], y[:60])), RECIPE)
    assert the(found).what == Cause.BAD_DATA
    assert the(found).evidence["shared"] == 60


def test_rows_that_repeat_by_their_nature_are_fine():
    g = torch.Generator().manual_seed(1)
    x = torch.randint(2, (400, 6), generator=g).float()
    y = (x.sum(1) > 3).long()
    network = lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))  # noqa: E731
    assert etude.check(task(network, (x, y)), RECIPE).healthy


@before_training
@each
def test_a_class_blown_up_by_copies(name):
    x, y = images()
    one = torch.cat([x, x[y == 2][:3].repeat(80, 1, 1, 1)])
    labels = torch.cat([y, torch.full((240,), 2)])
    held = images(60, seed=5)
    found = etude.check(task(NETWORKS[name], (one, labels), valid=held), RECIPE)
    assert the(found).what == Cause.BAD_DATA
    assert the(found).evidence["class"] == 2


@before_training
@each
def test_one_class_only_and_a_class_that_training_lacks(name):
    x, y = images()
    constant = etude.check(task(NETWORKS[name], (x, torch.full_like(y, 2))), RECIPE)
    assert constant.findings[0].what == Cause.LABELS_DO_NOT_MATCH
    lacking = etude.check(
        task(NETWORKS[name], (x[y != 3], y[y != 3]), valid=images(60, seed=5)), RECIPE
    )
    assert the(lacking).what == Cause.BAD_DATA
    assert the(lacking).evidence["classes"] == "3"


@before_training
@each
def test_sorted_labels_in_a_loader_that_does_not_shuffle(name):
    x, y = images()
    order = y.argsort()
    data = TensorDataset(x[order], y[order])
    held = images(60, seed=5)
    for shuffle, found in (
        (shuffle, etude.check(
            task(NETWORKS[name], DataLoader(data, 32, shuffle=shuffle), valid=held), PLAIN
        ))
        for shuffle in (False, True)
    ):  # fmt: skip
        assert whats(found) == ([] if shuffle else [Cause.DATA_NOT_SHUFFLED])
    mixed = DataLoader(TensorDataset(x, y), 32)
    assert etude.check(task(NETWORKS[name], mixed, valid=held), PLAIN).healthy


# ---- the network ------------------------------------------------------------------------------


@each
def test_weights_that_are_too_large(name):
    def network() -> nn.Module:
        net = NETWORKS[name]()
        with torch.no_grad():
            list(net.modules())[-1].weight.mul_(300)
        return net

    found = etude.check(task(network), RECIPE.replace(lr=1e-3))
    assert found.findings[0].what == Cause.BAD_INITIALISATION
    assert found.findings[0].evidence["loss"] > 3 * found.findings[0].evidence["chance"]


def test_large_weights_that_the_first_updates_take_down_are_fine():
    def network() -> nn.Module:
        net = mlp()
        with torch.no_grad():
            net[3].weight.mul_(30)
        return net

    found = etude.check(task(network), RECIPE.replace(lr=0.1, clip_norm=5.0))
    assert Cause.BAD_INITIALISATION not in whats(found)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_units_that_begin_alike(name):
    def network() -> nn.Module:
        net = NETWORKS[name]()
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.constant_(module.weight, 0.05)
                nn.init.zeros_(module.bias)
        return net

    found = etude.check(task(network), RECIPE)
    assert Cause.BAD_INITIALISATION in whats(found)


def test_a_last_layer_of_zeros_is_fine():
    def network() -> nn.Module:
        net = mlp()
        nn.init.zeros_(net[3].weight)
        return net

    assert etude.check(task(network), RECIPE).healthy


class Mixing(nn.Module):
    """Subtracts the batch's mean from the features."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x - x.mean(0, keepdim=True))
        return y


@each
def test_samples_that_are_mixed(name):
    found = etude.check(task(lambda: Mixing(NETWORKS[name]())), RECIPE)
    assert the(found).what == Cause.SAMPLES_MIXED


def test_a_recurrent_layer_that_reads_along_the_batch():
    found = etude.check(task(lambda: Rows(batch_first=False)), RECIPE)
    assert Cause.SAMPLES_MIXED in whats(found)


def test_batch_normalisation_is_named_as_the_exception():
    found = etude.check(task(cnn), RECIPE)
    assert any("but for batch normalisation (1)" in seen for seen in found.seen)


class Words(nn.Module):
    """Embeds whole numbers; with `mixes`, samples read each other."""

    def __init__(self, mixes: bool = False, one_hot: bool = False) -> None:
        super().__init__()
        self.mixes, self.one_hot = mixes, one_hot
        self.table = nn.Embedding(12, 8)
        self.head = nn.Linear(12 if one_hot else 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.one_hot(x, 12).float() if self.one_hot else self.table(x)
        y = y + self.table(torch.arange(x.shape[1]))[:, :1]
        y = y.mean(1)
        if self.mixes:
            y = y + y.roll(1, 0)
        found: Tensor = self.head(y)
        return found


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("length", [5, 7])
def test_samples_of_whole_numbers_go_through_the_first_numbers_made_of_them(one_hot, length):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(12, (240, length), generator=g)
    y = x[:, 0] % 4
    assert etude.check(task(lambda: Words(one_hot=one_hot), (x, y)), RECIPE).healthy
    mixed = etude.check(task(lambda: Words(True, one_hot), (x, y)), RECIPE)
    assert Cause.SAMPLES_MIXED in whats(mixed)


@each
def test_a_layer_that_no_gradient_reaches(name):
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.idle = NETWORKS[name](), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x)
            return y

    found = etude.check(task(Idle), RECIPE)
    assert the(found).what == Cause.PARAMETERS_NOT_TRAINED
    assert the(found).layer == "idle"

    def frozen() -> nn.Module:
        net = Idle()
        net.idle.requires_grad_(False)
        return net

    assert etude.check(task(frozen), RECIPE).healthy


def test_parameters_that_the_optimizer_lacks():
    from etude.diagnosis.check.reach import missing_from_optimizer

    for net in (mlp(), cnn(), Rows()):
        parts = list(net.parameters())
        sgd = torch.optim.SGD
        assert missing_from_optimizer(net, sgd(parts, lr=0.1)) == []
        (found,) = missing_from_optimizer(net, sgd(parts[:-2], lr=0.1))
        assert found.what == Cause.PARAMETERS_NOT_TRAINED
        assert found.evidence["parameters"] == 2
        both = [sgd(parts[:-2], lr=0.1), sgd(parts[-2:], lr=0.1)]
        assert missing_from_optimizer(net, both) == []


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_units_that_never_fire(name):
    """A dead layer: its outputs are constants, and what is before it gets a gradient of 0."""

    def network() -> nn.Module:
        net = NETWORKS[name]()
        with torch.no_grad():
            (net[1] if name == "mlp" or not isinstance(net[1], nn.Linear) else net[0]).bias.fill_(
                -100.0
            )
        return net

    found = etude.check(task(network), RECIPE)
    assert Symptom.SILENT_PARAMETER in whats(found)
    assert Symptom.CONSTANT_OUTPUT in whats(found)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_network_that_cannot_fit_one_batch(name):
    """Inputs that do not reach the output: the best it can do is a constant."""

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NETWORKS[name]()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x * 0)
            return y

    found = etude.check(task(Blind), RECIPE)
    assert {Symptom.CONSTANT_OUTPUT, Symptom.STALLED} <= set(whats(found))


@each
def test_losses_that_differ_under_one_seed(name):
    class Noisy(nn.Module):
        draw = torch.Generator().manual_seed(0)

        def __init__(self) -> None:
            super().__init__()
            self.net = NETWORKS[name]()

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=Noisy.draw)
            y: Tensor = self.net(x + 0.3 * noise)
            return y

    found = etude.check(task(Noisy), RECIPE)
    assert the(found).what == Cause.NOT_REPEATABLE
