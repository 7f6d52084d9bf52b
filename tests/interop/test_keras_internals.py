"""What we rely on in Keras's private parts: each test fails where a Keras behaves otherwise."""

from __future__ import annotations

import threading
from typing import Any

import pytest

keras = pytest.importorskip("keras")

from etude.interop.keras import internals  # noqa: E402


def network() -> Any:
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])


def own_loss(y: Any, p: Any) -> Any:
    return keras.ops.mean((y - p) ** 2)


def test_the_arguments_of_compile_are_the_objects_that_were_given():
    model, optimizer = network(), keras.optimizers.SGD(0.1)
    metric = keras.metrics.MeanSquaredError()
    given = {
        "optimizer": optimizer,
        "loss": own_loss,
        "metrics": [metric],
        "weighted_metrics": None,
        "run_eagerly": True,
    }
    model.compile(**given)
    found = internals.compile_arguments(model)
    assert found["optimizer"] is optimizer
    assert found["loss"] is own_loss
    assert found["metrics"] == [metric]
    assert found["run_eagerly"] is True


def test_the_arguments_compile_another_model_alike():
    model, twin = network(), network()
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"], jit_compile=False)
    twin.compile(**internals.compile_arguments(model))
    again = internals.compile_arguments(twin)
    assert {k: again[k] for k in ("loss", "metrics", "jit_compile")} == {
        "loss": "mse", "metrics": ["mae"], "jit_compile": False,
    }  # fmt: skip


def test_the_arguments_are_a_copy():
    model = network()
    model.compile(optimizer="sgd", loss="mse")
    internals.compile_arguments(model)["loss"] = None
    assert internals.compile_arguments(model)["loss"] == "mse"


def test_the_state_of_a_thread_goes_to_another_thread():
    """A policy of types belongs to the thread that set it, until its state is taken."""
    seen: list[str] = []

    def read(state: dict[str, Any] | None) -> None:
        if state is not None:
            internals.take_thread_state(state)
        seen.append(keras.config.dtype_policy().name)

    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        for state in (None, internals.thread_state()):
            thread = threading.Thread(target=read, args=(state,))
            thread.start()
            thread.join()
    finally:
        keras.config.set_dtype_policy(before)
    assert seen == ["float32", "mixed_bfloat16"]


def test_the_seeds_of_a_model_are_variables_that_name_their_generator():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dropout(0.5)])
    assert ["seed_generator" in one.path for one in model.variables] == [True]


def test_a_call_set_on_an_instance_stands_before_that_of_its_class():
    """A watch of Keras reads the forward pass so."""
    import numpy as np

    model, calls = network(), []
    own = model.call

    def read(*args: Any, **options: Any) -> Any:
        calls.append("read")
        return own(*args, **options)

    model.__dict__["call"] = read
    model(np.zeros((1, 2), dtype="float32"))
    del model.__dict__["call"]
    model(np.zeros((1, 2), dtype="float32"))
    assert calls == ["read"]


def stepped(optimizer: Any) -> Any:
    """A network after one update."""
    import numpy as np

    model = network()
    model.compile(optimizer, "mse")
    model.train_on_batch(np.ones((2, 2), dtype="float32"), np.ones((2, 1), dtype="float32"))
    return model


def test_an_optimizer_lists_the_variables_that_it_trains_in_the_order_of_their_averages():
    import numpy as np

    model = stepped(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    optimizer, first = model.optimizer, [w.copy() for w in model.get_weights()]
    model.train_on_batch(np.ones((2, 2), dtype="float32"), np.ones((2, 1), dtype="float32"))
    assert [id(v) for v in optimizer._trainable_variables] == [
        id(v) for v in model.trainable_variables
    ]
    averages = optimizer._model_variables_moving_average
    for variable, average, begun in zip(
        optimizer._trainable_variables, averages, first, strict=True
    ):
        now, kept = (np.array(keras.ops.convert_to_numpy(v)) for v in (variable, average))
        assert kept == pytest.approx(0.9 * begun + 0.1 * now, rel=1e-5)
    found = internals.final_weights(model)
    assert all(
        np.array_equal(weight, np.array(keras.ops.convert_to_numpy(average)))
        for weight, average in zip(found, averages, strict=True)
    )


def test_without_averages_the_final_weights_are_the_weights():
    import numpy as np

    model = stepped(keras.optimizers.SGD(0.1))
    same = zip(internals.final_weights(model), model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)


def test_what_is_excluded_from_weight_decay_is_known_by_variable_and_by_a_pattern_of_names():
    model, twin = network(), network()
    kernel, bias = model.layers[0].kernel, model.layers[0].bias
    before, after = keras.optimizers.AdamW(0.1), keras.optimizers.AdamW(0.1)
    internals.keep_exclusions(before, after, [])
    assert not hasattr(after, "_exclude_from_weight_decay_pattern")
    before.exclude_from_weight_decay(var_list=[kernel], var_names=["bias", "gamma"])
    assert before._exclude_from_weight_decay == {before._var_key(kernel)}
    assert set(before._exclude_from_weight_decay_pattern.pattern.split("|")) == {"bias", "gamma"}
    pairs = zip(model.variables, twin.variables, strict=True)
    internals.keep_exclusions(before, after, pairs)
    assert not after._use_weight_decay(twin.layers[0].kernel)
    assert not after._use_weight_decay(twin.layers[0].bias)
    assert after._use_weight_decay(kernel)
    assert not after._use_weight_decay(bias)
