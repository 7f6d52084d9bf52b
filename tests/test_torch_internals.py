"""What we rely on in torch's private parts: each test fails where a torch behaves otherwise."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from etude import torch_internals as internals
from etude.errors import MissingExtraError

# ---- kinds of modules ----------------------------------------------------------------------

KINDS = {
    "CONVOLUTIONS": ("conv", "_ConvNd"),
    "BATCH_NORMS": ("batchnorm", "_BatchNorm"),
    "RUNNING_NORMS": ("batchnorm", "_NormBase"),
    "DROPOUTS": ("dropout", "_DropoutNd"),
}


@pytest.mark.parametrize("name", KINDS)
def test_torchs_own_classes_are_covered_with_the_base_and_without_it(name):
    """All of torch's that have the base are listed, so that without a base none is lost."""
    module, private = KINDS[name]
    base = getattr(importlib.import_module(f"torch.nn.modules.{module}"), private)
    first, *public = getattr(internals, name)
    assert first is base
    derived = [
        kind for kind in vars(nn).values()
        if isinstance(kind, type) and issubclass(kind, base) and "Lazy" not in kind.__name__
    ]  # fmt: skip
    assert {kind for kind in derived if kind in public} == set(derived) == set(public)


def test_without_a_base_the_public_classes_remain():
    assert internals._classes("conv", "_Gone", nn.Conv1d) == (nn.Conv1d,)


# ---- what a module holds -------------------------------------------------------------------


def test_a_hook_that_is_taken_from_its_dictionary_is_not_called_and_one_put_back_is():
    model, calls = nn.Linear(1, 1), []
    model.register_forward_hook(lambda *given: calls.append("after"), always_call=True)
    model.register_forward_pre_hook(lambda *given: calls.append("before"), with_kwargs=True)
    kept = [dict(hooks) for hooks in internals.forward_hooks(model)]
    for hooks in internals.forward_hooks(model):
        hooks.clear()
    model(torch.ones(1, 1))
    assert not calls
    for hooks, whole in zip(internals.forward_hooks(model), kept, strict=True):
        hooks.update(whole)
    model(torch.ones(1, 1))
    assert calls == ["before", "after"]


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_parameter("bias", None)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("state", None)
        self.register_buffer("scratch", torch.ones(3), persistent=False)


def test_a_modules_own_tensors_are_listed_and_none_is_left_out():
    holder = Holder()
    assert list(internals.own_parameters(holder)) == ["weight", "bias"]
    assert internals.own_parameters(holder)["bias"] is None
    assert list(internals.own_buffers(holder)) == ["count", "state", "scratch"]
    assert internals.unsaved_buffers(holder) == {"scratch"}
    assert set(holder.state_dict()) == {"weight", "count"}


def test_what_is_written_into_the_buffers_is_the_modules():
    holder = Holder()
    state = torch.full((4,), 2.0)
    internals.own_buffers(holder)["state"] = state
    assert holder.state is state
    assert "state" in holder.state_dict()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_layer_computes_with_the_list_of_its_weights(kind):
    layer, x = kind(2, 3, num_layers=2), torch.ones(4, 1, 2)
    names, flat = internals.flat_names(layer), internals.flat_weights(layer)
    assert names == [name for name, _ in layer.named_parameters()]
    assert all(one is layer.get_parameter(n) for n, one in zip(names, flat, strict=True))
    before, kept = layer(x)[0], list(flat)
    flat[:] = [torch.zeros_like(one) for one in kept]
    assert not torch.equal(layer(x)[0], before)
    flat[:] = kept
    assert torch.equal(layer(x)[0], before)


def test_what_torch_compile_makes_is_known():
    assert internals.is_compiled(torch.compile(nn.Linear(1, 1)))
    assert not internals.is_compiled(nn.Linear(1, 1))


def test_what_is_inside_a_compiled_module_is_found():
    plain = nn.Linear(1, 1)
    assert internals.uncompiled(torch.compile(plain)) is plain
    assert internals.uncompiled(plain) is plain


