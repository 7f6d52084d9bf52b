"""`Tuner(trainer).lr_find` on the kinds of case that users of Lightning's finder reported."""

import copy
import math
import warnings
from itertools import cycle, pairwise

import pytest
import torch

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.interop.lightning import Tuner
from etude.methods.ramp import Ramp
from tests.interop.trainers.modules import Net, fitted, lightning, loader, made, trainer_of
from tests.interop.trainers.test_module_refusals import Manual, NoValidation, Two


def find(module, trainer=None, data=None, **options):
    return Tuner(trainer or trainer_of()).lr_find(
        module, loader(shuffle=True) if data is None else data, **options
    )


def test_it_has_the_attributes_of_lightnings_finder():
    module = made()
    found = find(module, num_training=60)
    assert found.results.keys() == {"lr", "loss"}
    assert len(found.results["lr"]) == len(found.results["loss"])
    assert (found.mode, found.lr_min, found.lr_max, found.num_training) == (
        "exponential", 1e-8, 1, 60,
    )  # fmt: skip
    assert module.hparams.lr == found.suggestion()
    assert 1e-8 < found.suggestion() < 1
    pytest.importorskip("matplotlib").use("agg")
    assert found.plot(suggest=True).axes[0].get_xscale() == "log"


class Groups(Net):
    """Its head trains at ten times its rate."""

    def configure_optimizers(self):
        lr = self.hparams.lr
        groups = [{"params": self.net[0].parameters()}]
        groups.append({"params": self.net[2].parameters(), "lr": 10 * lr})
        return torch.optim.SGD(groups, lr=lr)


def test_the_suggestion_is_the_rate_that_the_module_keeps():
    """Trained at it, the highest group has the rate of the ramp; the module's is a tenth."""
    module = made(Groups)
    found = find(module, min_lr=1e-5, max_lr=1e-1, num_training=60)
    assert module.hparams.lr == found.suggestion()
    assert found.results["lr"][0] == pytest.approx(1e-5)
    assert found.ramps[0].lrs[0] == pytest.approx(1e-4)  # of the head
    groups = module.configure_optimizers().param_groups
    assert groups[1]["lr"] == pytest.approx(10 * found.suggestion())


class Rising(Net):
    """Its loss falls at no rate."""

    def loss(self, batch):
        return -super().loss(batch).detach() - 0 * super().loss(batch) + self.trainer.global_step


def test_without_a_suggestion_the_module_keeps_its_rate():  # 13844
    module = made(Rising)
    with pytest.warns(UserWarning, match="no rate can be suggested: the loss does not fall"):
        found = find(module, num_training=30)
    assert module.hparams.lr == 0.05
    with pytest.warns(UserWarning, match="no rate can be suggested"):
        assert found.suggestion() is None


def test_a_narrow_range_under_accumulation_and_clipping_has_an_answer():  # 10557
    trainer = trainer_of(accumulate_grad_batches=12, gradient_clip_val=0.01)
    module = made()
    found = find(module, trainer, min_lr=1e-4, max_lr=0.1, num_training=65)
    assert 1e-4 <= found.suggestion() <= 0.1
    assert len(found.results["lr"]) == 65


def test_updates_are_counted_under_accumulation_not_batches():  # 1726
    trainer = trainer_of(accumulate_grad_batches=8)
    found = find(made(), trainer, num_training=30, early_stop_threshold=None)
    lrs = found.results["lr"]
    assert len(lrs) == 30
    steps = [math.log(b / a) for a, b in pairwise(lrs)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_fewer_batches_than_updates_and_then_a_whole_fit():  # 15603
    trainer = trainer_of(max_epochs=2, max_steps=-1)
    module = made()
    found = find(module, trainer, data=loader(16), num_training=40)
    assert len(found.results["lr"]) > 2
    assert found.suggestion() is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader(16), loader(16))
    assert trainer.global_step == 4


class Spiked(Net):
    """Its first losses are far higher than the others."""

    def loss(self, batch):
        return super().loss(batch) * (100.0 if self.trainer.global_step < 2 else 1.0)


def test_a_spike_at_the_start_does_not_decide():  # 1767, 14248
    plain, spiked = (find(made(kind), num_training=80) for kind in (Net, Spiked))
    assert spiked.suggestion() > 1e-6
    assert abs(math.log10(spiked.suggestion() / plain.suggestion())) < 2


