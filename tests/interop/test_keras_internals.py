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