def test_a_module_that_is_compiled_anywhere_is_known():
    plain = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    assert not internals.compiles(plain)
    assert internals.compiles(nn.Sequential(torch.compile(plain)))
    plain[0].compile()
    assert internals.compiles(plain)


# ---- tensors -------------------------------------------------------------------------------


def test_a_tensors_version_counts_writes_also_through_a_view():
    tensor = torch.zeros(4)
    before = internals.version_of(tensor)
    tensor.sum()
    assert internals.version_of(tensor) == before
    tensor.add_(1)
    tensor[:2].mul_(2)
    assert internals.version_of(tensor) == before + 2


def test_a_sign_is_put_off_and_taken_back():
    tensor = torch.tensor([1.0, -2.0])
    view = internals.negated_view(tensor)
    assert view.is_neg()
    assert view.tolist() == [-1.0, 2.0]
    back = internals.negated_view(view)
    assert not back.is_neg()
    assert back.data_ptr() == view.data_ptr() == tensor.data_ptr()
    assert back.tolist() == tensor.tolist()


def test_the_parts_of_a_sparse_tensor_are_as_they_are():
    sparse = torch.sparse_coo_tensor([[1, 1]], [2.0, 3.0], (3,), is_coalesced=False)
    indices, values = internals.sparse_parts(sparse)
    assert (indices.tolist(), values.tolist()) == ([[1, 1]], [2.0, 3.0])


# ---- functions over lists of tensors ---------------------------------------------------------

ARGUMENTS: dict[str, Callable[[list[Tensor], list[Tensor]], tuple[tuple[Any, ...], dict]]] = {
    "add": lambda a, b: ((b,), {}),
    "add_": lambda a, b: ((b,), {"alpha": -0.3}),
    "addcdiv_": lambda a, b: ((b, [x.abs() + 1 for x in a]), {"value": -0.1}),
    "addcmul_": lambda a, b: ((b, b), {"value": 0.7}),
    "clamp_max_": lambda a, b: ((0.5,), {}),
    "clamp_min_": lambda a, b: ((-0.5,), {}),
    "copy_": lambda a, b: ((b,), {}),
    "div": lambda a, b: ((b,), {}),
    "div_": lambda a, b: (([float(i + 2) for i in range(len(a))],), {}),
    "lerp_": lambda a, b: ((b, 0.1), {}),
    "mul_": lambda a, b: ((torch.tensor(0.3),), {}),
    "norm": lambda a, b: ((), {}),
    "reciprocal_": lambda a, b: ((), {}),
    "sqrt": lambda a, b: ((), {}),
    "sqrt_": lambda a, b: ((), {}),
    "sub": lambda a, b: ((b,), {}),
}


def test_every_function_over_lists_is_tried():
    assert set(ARGUMENTS) == set(internals._FOREACH)


@pytest.mark.parametrize("name", internals._FOREACH)
def test_a_function_over_lists_gives_the_bits_of_one_tensor_after_the_other(name):
    def given_lists() -> tuple[list[Tensor], list[Tensor]]:
        draw = torch.Generator().manual_seed(0)
        return tuple([torch.randn(n, generator=draw) for n in (1, 7, 300)] for _ in range(2))

    results = []
    for function in (getattr(torch, f"_foreach_{name}"), internals._one_by_one(name)):
        first, second = given_lists()
        args, options = ARGUMENTS[name](first, second)
        found = function(first, *args, **options)
        results.append(first if name.endswith("_") else found)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other) or bool((one.isnan() == other.isnan()).all())
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    assert getattr(internals.foreach, name) is getattr(torch, f"_foreach_{name}")


def test_without_one_the_tensors_are_taken_one_by_one(monkeypatch):
    monkeypatch.delattr(torch, "_foreach_add")
    first, second = internals._over_lists("add")([torch.ones(2), torch.zeros(1)], [1.0, 2.0])
    assert (first.tolist(), second.tolist()) == ([2.0, 2.0], [2.0])


