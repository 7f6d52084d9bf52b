"""Keras: every rate is a `fit` that is held and let go on; the model is left as it was."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from etude.errors import BadTypeError, BadValueError, UnknownNameError

keras = pytest.importorskip("keras")

from etude.interop.keras import to_keras, tune  # noqa: E402
from etude.schedules import cosine  # noqa: E402

X = np.random.default_rng(0).standard_normal((60, 4)).astype("float32")
Y = X[:, :1] - X[:, 1:2]
FIT = {"epochs": 4, "batch_size": 6, "validation_split": 0.2}


def built(optimizer="adam", **more):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=optimizer, loss="mse", **more)
    return model


def quick(model, budget=1.3, **more):
    options = {**FIT, **more}
    return tune(model, X, Y, budget, evaluations=4, progress=False, **options)


def test_the_trained_copy_is_what_fit_gives_at_that_rate_and_the_model_is_left_alone():
    model = built(metrics=["mae"])
    before = [w.copy() for w in model.get_weights()]
    threads = threading.active_count()
    best = quick(model)
    assert threading.active_count() == threads
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert int(model.optimizer.iterations) == 0
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001)
    assert best.cost <= 1.3
    assert best.confidence is not None
    model.optimizer.learning_rate = best.lr
    keras.utils.set_random_seed(0)
    history = model.fit(X, Y, verbose=0, **FIT)
    same = zip(best.value.get_weights(), model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    assert best.loss == pytest.approx(history.history["val_loss"][-1], rel=1e-5)


@pytest.mark.slow
def test_the_same_with_a_schedule_callbacks_and_weights():
    weights = np.linspace(0.5, 1.5, len(X)).astype("float32")
    seen = []

    class Counting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)

        def __deepcopy__(self, memo):
            return Counting()

    options = {"sample_weight": weights, "callbacks": [Counting()]}
    best = quick(built(), 1.3, schedule="cosine()", **options)
    assert seen
    model = built(keras.optimizers.Adam(to_keras(best.lr * cosine(32))))
    keras.utils.set_random_seed(0)
    model.fit(X, Y, verbose=0, **FIT, **options)
    same = zip(best.value.get_weights(), model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)


def test_the_schedule_of_the_optimizer_is_kept_and_its_peak_is_tuned():
    own = keras.optimizers.schedules.CosineDecay(0.5, 32)
    best = quick(built(keras.optimizers.SGD(own)), around=0.01)
    assert best.lr < 0.5
    rates = best.record.series["lr"]
    assert rates[0] == pytest.approx(best.lr)
    assert rates[-1] < best.lr / 50


def test_a_metric_is_compared_by_its_own_direction():
    best = quick(built(metrics=["mae"]), objective="mae")
    assert best.objective == "mae"
    assert best.metric == pytest.approx(best.loss)


def beside_fit(make, x=X, y=Y, **options):
    """Tune, then fit at the rate that was found: (what was said, val_loss, same weights)."""
    fit = {**FIT, **options}
    best = tune(make(), x, y, 1.3, evaluations=4, progress=False, **fit)
    model = make()
    model.optimizer.learning_rate = best.lr
    keras.utils.set_random_seed(0)
    history = model.fit(x, y, verbose=0, **fit)
    same = zip(best.value.get_weights(), model.get_weights(), strict=True)
    return best.loss, history.history["val_loss"][-1], all(np.array_equal(a, b) for a, b in same)


LAYERS = keras.layers
TOKENS = np.random.default_rng(1).integers(1, 9, (60, 7))
TOKENS[np.arange(7) >= np.random.default_rng(2).integers(2, 8, (60, 1))] = 0


def masked():
    keras.utils.set_random_seed(1)
    embedding = LAYERS.Embedding(9, 5, mask_zero=True)
    head = LAYERS.Dense(9, activation="softmax")
    model = keras.Sequential([LAYERS.Input((7,)), embedding, head])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def summing(reduction):
    model = built()
    model.compile("adam", keras.losses.MeanSquaredError(reduction=reduction))
    return model


WEIGHTS = {"sample_weight": np.linspace(0.1, 3, len(X)).astype("float32")}
LOSSES = {
    "a mean": (built, X, Y, {}),
    "weights": (built, X, Y, WEIGHTS),
    "padding with a mask": (masked, TOKENS, np.roll(TOKENS, -1, 1), {}),
    "a sum over a batch": (lambda: summing("sum"), X, Y, {}),
    "a mean by weights": (lambda: summing("mean_with_sample_weight"), X, Y, WEIGHTS),
}


@pytest.mark.parametrize(("make", "x", "y", "options"), LOSSES.values(), ids=LOSSES)
def test_the_loss_that_is_said_is_the_one_that_fit_reports(make, x, y, options):
    said, reported, same = beside_fit(make, x, y, **options)
    assert same
    assert said == pytest.approx(reported, rel=1e-5)


def decayed(**excluded):
    optimizer, model = keras.optimizers.AdamW(0.001, weight_decay=5.0), built()
    if "layer" in excluded:
        excluded = {"var_list": model.layers[excluded["layer"]].variables}
    optimizer.exclude_from_weight_decay(**excluded)
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("excluded", [{"var_names": ["bias"]}, {"layer": 2}])
def test_what_is_excluded_from_weight_decay_stays_so(excluded):
    said, reported, same = beside_fit(lambda: decayed(**excluded))
    assert same
    assert said == pytest.approx(reported, rel=1e-5)


def test_epochs_that_go_on_in_the_data_are_counted_as_fit_makes_them():
    # 8 batches: the epochs have 5, 3, 5 and 3 updates.
    said, reported, same = beside_fit(built, steps_per_epoch=5)
    assert same
    assert said == pytest.approx(reported, rel=1e-5)
    assert quick(built(), steps_per_epoch=5).record.length == 16


def test_weights_that_early_stopping_puts_back_are_the_ones_that_are_judged():
    noise = np.random.default_rng(3).standard_normal((40, 1)).astype("float32")
    stopping = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    fit = {"epochs": 20, "batch_size": 8, "validation_split": 0.25, "callbacks": [stopping]}
    best = tune(built(), X[:40], noise, 2.0, evaluations=2, around=0.1, progress=False, **fit)
    assert best.record.cost.steps < 80
    found = best.value.evaluate(X[30:40], noise[30:], verbose=0)
    assert best.loss == pytest.approx(found, rel=1e-5)


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(1)

    def call(self, x):
        return self.inner(x)


def without_config():
    model = Plain()
    model.build((None, 4))
    model.compile("adam", "mse")
    return model


def scaled(**options):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.001, **options))


@pytest.mark.parametrize("wrapped", [False, True])
def test_averaged_weights_are_judged_and_returned(wrapped):
    make = scaled if wrapped else keras.optimizers.Adam
    best = quick(built(make(use_ema=True)))
    held_x, held_y = X[48:], Y[48:]
    found = best.value.evaluate(held_x, held_y, verbose=0)
    assert best.loss == pytest.approx(found, rel=1e-5)


def test_an_optimizer_that_scales_the_loss_finds_what_its_inner_one_does():
    plain, wrapped = quick(built()), quick(built(scaled()))
    assert wrapped.lr == plain.lr
    assert wrapped.loss == pytest.approx(plain.loss, rel=1e-4)
    assert type(wrapped.value.optimizer).__name__ == "LossScaleOptimizer"


def test_a_model_in_half_precision_is_tuned():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        best = quick(built())
    finally:
        keras.config.set_dtype_policy(before)
    assert best.chosen.record.status == "finished"


class StopsItself(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch >= 2


class ChangesTheRate(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.5


def test_a_fit_that_stops_early_is_finished():
    best = quick(built(), callbacks=[StopsItself()])
    assert best.chosen.record.status == "finished"
    assert best.record.cost.steps == 24


class Own(keras.Model):
    def compile(self, optimizer, second):
        super().compile(optimizer=optimizer)


def unbuilt():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(loss="mse")
    return model


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (built, {"validation_split": 0.0}, "nothing is held out"),
        (built, {"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, "sets the rate that is"),
        (built, {"callbacks": [ChangesTheRate()]}, "changed the rate from"),
        (built, {"epochs": 1, "batch_size": 1000}, "epochs=1 makes 1 updates, too few"),
        (built, {"epoch": 3}, "unknown argument of fit 'epoch': did you mean 'epochs'"),
        (built, {"objective": "accuracy"}, "unknown objective 'accuracy'"),
        (built, {"objective": "size"}, "does not tell whether larger or smaller"),
        (unbuilt, {}, "has no weights yet"),
        (without_config, {}, "clone_model cannot copy this Plain"),
        (Own, {}, "Own.compile is its own"),
        (lambda: keras.Sequential([keras.layers.Input((4,))]), {}, "is not compiled"),
        (lambda: 3, {}, "model=3 is not a Keras model"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(model, change, message):
    threads = threading.active_count()
    with pytest.raises((BadTypeError, BadValueError, UnknownNameError), match=message):
        quick(model(), **change)
    assert threading.active_count() == threads


def test_data_that_can_be_gone_through_once_is_refused():
    with pytest.raises(BadTypeError, match="can be gone through only once"):
        tune(built(), iter([(X, Y)]), validation_data=(X, Y))


def test_a_loss_without_targets_is_refused_before_keras_fails():
    with pytest.raises(BadValueError, match="y is missing, and the model was compiled with a loss"):
        tune(built(), X, progress=False, **FIT)
    options = {**FIT, "validation_data": (X,)}
    with pytest.raises(BadValueError, match="validation_data has inputs and no targets"):
        tune(built(), X, Y, progress=False, **options)


class Reproduces(keras.Model):
    """Learns its inputs by a loss of its own, and needs no targets."""

    def __init__(self, **more):
        super().__init__(**more)
        self.inner = keras.layers.Dense(4)

    def build(self, shape):
        self.inner.build(shape)
        self.built = True

    def call(self, x):
        return self.inner(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y_pred - x) ** 2)

    def get_config(self):
        return {}


def test_a_model_with_a_loss_of_its_own_needs_no_targets():
    model = Reproduces()
    model.build((None, 4))
    model.compile("sgd", "mse")
    options = {**FIT, "validation_data": (X,)}
    assert tune(model, X, None, 1.3, evaluations=4, progress=False, **options).loss < 1


PROGRAM = """
import numpy as np, keras
from etude.interop.keras import tune
assert keras.backend.backend() == "jax"
X = np.random.default_rng(0).standard_normal((60, 4)).astype("float32")
Y = X[:, :1] - X[:, 1:2]
FIT = {"epochs": 4, "batch_size": 6, "validation_split": 0.2}
keras.utils.set_random_seed(1)
layers = [keras.layers.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dropout(0.2)]
model = keras.Sequential([*layers, keras.layers.Dense(1)])
model.compile("adam", "mse")
best = tune(model, X, Y, 1.3, evaluations=4, progress=False, **FIT)
model.optimizer.learning_rate = best.lr
keras.utils.set_random_seed(0)
history = model.fit(X, Y, verbose=0, **FIT)
for mine, own in zip(best.value.get_weights(), model.get_weights(), strict=True):
    assert np.array_equal(mine, own)
assert abs(best.loss - history.history["val_loss"][-1]) < 1e-5
print("same")
"""


@pytest.mark.slow
def test_the_same_holds_on_jax():
    pytest.importorskip("jax")
    options = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=options, check=False
    )
    assert done.stdout.strip() == "same", done.stderr
