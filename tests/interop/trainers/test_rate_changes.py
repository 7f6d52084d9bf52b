"""Whether a callback changes the rate is told from its code."""

import pytest

from etude.errors import BadValueError
from etude.interop.trainers.rate_changes import changes_rate, refuse


class Base:
    pass


class Multiplies(Base):
    def end(self, optimizer):
        for group in optimizer.param_groups:
            group["lr"] *= 0.5


class Sets(Base):
    def end(self, trainer):
        trainer.optimizers[0].param_groups[0]["lr"] = 0.1


class Enumerates(Base):
    def end(self, optimizer, rates):
        for place, group in enumerate(optimizer.param_groups):
            group["lr"] = rates[place]


class Zips(Base):
    def end(self, optimizer, rates):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class FirstGroup(Base):
    def end(self, optimizer):
        group = optimizer.param_groups[0]
        group["initial_lr"] = 0.3


class Updates(Base):
    def end(self, optimizer):
        for group in optimizer.param_groups:
            group.update(lr=0.1)


class Fills(Base):
    def end(self, optimizer):
        for group in optimizer.param_groups:
            group["lr"].fill_(0.1)


class Steps(Base):
    def end(self, lr_scheduler):
        lr_scheduler.step()


class BaseRates(Base):
    def end(self, lr_scheduler):
        lr_scheduler.base_lrs = [0.1]


class Inner(Base):
    def end(self, optimizer):
        def lower():
            for group in optimizer.param_groups:
                group["lr"] = 0.0

        lower()


class Inherits(Multiplies):
    pass


class Reads(Base):
    def end(self, optimizer, logs):
        logs["lr"] = optimizer.param_groups[0]["lr"]


class Keeps(Base):
    def end(self, optimizer):
        self.seen = {}
        self.seen["lr"] = [group["lr"] for group in optimizer.param_groups]


class Momentum(Base):
    def end(self, optimizer):
        for group in optimizer.param_groups:
            group["momentum"] = 0.5


class Counts(Base):
    def end(self, optimizer, logs):
        rate = optimizer.param_groups[0]["lr"]
        logs.update(lr=rate)
        self.last_epoch = rate
        self.profiler.step()


CHANGE = [Multiplies, Sets, Enumerates, Zips, FirstGroup, Updates, Fills, Steps, BaseRates, Inner]


@pytest.mark.parametrize("kind", [*CHANGE, Inherits])
def test_a_callback_that_changes_it(kind):
    assert changes_rate(kind(), Base)
    with pytest.raises(BadValueError, match=f"callback {kind.__name__} of the Trainer changes"):
        refuse([kind()], Base, "the Trainer")


@pytest.mark.parametrize("kind", [Base, Reads, Keeps, Momentum, Counts])
def test_a_callback_that_does_not(kind):
    assert not changes_rate(kind(), Base)