# ---- the data loader -------------------------------------------------------------------------


def test_a_walk_that_is_given_up_ends_its_workers():
    before = set(multiprocessing.active_children())
    walk = iter(DataLoader(torch.arange(8), batch_size=1, num_workers=1))
    next(walk)
    (worker,) = set(multiprocessing.active_children()) - before
    internals.end_workers(walk)
    worker.join(10)
    assert not worker.is_alive()
    internals.end_workers(iter([]))  # what has none is left alone


# ---- the autograd graph -----------------------------------------------------------------


def test_what_a_node_keeps_for_its_backward_pass():
    scores = torch.zeros(3, 1, requires_grad=True)
    target = torch.ones(3, 1)
    loss = nn.functional.mse_loss(scores, target)
    node = loss.grad_fn
    assert torch.equal(internals.kept_for_backward(node, "self"), scores)
    assert torch.equal(internals.kept_for_backward(node, "target"), target)
    assert internals.kept_for_backward(node, "weight") is None
    assert internals.shape_made_by(node) == ()
    assert internals.shape_made_by((scores + 1).grad_fn) == (3, 1)
    loss.backward()
    assert internals.kept_for_backward(node, "target") is None


# ---- schedulers ------------------------------------------------------------------------------


def sgd(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def test_the_parts_of_compositions():
    optimizer = sgd()
    one, two = (lr_scheduler.ConstantLR(optimizer, 0.5, 3) for _ in range(2))
    assert internals.parts_of(lr_scheduler.ChainedScheduler([one, two])) == [one, two]
    sequence = lr_scheduler.SequentialLR(optimizer, [one, two], milestones=[4])
    assert internals.parts_of(sequence) == [one, two]
    assert internals.milestones_of(sequence) == [4]


def test_whether_a_cycle_has_a_function_of_the_users_own():
    plain = lr_scheduler.CyclicLR(sgd(), 0.1, 1.0)
    own = lr_scheduler.CyclicLR(sgd(), 0.1, 1.0, scale_fn=lambda x: 0.5)
    assert internals.own_scale_of(plain) is None
    assert internals.own_scale_of(own) is not None


@given(
    st.integers(10, 200), st.floats(0.2, 0.45), st.booleans(), st.sampled_from(["cos", "linear"])
)
def test_the_phases_of_one_cycle(steps, share, three, way):
    cycle = lr_scheduler.OneCycleLR(
        sgd(), 1.0, steps, pct_start=share, three_phase=three, anneal_strategy=way
    )
    phases = internals.phases_of(cycle)
    assert len(phases) == 2 + three
    assert phases[0]["end_step"] == pytest.approx(share * steps - 1)
    assert phases[-1]["end_step"] == steps - 1
    assert internals.annealing_of(cycle) == way


def test_torchs_compositions_drive_a_scheduler_of_ours():
    class Tenth(internals.ComposableScheduler):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.asked: list[int | None] = []
            super().__init__(optimizer)

        def get_lr(self) -> list[float]:
            return [0.1]

        def get_last_lr(self) -> list[float]:
            return [0.1]

        def follow(self, step: int | None) -> None:
            self.asked.append(step)
            self.last_epoch = self.last_epoch + 1 if step is None else step

    optimizer = sgd()
    own = Tenth(optimizer)
    before = own._calls
    own._calls += 1
    assert own.state_dict()["_step_count"] == before + 1
    own.asked.clear()
    first = lr_scheduler.ConstantLR(optimizer, 0.5, 2)
    whole = lr_scheduler.SequentialLR(optimizer, [first, own], milestones=[2])
    for _ in range(3):
        optimizer.step()
        whole.step()
    assert own.asked == [0, None]
    assert whole.get_last_lr() == [0.1]


# ---- nested values, tracing, compiling -------------------------------------------------------


def test_nested_values_come_apart_and_together():
    tree = {"a": [1, (2, None)], "b": torch.return_types.max((torch.ones(1), torch.zeros(1)))}
    leaves, shape = internals.flattened(tree)
    assert leaves[:2] == internals.leaves_of(tree)[:2] == [1, 2]
    back = internals.unflattened(leaves, shape)
    assert back["a"] == [1, (2, None)]
    assert back["b"].values.item() == 1


def test_a_traced_function_gives_the_same_bits():
    def function(a: Tensor, b: Tensor) -> list[Tensor]:
        return [torch.sin(a) * b, a + 1]

    leaves = [torch.randn(5), torch.randn(5)]
    graph = internals.traced(function, leaves)
    assert len(graph.graph.nodes) >= 5
    for one, other in zip(graph(*leaves), function(*leaves), strict=True):
        assert torch.equal(one, other)


def test_compiling_leaves_the_users_logger_alone(monkeypatch):
    import torch._inductor

    logger, seen = logging.getLogger("torch._inductor"), []

    def compiler(graph: Any, leaves: list[Any]) -> Any:
        seen.append(logger.level)
        return graph

    monkeypatch.setattr(torch._inductor, "compile", compiler)
    before = logger.level
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    graph = internals.traced(torch.sin, [torch.ones(1)])
    assert internals.compiled(graph, [torch.ones(1)])(torch.ones(1)) == torch.sin(torch.ones(1))
    assert logger.level == logging.DEBUG
    assert seen == [logging.ERROR]
    logger.setLevel(before)


@pytest.mark.slow
def test_the_compiler_compiles_and_forgets_its_threads():
    graph = internals.traced(lambda x: [torch.sin(x) + 1], [torch.ones(3)])
    function = internals.compiled(graph, [torch.ones(3)])
    assert torch.allclose(function(torch.ones(3))[0], torch.sin(torch.ones(3)) + 1)
    from torch._inductor.async_compile import AsyncCompile

    before = AsyncCompile.pool()
    internals.forget_compiler_threads()
    assert AsyncCompile.pool() is not before


# ---- where a part is missing -------------------------------------------------------------------


def test_a_part_that_is_missing_is_named_with_torchs_version():
    message = rf"^torch {re.escape(torch.__version__)} has no SequentialLR\._milestones, .*pip ins"
    with pytest.raises(MissingExtraError, match=message):
        internals.milestones_of(object())


@pytest.mark.parametrize(
    ("call", "gone"),
    [
        (lambda: internals.flattened([1]), "torch.utils._pytree"),
        (lambda: internals.traced(torch.sin, [torch.ones(1)]), "torch.fx.experimental.proxy_ten"),
        (lambda: internals.compiled(None, []), "torch._inductor"),
    ],
)
def test_a_module_that_is_missing_is_named(monkeypatch, call, gone):
    def without(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(internals.importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=rf"has no {re.escape(gone)}"):
        call()


# ---- the user's loggers -------------------------------------------------------------------------


@given(st.sampled_from([0, 5, 10, 20, 30, 40, 50, 60]), st.sampled_from([10, 30, 40]))
def test_a_logger_is_never_made_louder_and_always_given_back(level, wanted):
    from etude.warning_filters import logger_kept

    logger = logging.getLogger("etude.test.of.loggers")
    logger.setLevel(level)
    heard = logger.getEffectiveLevel()
    with suppress(ZeroDivisionError), logger_kept(logger.name, wanted):
        assert logger.getEffectiveLevel() == max(heard, wanted)
        _ = 1 / 0
    assert logger.level == level


def test_an_optuna_study_leaves_its_logger_alone():
    optuna = pytest.importorskip("optuna")
    from etude.tuning.recipes.selector import _study

    logger = logging.getLogger("optuna")
    before = logger.level
    try:
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its sampler is called experimental
            _study(0, 4)
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)
