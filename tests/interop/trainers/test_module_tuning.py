"""The rate of a module in two lines, and the `configure_optimizers` to paste."""

import pytest
import torch

from etude.errors import BadValueError
from etude.interop.lightning import task, tune
from tests.interop.trainers.modules import Net, fitted, loader, made, trainer_of
from tests.interop.trainers.test_module_parity import (
    Configured,
    groups,
    one_cycle,
    the_head_alone,
)


@pytest.mark.parametrize("configure", [groups, one_cycle, the_head_alone], ids=lambda f: f.__name__)
def test_the_pasted_configure_optimizers_trains_as_the_tuned_run_did(configure):
    module = made(Configured, configure=configure)
    loaders = loader(), loader(24)
    trainer = trainer_of(max_steps=24)
    found = tune(module, *loaders, 1.5, trainer=trainer, progress=False, engine="loop")
    names: dict = {}  # the pasted code imports what it needs
    exec(found.code(), names)
    pasted = type("Pasted", (Net,), {"configure_optimizers": names["configure_optimizers"]})
    theirs = fitted(made(pasted), *loaders, max_steps=24)
    assert theirs == pytest.approx(list(found.result.record.series["loss"]), abs=1e-6)


def test_a_module_is_fitted_at_the_rate_if_asked():
    module, trainer = made(), trainer_of(max_steps=20)
    found = tune(
        module,
        loader(),
        loader(24),
        1.5,
        trainer=trainer,
        train=True,
        progress=False,
        engine="loop",
    )
    assert module.hparams.lr == found.lr
    assert trainer.global_step == 20
    with pytest.raises(BadValueError, match="give trainer=, and neither schedule= nor steps="):
        tune(module, loader(), loader(24), train=True)


def test_the_length_may_be_given_without_a_trainer():
    found = tune(made(), loader(), loader(24), 1.5, steps="3 epochs", progress=False, engine="loop")
    assert found.result.record.length == 24


def test_one_group_of_everything_is_written_as_the_parameters():
    found = tune(made(), loader(), loader(24), 1.5, steps=20, progress=False, engine="loop")
    assert "optimizer = torch.optim.AdamW(self.parameters(), lr=" in found.code()


def ten_times(module):
    rate = module.hparams.lr
    return torch.optim.AdamW(
        [
            {"params": module.net[0].parameters(), "lr": rate},
            {"params": module.net[2].parameters(), "lr": 10 * rate},
        ]
    )


def fixed(module):
    return torch.optim.AdamW(module.parameters(), lr=0.02)


def test_a_module_whose_group_has_a_multiple_of_its_rate_is_fitted_as_it_was_tuned():
    module, trainer = made(Configured, configure=ten_times), trainer_of(max_steps=20)
    found = tune(
        module, loader(), loader(24), 1.3, trainer=trainer, train=True, progress=False,
        engine="loop",
    )  # fmt: skip
    assert module.hparams.lr == pytest.approx(found.lr / 10)
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    assert rates == pytest.approx([found.lr / 10, found.lr])


def test_a_module_that_does_not_use_its_rate_is_not_fitted_at_it():
    module = made(Configured, configure=fixed)
    with pytest.raises(BadValueError, match=r"lr=0\.05 of Configured does not set the rate 0\.02"):
        tune(module, loader(), loader(24), trainer=trainer_of(max_steps=20), train=True)
    assert module.hparams.lr == 0.05


class Numbered(Net):
    """Makes tensors of its own before a batch is moved."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x, torch.tensor(y.tolist())


def test_a_module_that_is_on_a_device_gets_its_batches_there():
    module = made(Numbered).to("meta")
    learned, _ = task(module, loader(), loader(24), trainer=trainer_of(max_steps=8))
    assert learned.metric_name == "val_acc"
