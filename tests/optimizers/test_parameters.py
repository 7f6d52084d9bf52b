"""Every row with every kind of parameter: complex, grouped, sparse, empty, of any dtype."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.optimizers import ROWS, build
from etude.optimizers.state import restore
from etude.storage.state_tree import flatten, tensors_in, unflatten
from tests.helpers import INSTALLED, take_step

NAMES = [row.name for row in INSTALLED]
COMPLEX = [row.name for row in INSTALLED if row.complex_numbers]


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(name: str, parameters: list[nn.Parameter], **values: object) -> torch.optim.Optimizer:
    row = ROWS[name]
    optimizer = build(name, parameters, lr=min(0.1, 10**row.centre), **values)
    if row.eval_mode:
        optimizer.train()
    return optimizer


def go(name: str, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    take_step(optimizer, ROWS[name].closure, loss)


# ---- complex numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPLEX)
def test_a_complex_number_is_trained_as_the_two_real_ones_it_is_made_of(name):
    starts = [
        drawn(3, 4, seed=0, dtype=torch.complex128),
        drawn(4, 2, seed=1, dtype=torch.complex128),
    ]
    goal = drawn(3, 2, seed=2, dtype=torch.complex128)
    values = (
        {"weight_decay": 0.1} if ROWS[name].sparse == "no" and ROWS[name].decay != "none" else {}
    )
    ends = []
    for split in (False, True):
        parameters = [nn.Parameter(torch.view_as_real(s) if split else s.clone()) for s in starts]
        parameters = [nn.Parameter(p.detach().clone()) for p in parameters]
        optimizer = made(name, parameters, **values)

        def loss(parameters=parameters, split=split) -> Tensor:
            a, b = (torch.view_as_complex(p) if split else p for p in parameters)
            return (a @ b - goal).abs().square().sum() + (b.real - 2 * b.imag).square().sum()

        for _ in range(5):
            go(name, optimizer, loss)
        ends.append([p.detach() if split else torch.view_as_real(p.detach()) for p in parameters])
    for one, other, start in zip(*ends, starts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert not torch.equal(one, torch.view_as_real(start))


@pytest.mark.parametrize("name", [row.name for row in INSTALLED if not row.complex_numbers])
def test_complex_numbers_are_refused_by_name(name):
    model = nn.Linear(2, 2, dtype=torch.complex64)
    message = (
        rf"^{name} does not take complex parameters, and 'weight' and 'bias' is complex: use sgd"
    )
    with pytest.raises(TaskError, match=message):
        build(name, model, lr=0.1)
    with pytest.raises(TaskError, match=f"^{name} does not take complex parameters, and one is"):
        build(name, [nn.Parameter(torch.ones(2, dtype=torch.complex64))], lr=0.1)


@pytest.mark.parametrize("name", COMPLEX)
def test_a_complex_state_survives_the_safe_formats(name):
    parameters = [nn.Parameter(drawn(3, 2, seed=0, dtype=torch.complex64))]
    optimizer = made(name, parameters)
    twins: list[nn.Parameter] = []

    def loss(of: list[nn.Parameter]) -> Callable[[], Tensor]:
        return lambda: (of[0] - 2j).abs().square().sum()

    for _ in range(3):
        go(name, optimizer, loss(parameters))
    twins = [nn.Parameter(p.detach().clone()) for p in parameters]
    again = made(name, twins)
    restore(again, unflatten(*flatten(optimizer.state_dict())))
    for _ in range(3):
        go(name, optimizer, loss(parameters))
        go(name, again, loss(twins))
    assert torch.equal(parameters[0], twins[0])


# ---- counts of updates ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [row.name for row in INSTALLED if row.in_turns])
def test_a_parameter_that_skips_updates_is_as_if_alone(name):
    """In one group or another, later or sooner: each parameter counts its own updates."""
    if name == "adagrad" and torch.optim.Adagrad([nn.Parameter(torch.zeros(1))]).state:
        pytest.skip("this torch's Adagrad has no state for a group that joins later")
    starts = [drawn(3, 4, seed=i) for i in range(3)]
    used = ([0, 1, 2, 3, 4], [1, 3], [2, 3, 4])

    def gradient(index: int, step: int) -> Tensor:
        return drawn(3, 4, seed=10 * index + step + 100)

    alone = []
    for index, start in enumerate(starts):
        parameter = nn.Parameter(start.clone())
        optimizer = made(name, [parameter])
        for step in used[index]:
            parameter.grad = gradient(index, step)
            optimizer.step()
        alone.append(parameter.detach())
    together = [nn.Parameter(start.clone()) for start in starts]
    optimizer = made(name, together[:2])
    for step in range(5):
        if step == 2:
            optimizer.add_param_group({"params": together[2:]})
        for index, parameter in enumerate(together):
            parameter.grad = gradient(index, step) if step in used[index] else None
        optimizer.step()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-14)


def test_lamb_goes_on_from_a_state_that_counted_whole_groups():
    parameters = [nn.Parameter(drawn(3, 4, seed=0))]
    new, old = made("lamb", parameters), made("lamb", parameters)
    parameters[0].grad = drawn(3, 4, seed=1)
    for _ in range(3):
        new.step()
    state = copy.deepcopy(new.state_dict())
    state["state"][0].pop("step")
    state["param_groups"][0]["step"] = 3
    restore(old, state)
    old.step()
    assert old.state[parameters[0]]["step"] == 4


@pytest.mark.parametrize("name", ["lbfgs", "newton", "newton_cg"])
def test_a_second_group_is_refused_now_or_later(name):
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    message = f"{name} solves for all parameters at once: give one group"
    with pytest.raises(BadValueError, match=message):
        build(name, [{"params": [one]}, {"params": [other]}])
    optimizer = build(name, [one])
    with pytest.raises(BadValueError, match=message):
        optimizer.add_param_group({"params": [other]})


# ---- rates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_as_rate_gives_what_its_number_gives_or_is_refused(name):
    ends, rate = [], min(0.1, 10 ** ROWS[name].centre)
    for lr in (rate, torch.tensor(rate, dtype=torch.float64)):
        parameters = [nn.Parameter(drawn(*shape, seed=0)) for shape in ((4, 3), (3,))]
        if isinstance(lr, Tensor) and ROWS[name].why_no_tensor:
            with pytest.raises(BadTypeError, match=rf"{name} takes no tensor as a rate, .*lr=\d"):
                build(name, parameters, lr=lr)
            with pytest.raises(BadTypeError, match="takes no tensor as a rate"):
                build(name, [{"params": parameters, "lr": lr}], lr=rate)
            return
        optimizer = build(name, parameters, lr=lr)
        if ROWS[name].eval_mode:
            optimizer.train()
        for _ in range(4):
            go(name, optimizer, lambda p=parameters: (p[0] @ p[1] - 1).square().sum())
        assert float(optimizer.param_groups[0]["lr"]) == rate
        ends.append([p.detach() for p in parameters])
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_soap_needs_an_epsilon():
    """Without one it divides rounding by rounding where no gradient has a part."""
    with pytest.raises(BadValueError, match=r"soap\.eps=0.* is out of bounds: give a number > 0"):
        build("soap", [nn.Parameter(drawn(2, 2, seed=0))], eps=0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_an_estimated_rate_needs_weights_that_show_small_moves(name, dtype):
    parameters = [nn.Parameter(drawn(3, 2, seed=0).to(dtype))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(name, parameters)
    said = [str(one.message) for one in caught if "estimates its rate" in str(one.message)]
    estimates = name in {"prodigy", "dadapt_adam"}
    assert bool(said) == (estimates and dtype in (torch.bfloat16, torch.float16))
    assert all(f"{name} " in one and str(dtype)[6:] in one for one in said)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prodigy_moves_little_in_bfloat16_which_is_what_the_warning_says(dtype):
    pytest.importorskip("prodigyopt")
    torch.manual_seed(0)
    x, y = drawn(200, 16, seed=1), drawn(200, 1, seed=2)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)).to(dtype)
    x, y = x.to(dtype), (x[:, :1].abs() + 0.1 * y).to(dtype)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = build("prodigy", model)
    for _ in range(40):
        go("prodigy", optimizer, lambda: (model(x) - y).square().mean())
    moved = (nn.utils.parameters_to_vector(model.parameters()).detach().float() - before).norm()
    assert (moved > 1) == (dtype == torch.float32)


# ---- sizes, layouts, dtypes ----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_no_and_of_one_number(name):
    shapes = ((3, 2), (0, 3), (), (1, 1), (0,))
    parameters = [nn.Parameter(drawn(*s, seed=1)) for s in shapes]
    optimizer = made(
        name, parameters, **({"d0": 1e-2} if "d0" in ROWS[name].hyperparameters else {})
    )
    before = [p.detach().clone() for p in parameters]
    for _ in range(3):
        go(name, optimizer, lambda: sum((p - 3).square().sum() for p in parameters))
    moved = [not torch.equal(p, b) for p, b in zip(parameters, before, strict=True)]
    assert moved == [True, False, True, True, False]
    with pytest.raises(TaskError, match="no trainable parameter: all have 0 elements"):
        build(name, parameters[1:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_states_of_any_precision_come_back_to_the_bit(name, dtype):
    start = drawn(4, 6, seed=0).to(dtype).T  # in column-major order
    extra = {"precondition_frequency": 1} if name == "soap" else {}
    parameters = [nn.Parameter(start.clone())]
    optimizer = made(name, parameters, **extra)

    def loss(of: list[nn.Parameter]) -> Callable[[], Tensor]:
        return lambda: 0.01 * (of[0] @ of[0].T - 1).square().sum()

    for _ in range(4):
        go(name, optimizer, loss(parameters))
    twins = [nn.Parameter(p.detach().clone()) for p in parameters]
    again = made(name, twins, **extra)
    restore(again, unflatten(*flatten(optimizer.state_dict())))
    pairs = zip(tensors_in(optimizer.state_dict()), tensors_in(again.state_dict()), strict=True)
    for one, other in pairs:
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())
        assert torch.equal(one, other)
    for _ in range(3):
        go(name, optimizer, loss(parameters))
        go(name, again, loss(twins))
    assert torch.equal(parameters[0], twins[0])


def test_lbfgs_takes_weights_in_another_order():
    starts = drawn(2, 3, 4, 4, seed=0)
    ends = []
    for order in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(starts.clone().to(memory_format=order))
        optimizer = made("lbfgs", [parameter])
        for _ in range(3):
            go("lbfgs", optimizer, lambda p=parameter: (p**4 - p).sum())
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[0], ends[1])


def test_a_line_search_without_room_says_so():
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float16))
    optimizer = made("lbfgs", [parameter])

    def closure() -> Tensor:
        raise ZeroDivisionError("float division by zero")

    with pytest.raises(TaskError, match="lbfgs cannot resolve a smaller step in float16"):
        optimizer.step(closure)


def test_a_sparse_momentum_survives_the_safe_formats():
    tables = [nn.Embedding(6, 2, sparse=True) for _ in range(2)]
    optimizers = [build("sgd", t, lr=0.1, momentum=0.9) for t in tables]

    def update(index: int, words: list[int]) -> None:
        optimizers[index].zero_grad()
        tables[index](torch.tensor(words)).square().sum().backward()
        optimizers[index].step()

    for words in ([1, 2, 1], [5]):
        update(0, words)
    tables[1].load_state_dict(tables[0].state_dict())
    restore(optimizers[1], unflatten(*flatten(optimizers[0].state_dict())))
    for index in (0, 1):
        update(index, [2, 3])
    assert torch.equal(tables[0].weight, tables[1].weight)
