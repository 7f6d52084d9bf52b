"""Structured pruning: the smaller network computes what the whole one does without the channels."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from etude import tasks
from etude.compression.channels import OUTPUT, channel_groups
from etude.compression.structured import remove_channels, resize
from etude.errors import BadValueError, StorageError
from tests.compression.common import Reader, Residual, Tied, cnn, inputs, mlp


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw weights, and statistics of batch norms that are not those of a new network."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=g) + 0.1)
                if tensor.ndim > 1:
                    tensor.sub_(0.6)
    return model.eval()


def without(model: nn.Module, share: float, x: Tensor) -> nn.Module:
    """Return the whole network, whose readers ignore the channels that `share` removes."""
    whole, small = copy.deepcopy(model), copy.deepcopy(model)
    groups, _ = channel_groups(whole, [x])
    remove_channels(small, share, [x])
    before, after = dict(whole.named_modules()), dict(small.named_modules())
    unread = []
    with torch.no_grad():
        for group in groups:
            if not group.fixed:
                weights = [before[name].weight.flatten(1) for name in group.makers]
                rows = after[group.makers[0]].weight.shape[0]
                norms = torch.cat(weights, 1).norm(dim=1)
                unread.append((group, norms.argsort()[: len(norms) - rows]))
        for group, gone in unread:
            for name, each in group.readers:
                columns = (gone[:, None] * each + torch.arange(each)).flatten()
                before[name].weight[:, columns] = 0.0
    return whole


@given(
    st.floats(0, 0.99),
    st.sampled_from([cnn, mlp, Residual]),
    st.integers(0, 50),
)
@settings(max_examples=25, deadline=None)
def test_what_is_removed_is_what_no_layer_reads(share, build, seed):
    model = drawn(build(), seed)
    small = copy.deepcopy(model)
    removal = remove_channels(small, share, [inputs()])
    assert not removal.masks
    with torch.no_grad():
        torch.testing.assert_close(small(inputs()), without(model, share, inputs())(inputs()))
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    assert count(small) < count(model) or not removal.sizes


def test_channels_that_are_added_go_together():
    model = drawn(Residual())
    groups, reason = channel_groups(model, [inputs()])
    assert not reason
    by_maker = {tuple(group.makers): group for group in groups}
    assert set(by_maker) == {("stem", "second"), ("first",), ("head",)}
    assert by_maker["stem", "second"].norms == ["stem_norm"]
    assert dict(by_maker["stem", "second"].readers) == {"first": 1, "head": 1}
    assert by_maker["first",].norms == ["norm"]
    assert by_maker["head",].fixed == OUTPUT


def test_the_shapes_of_a_smaller_network_and_of_a_new_one_made_to_fit():
    model = drawn(cnn())
    sizes = remove_channels(model, 0.5, [inputs()]).sizes
    assert model[0].weight.shape == (4, 1, 3, 3)
    assert model[1].num_features == len(model[1].running_mean) == 4
    assert model[4].weight.shape == (4, 4, 3, 3)
    assert model[7].weight.shape == (8, 36)
    assert model[9].weight.shape == (2, 8)
    fresh = cnn()
    resize(fresh, sizes)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(inputs()), model(inputs()))
    assert repr(fresh) == repr(model)


def test_at_least_one_channel_stays():
    model = drawn(mlp())
    remove_channels(model, 0.999, [inputs()])
    assert [model[i].out_features for i in (1, 3, 5)] == [1, 1, 2]


@pytest.mark.parametrize("name", ["digits-cnn", "digits-resnet", "digits-mlp", "patches-cnn-lstm"])
def test_bundled_networks_get_smaller(name):
    one = tasks.get(name)
    batch, _ = next(one.valid.sweep(4))
    torch.manual_seed(0)
    model = one.build().eval()
    before = sum(p.numel() for p in model.parameters())
    removal = remove_channels(model, 0.5, list(batch)[:-1])
    assert removal.sizes
    assert sum(p.numel() for p in model.parameters()) < before
    model(*list(batch)[:-1])


class Softened(nn.Module):
    """A model whose output is a function of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(36, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(torch.relu(self.hidden(x.flatten(1)))), dim=-1)


class Sorted(Softened):
    """Channels go through a function that mixes them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(1)).sort(dim=1).values)


class Branching(Softened):
    """What is computed depends on the numbers, so that no graph can be followed."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.hidden(x.flatten(1))
        return self.head(y if y.sum() > 0 else -y)


def test_no_class_of_the_output_is_removed():
    model = drawn(Softened())
    assert not remove_channels(model, 0.5, [inputs()]).masks
    assert (model.hidden.out_features, model.head.out_features) == (4, 2)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (Sorted, "goes into sort, where a channel cannot be removed"),
        (Branching, "its graph cannot be followed"),
    ],
)
def test_where_the_graph_does_not_allow_it_the_weights_are_masked_and_it_is_said(build, why):
    model = drawn(build())
    removal = remove_channels(model, 0.5, [inputs()])
    assert not removal.sizes
    assert set(removal.masks) == {"hidden.weight"}
    assert set(removal.reasons) == {"hidden"}
    assert why in removal.reasons["hidden"]
    kept = removal.masks["hidden.weight"]
    assert kept.shape == (8, 36)
    assert int(kept.all(1).sum()) == int(kept.any(1).sum()) == 4


def test_tied_weights_are_left_whole():
    model = drawn(Tied())
    x = torch.arange(6).view(2, 3)
    removal = remove_channels(model, 0.5, [x])
    assert not removal.sizes
    assert set(removal.masks) == {"hidden.weight"}


def test_units_of_recurrent_layers_are_left_whole_and_it_is_said():
    model = nn.Sequential(nn.Flatten(2), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 6))
    assert remove_channels(drawn(model), 0.5, [inputs()]).sizes
    with pytest.raises(BadValueError, match="no layer whose channels can be removed"):
        remove_channels(drawn(Reader()), 0.5, [inputs()])


@pytest.mark.parametrize("model", [nn.Linear(36, 2), nn.ReLU(), nn.Sequential(nn.Linear(6, 2))])
def test_a_model_without_channels_to_remove_is_refused(model):
    with pytest.raises(BadValueError, match="no layer whose channels can be removed"):
        remove_channels(
            drawn(model), 0.5, [inputs().flatten(1)[:, : getattr(model, "in_features", 6)]]
        )


@pytest.mark.parametrize(
    "sizes",
    [
        {"9": {"out_features": 0}},
        {"9": {"out_features": 3}},
        {"9": {"out_features": True}},
        {"9": {"out_features": "2"}},
        {"9": {"bias": 1}},
        {"9": 3},
        {"99": {"out_features": 1}},
        {"2": {"inplace": 1}},
        {"1": {"num_features": 9}},
    ],
)
def test_sizes_of_a_stranger_are_checked(sizes):
    with pytest.raises(StorageError, match=r"do not fit the task's model|is not between 1 and"):
        resize(cnn(), sizes)
