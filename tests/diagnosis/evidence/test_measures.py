"""The numbers of a history, on histories written by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.diagnosis.evidence import measures
from etude.diagnosis.history import History, LayerInfo, ParameterInfo, Quantity, RunQuantity


def history(loss, means, within, count, name="mse_loss", plain=None, **more):
    """A history whose every update was sampled."""
    updates = len(loss)
    loss = np.asarray(loss, float)
    return History(
        updates,
        loss,
        np.full(updates, 0.1),
        np.arange(updates),
        run_readings={
            RunQuantity.TARGET_WITHIN: np.broadcast_to(within, updates).astype(float),
            RunQuantity.TARGET_COUNT: np.full(updates, float(count)),
            RunQuantity.PLAIN_LOSS: loss if plain is None else np.asarray(plain, float),
        },
        loss_name=name,
        target_means=np.asarray(means, float),
        **more,
    )


def batches_of(targets, count):
    """Means and variances of the batches of a column of targets, in their order."""
    parts = np.asarray(targets, float).reshape(-1, count)
    return parts.mean(1, keepdims=True), parts.var(1, ddof=1)


@given(st.integers(0, 2**16), st.sampled_from([4, 16, 32]))
def test_random_order_lies_within_batches_and_sorted_order_between_them(seed, count):
    targets = np.random.default_rng(seed).normal(size=32 * count)
    mixed = measures.target_order(history(np.ones(32), *batches_of(targets, count), count))
    ordered = measures.target_order(
        history(np.ones(32), *batches_of(np.sort(targets), count), count)
    )
    assert mixed < 0.4
    assert ordered > 0.8


@given(st.floats(0.1, 100.0), st.floats(-50.0, 50.0))
def test_the_order_has_no_unit(scale, shift):
    targets = np.random.default_rng(0).normal(size=256)
    plain = measures.target_order(history(np.ones(16), *batches_of(targets, 16), 16))
    moved = measures.target_order(
        history(np.ones(16), *batches_of(scale * targets + shift, 16), 16)
    )
    assert moved == pytest.approx(plain, abs=1e-6)


def test_few_batches_and_batches_of_one_tell_nothing_of_the_order():
    targets = np.sort(np.random.default_rng(0).normal(size=64))
    assert math.isnan(measures.target_order(history(np.ones(4), *batches_of(targets, 16), 16)))
    ones = history(np.ones(64), targets[:, None], 0.0, 1)
    assert math.isnan(measures.target_order(ones))


def test_targets_that_were_read_in_no_update_tell_nothing():
    means = np.full((20, 1), np.nan)
    assert math.isnan(measures.target_order(history(np.ones(20), means, 0.0, 30)))
    assert math.isnan(measures.whole_data(history(np.ones(20), np.empty((20, 0)), 0.0, 30)))


def test_batches_that_hold_all_samples_tell_how_many_there_are():
    means, within = np.full((20, 1), 0.3), 1.0
    assert measures.whole_data(history(np.ones(20), means, within, 30)) == 30
    targets = np.random.default_rng(0).normal(size=600)
    assert measures.whole_data(history(np.ones(20), *batches_of(targets, 30), 30)) == math.inf


def test_the_largest_class():
    shares = np.tile([0.1, 0.9], (5, 1))
    assert measures.largest_class(history(np.ones(5), shares, 0.2, 8, "cross_entropy")) == 0.9
    assert math.isnan(measures.largest_class(history(np.ones(5), shares, 0.2, 8)))


@given(st.floats(0.01, 100.0))
def test_a_loss_is_measured_by_the_best_constant_whatever_divides_it(factor):
    targets = np.random.default_rng(0).normal(3.0, 2.0, size=1600)
    means, within = batches_of(targets, 16)
    half = np.full(100, 0.5 * targets.var())
    found = measures.relative_losses(history(factor * half, means, within, 16, plain=half))
    assert found == pytest.approx(0.5, rel=1e-3)


def test_the_constant_of_classes_is_the_entropy_of_their_shares():
    shares = np.tile([0.5, 0.25, 0.25], (40, 1))
    entropy = 1.5 * math.log(2)
    found = history(np.full(40, entropy), shares, 0.6, 32, "cross_entropy")
    assert measures.relative_losses(found) == pytest.approx(1.0)
    assert measures.recent_relative_loss(found)[0] == pytest.approx(1.0)


def test_what_the_best_constant_of_is_not_known_is_not_measured():
    targets = np.random.default_rng(0).normal(size=1600)
    for name in ("smooth_l1_loss", "huber_loss", ""):
        one = history(np.ones(100), *batches_of(targets, 16), 16, name)
        assert np.isnan(measures.relative_losses(one)).all()


def decayed(decay, gradient, decoupled=False, adaptive=False):
    """One layer with a weight of norm 1."""
    ones = np.ones((20, 1))
    return History(
        20,
        np.ones(20),
        np.full(20, 0.1),
        np.arange(20),
        layers=(LayerInfo("0"),),
        parameters=(ParameterInfo("0.weight", 0, decay=decay, decoupled=decoupled),),
        readings={Quantity.WEIGHT_NORM: ones, Quantity.UPDATE_RATIO: 0.1 * ones},
        parameter_gradients=gradient * ones,
        parameter_updates=0.1 * gradient * ones,
        parameter_norms=ones,
        adaptive=adaptive,
    )


@given(st.floats(1e-4, 10.0), st.floats(1e-4, 10.0))
def test_the_share_of_a_decay_is_that_of_its_gradient(decay, gradient):
    share = decay / (decay + gradient)
    assert measures.decay_shares(decayed(decay, gradient))[0] == pytest.approx(share)
    assert measures.decay_shares(decayed(decay, gradient, True))[0] == pytest.approx(share)


def test_without_a_decay_there_is_no_share_and_no_time():
    assert np.isnan(measures.decay_shares(decayed(0.0, 1.0))).all()
    assert measures.decay_time(decayed(0.0, 1.0)) == math.inf
    assert measures.decay_time(decayed(0.5, 1.0)) == pytest.approx(1 / (0.1 * 0.5 * 20))


def test_the_distance_moved_is_the_mean_update_times_the_updates():
    assert measures.distance_moved(decayed(0.0, 1.0))[0] == pytest.approx(2.0)