def test_weights_optimizer_and_random_state_stay():  # 6675, 12670
    module, other, trainer = made(), made(), trainer_of(max_steps=20)
    data = loader(shuffle=True), loader(24)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    find(module, trainer, max_lr=100, num_training=40, update_attr=False)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    theirs = fitted(other, *data, max_steps=20)
    torch.set_rng_state(state)
    assert fitted(module, *data, max_steps=20) == theirs


def test_two_optimizers_and_manual_optimization_say_what_to_do():  # 6285
    for kind, message in ((Two, "returned 2 optimizers"), (Manual, "manual optimization")):
        module = made(kind)
        with pytest.raises(BadValueError, match=message):
            find(module)
        assert module.hparams.lr == 0.05


class Later(Net):
    """Its layers are made in `setup`."""

    def setup(self, stage):
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 2))


def test_layers_that_are_made_in_setup():  # 4784
    module = made(Later)
    assert find(module, num_training=40).suggestion() is not None
    assert module.net[0].out_features == 12


class Holder(Net):
    """Holds an object that no checkpoint of weights alone can hold."""

    def __init__(self, **options):
        super().__init__(**options)
        self.save_hyperparameters({"coder": torch.nn.Linear(1, 1), "lr": 0.05})


def test_objects_among_the_hyperparameters():  # 21757
    found = find(made(Holder), num_training=40)
    assert found.results == find(made(), num_training=40).results


class Breaks(Net):
    """Its loss is NaN from some rate on."""

    def loss(self, batch):
        loss = super().loss(batch)
        return loss * float("nan") if self.trainer.global_step > 25 else loss


def test_nan_ends_a_ramp_and_leaves_what_came_before():
    found = find(made(Breaks), num_training=50)
    assert all(map(math.isfinite, found.results["loss"]))
    assert 0 < len(found.results["lr"]) <= 26


class NanFromTheStart(Net):
    def loss(self, batch):
        return super().loss(batch) * float("nan")


def test_nan_from_the_start_is_an_error_that_says_so():
    with pytest.raises(TaskError, match="loss of the untrained model is nan on the first batch"):
        find(made(NanFromTheStart))


def test_the_same_call_gives_the_same_answer():
    one, two = (find(made(), num_training=40) for _ in range(2))
    assert one.results == two.results
    assert one.suggestion() == two.suggestion()


def test_no_validation_is_needed():
    module = made(NoValidation)
    assert find(module, num_training=40, update_attr=False).suggestion() is not None
    with pytest.raises(BadValueError, match="keeps no rate under 'lr' or 'learning_rate'"):
        find(module)


def test_groups_keep_their_proportion():
    class Groups(Net):
        def configure_optimizers(self):
            parts = [{"params": p.parameters()} for p in (self.net[0], self.net[2])]
            parts[1]["lr"] = 10 * self.hparams.lr
            return torch.optim.SGD(parts, lr=self.hparams.lr)

    module, batches = made(Groups), cycle(loader())
    ramp = find(module, data=loader(), num_training=40, update_attr=False).ramps[0]
    optimizer = module.configure_optimizers()
    for lr, expected in zip(ramp.lrs, ramp.losses, strict=True):
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = lr / 10, lr
        optimizer.zero_grad()
        loss = module.loss(next(batches))
        loss.backward()
        optimizer.step()
        assert expected == pytest.approx(loss.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "validate"}, "method='validate'.*give method='fit'"),
        ({"min_lr": 1.0, "max_lr": 0.1}, "give 0 < min_lr < max_lr"),
        ({"num_training": 3}, "num_training"),
        ({"mode": "cubic"}, "mode='cubic': give 'exponential' or 'linear'"),
        ({"early_stop_threshold": 0.5}, r"early_stop_threshold=0\.5: give a factor above 1"),
        ({"attr_name": "rate"}, "keeps no rate under 'rate'"),
    ],
)
def test_arguments_out_of_bounds(options, message):
    with pytest.raises(BadValueError, match=message):
        find(made(), **options)


def test_a_linear_ramp_grows_by_equal_steps():
    found = find(made(), mode="linear", num_training=30, early_stop_threshold=None)
    lrs = found.results["lr"]
    steps = [b - a for a, b in pairwise(lrs)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_something_else_than_a_module():
    with pytest.raises(BadTypeError, match="expected a LightningModule"):
        find(torch.nn.Linear(1, 1), update_attr=False)


def test_the_suggestion_lies_where_the_loss_falls():
    assert issubclass(Ramp, object)
    found = find(made(), num_training=100)
    lrs, losses = found.results["lr"], found.results["loss"]
    lowest = lrs[losses.index(min(losses))]
    assert 1e-5 < found.suggestion() <= lowest
    assert lightning is not None
