"""Seeds that are independent by name, and a global state that is nobody's but the caller's."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etude.randomness import RandomState, derive_seed, random_state_kept, seed_everything
from etude.storage.state_tree import flatten, unflatten
from etude.training.state.rng import RunRandomness

seeds = st.integers(0, 2**63 - 1)
paths = st.lists(st.one_of(st.integers(0, 1000), st.sampled_from(["init", "order", "noise"])))


def draw() -> tuple[float, ...]:
    return (random.random(), np.random.rand(), np.random.randn(), float(torch.rand(())))  # noqa: NPY002


@given(seeds, paths)
def test_a_derived_seed_is_a_stable_63_bit_number(seed, path):
    assert derive_seed(seed, *path) == derive_seed(seed, *path)
    assert 0 <= derive_seed(seed, *path) < 2**63


def test_derived_seeds_differ_by_seed_and_by_every_part_of_the_path():
    uses = [(s, *path) for s in range(20) for path in [("init",), ("noise",), ("order", 0)]]
    uses += [(s, "order", e) for s in range(20) for e in range(1, 50)]
    assert len({derive_seed(*use) for use in uses}) == len(uses)


def test_derived_seeds_are_the_same_on_every_machine():
    # Written down once: a change of these numbers changes every run that was ever recorded.
    assert derive_seed(0, "init") == 7797302695267191734
    assert derive_seed(0, "order", 3) == 228291028133782092
    assert derive_seed(2**63 - 1, "noise") == 3731054669995316762


@given(seeds)
def test_one_seed_sets_every_generator(seed):
    with random_state_kept():
        seed_everything(seed)
        first = draw()
        draw()
        seed_everything(seed)
        assert draw() == first


@given(seeds)
def test_one_seed_gives_the_numbers_of_each_library(seed):
    with random_state_kept():
        seed_everything(seed)
        found = draw()
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        assert draw() == found


def test_two_seeds_give_other_numbers_in_every_generator():
    with random_state_kept(1):
        one = draw()
    with random_state_kept(2):
        two = draw()
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_a_kept_state_goes_on_as_if_nothing_had_been_drawn():
    with random_state_kept(7):
        expected = draw()
    with random_state_kept(7):
        with random_state_kept(3):
            draw()
        with pytest.raises(ZeroDivisionError, match="division"), random_state_kept(4):
            draw() and 1 / 0
        assert draw() == expected


@given(seeds, st.integers(0, 5), st.booleans())
def test_a_state_survives_the_checkpoint_format(seed, draws, gauss):
    with random_state_kept(seed):
        for _ in range(draws):
            draw()
        if gauss:  # the second half of a pair waits inside Python's and NumPy's generators
            random.gauss(0, 1)
            np.random.randn()  # noqa: NPY002
        state = RandomState.capture()
        expected = (*draw(), random.gauss(0, 1), np.random.randn())  # noqa: NPY002
        draw()
        RandomState.from_tree(unflatten(*flatten(state.tree()))).restore()
        assert (*draw(), random.gauss(0, 1), np.random.randn()) == expected  # noqa: NPY002


class Gpus:
    """Notes what is written to GPUs that this machine does not have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.states: dict[int, Tensor] = {}
        self.seeds: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(
            torch.cuda, "set_rng_state", lambda state, place: self.states.update({place: state})
        )
        monkeypatch.setattr(torch.cuda, "manual_seed_all", self.seeds.append)


STATES = tuple(torch.tensor([place], dtype=torch.uint8) for place in range(3))


def test_a_state_of_more_gpus_than_there_are_is_restored_on_those(monkeypatch):
    state = replace(RandomState.capture(), accelerators=STATES)
    gpus = Gpus(monkeypatch, 2)
    state.restore()
    assert gpus.states == {0: STATES[0], 1: STATES[1]}
    assert not gpus.seeds


def test_a_gpu_that_was_not_in_use_gets_the_seed_of_its_caller(monkeypatch):
    with random_state_kept():
        torch.manual_seed(5)
        gpus = Gpus(monkeypatch, 1)
        with random_state_kept(0):  # a run begins, and takes a GPU into use
            pass
        assert (gpus.seeds[-1], gpus.states) == (5, {})


def test_a_run_goes_on_on_gpus_of_which_its_state_knows_nothing():
    own = RunRandomness(0)
    assert own._state is not None
    own._state = replace(own._state, accelerators=STATES)
    for known in range(4):
        others = [state + 10 for state in (*STATES, STATES[0])[:known]]
        own.load({**own.tree(), "accelerators": others})
        assert own.tree()["accelerators"] == [*others, *STATES[known:]]
        own._state = replace(own._state, accelerators=STATES)
