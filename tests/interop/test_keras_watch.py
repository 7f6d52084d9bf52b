"""Keras on torch under watch: the same bits, all updates, its names; other backends refused."""

import os
import subprocess
import sys

import numpy as np
import pytest

from etude.errors import BadValueError
from etude.interop.keras.watch import refuse_other_backends
from tests.interop.watching import torch_is_plain

keras = pytest.importorskip("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from etude.interop.keras import WatchCallback  # noqa: E402

X = np.random.default_rng(0).standard_normal((48, 4)).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def quiet(finding):
    """Print nothing."""


def built(optimizer=None, last=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dropout(0.2),
            last or keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile(optimizer=optimizer or keras.optimizers.Adam(0.01), loss="mse")
    return model


def fit(model, *callbacks, epochs=2):
    keras.utils.set_random_seed(1)
    return model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks))


def test_a_watched_fit_has_the_bits_of_another():
    plain, watched = built(), built()
    losses = fit(plain).history["loss"]
    watching = WatchCallback(every=1, on_finding=quiet)
    assert fit(watched, watching).history["loss"] == losses
    for one, other in zip(plain.get_weights(), watched.get_weights(), strict=True):
        assert np.array_equal(one, other)
    report = watching.report()
    assert report.healthy, str(report)
    history = report.history
    assert history.updates == history.samples == 24
    assert [layer.name for layer in history.layers] == ["hidden", "out"]
    assert [one.name for one in history.parameters] == [
        "hidden.kernel", "hidden.bias", "out.kernel", "out.bias",
    ]  # fmt: skip
    np.testing.assert_allclose(history.loss.reshape(2, 12).mean(1), losses, rtol=1e-5)
    np.testing.assert_allclose(history.lr, 0.01, rtol=1e-6)
    assert np.all(history.of_layers("update_ratio") > 0)
    assert history.layers[0].activation == "relu"
    assert "call" not in vars(watched)
    assert torch_is_plain()


def test_accumulated_batches_are_one_update():
    watching = WatchCallback(every=1, on_finding=quiet)
    fit(built(keras.optimizers.SGD(0.01, gradient_accumulation_steps=3)), watching)
    assert watching.report().history.updates == 8


def test_a_later_fit_counts_on():
    model = built()
    fit(model, epochs=1)
    watching = WatchCallback(every=1, on_finding=quiet)
    fit(model, watching, epochs=1)
    assert watching.report().history.steps.tolist() == list(range(12, 24))


class Failing(keras.layers.Layer):
    calls = 0

    def call(self, x):
        self.calls += 1
        if self.calls == 8:
            raise OSError("in the forward pass")
        return x[:, :1]


class Stopping(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 5:
            raise KeyboardInterrupt("stop")


def test_an_error_in_the_forward_pass_leaves_nothing_behind():
    model = built(last=Failing())
    watching = WatchCallback(on_finding=quiet)
    with pytest.raises(OSError, match="in the forward pass"):
        fit(model, watching)
    assert "call" not in vars(model)
    assert torch_is_plain()
    assert watching.watch.closed


def test_its_block_ends_it_after_any_error():
    model = built()
    with pytest.raises(KeyboardInterrupt, match="stop"), WatchCallback(on_finding=quiet) as w:
        fit(model, w, Stopping())
    assert "call" not in vars(model)
    assert torch_is_plain()


def test_another_backend_is_refused():
    with pytest.raises(BadValueError, match=r"Keras runs on 'jax'.*set KERAS_BACKEND=torch"):
        refuse_other_backends("jax")


@pytest.mark.slow
def test_the_jax_backend_is_refused_with_one_line():
    pytest.importorskip("jax")
    code = "from etude.interop.keras import WatchCallback"
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "set KERAS_BACKEND=torch before Keras is imported" in last
