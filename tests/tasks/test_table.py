import math
import subprocess
import sys

import pytest
import torch

from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.recipe import Recipe
from etude.tasks import Task, get, load, rows

BUNDLED = [row for row in rows() if "bundled" in row.factory.data]
NAMES = [row.name for row in BUNDLED]
each = pytest.mark.parametrize("name", NAMES)


def model_of(name, seed=0, **options):
    torch.manual_seed(seed)
    return get(name, **options).build()


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_the_names_are_those_promised():
    assert set(NAMES) == {
        *(f"digits-{m}" for m in ("mlp", "deep-mlp", "cnn", "resnet", "rnn", "lstm", "gru")),
        "digits-transformer",
        "digits-autoencoder",
        "digits-vqa",
        "cancer-mlp",
        "diabetes-mlp",
        "patches-cnn",
        "patches-resnet",
        "patches-cnn-lstm",
        "text-lstm",
        "text-gru",
        "text-transformer",
    }
    assert len({row.name for row in rows()}) == len(rows())


def test_rows_say_what_they_are():
    for row in rows():
        assert row.name.startswith(f"{row.data}-")
        assert row.name.endswith(row.family.replace("_", "-"))
        assert 10 < len(row.summary) < 90
        with pytest.raises(AttributeError, match="cannot assign"):
            row.name = "other"


@each
def test_builds_and_learns(name):
    task = get(name)
    assert isinstance(task, Task)
    assert (task.name, task.summary) == (name, next(r.summary for r in rows() if r.name == name))
    torch.manual_seed(0)
    model = task.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = task.train.take(torch.arange(32))
    losses = []
    for _ in range(12):
        loss, _, _ = task.forward(model, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


@each
def test_metric_reads_the_validation_data(name):
    task = get(name)
    model = task.build().eval()
    with torch.no_grad():
        _, output, target = task.forward(model, task.valid.take(torch.arange(20)))
    value = task.metric.value(task.metric.sums(output, target).tolist())
    assert isinstance(value, float)
    assert math.isfinite(value)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_default_recipe_is_valid(row):
    recipe = Recipe(**row.factory.defaults)
    assert recipe.lr == row.factory.defaults["lr"]


@each
def test_builds_the_same_network_from_the_same_seed(name):
    first, second = model_of(name), model_of(name)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@each
def test_options_of_the_model_act(name):
    assert count(model_of(name, width=8)) < count(model_of(name))
    assert count(model_of(name, depth=3)) != count(model_of(name, depth=2))
    dropped = [m for m in model_of(name, dropout=0.5).modules() if "Dropout" in type(m).__name__]
    assert {m.p for m in dropped} == {0.5}
    drawn = model_of(name, initialisation="orthogonal")
    assert not torch.equal(drawn.head.weight, model_of(name).head.weight)


@each
def test_every_option_is_offered_with_its_value(name):
    row = next(row for row in rows() if row.name == name)
    options = row.factory.options()
    assert {"depth", "width", "activation", "normalisation", "residual"} <= set(options)
    assert not {"inputs", "outputs", "vocabulary", "channels", "causal"} & set(options)
    explicit = get(name, **options)
    assert count(explicit.build()) == count(get(name).build())


def test_options_of_the_data_act():
    assert get("digits-cnn", valid_share=0.5).valid.samples == 898
    assert get("text-gru", context=16).train.tensors[0].shape[1] == 16
    assert get("patches-cnn", size=24, bands=2).build().head.out_features == 4


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    get("digits-cnn")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_digits_cnn_reaches_98_percent_at_a_good_rate():
    torch.manual_seed(1)
    task = get("digits-cnn")
    model = task.build()
    steps = task.defaults["steps"]
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.05
    )
    for _ in range(steps):
        index = torch.randint(task.train.samples, (task.defaults["batch_size"],))
        loss, _, _ = task.forward(model, task.train.take(index))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        _, output, target = task.forward(model, task.valid.tensors)
    assert (output.argmax(-1) == target).float().mean().item() >= 0.98


def test_refusals():
    with pytest.raises(
        UnknownNameError, match="unknown task 'digit-cnn': did you mean 'digits-cnn'"
    ):
        get("digit-cnn")
    with pytest.raises(
        UnknownNameError, match=r"the task 'digits-cnn' has no option 'witdh': did you mean 'width'"
    ):
        get("digits-cnn", witdh=3)
    with pytest.raises(UnknownNameError, match="'normalization': did you mean 'normalisation'"):
        get("digits-cnn", normalization="batch")
    with pytest.raises(UnknownNameError, match="the task 'digits-cnn' has no option 'outputs'"):
        get("digits-cnn", outputs=3)
    with pytest.raises(BadValueError, match="width=0 is out of bounds"):
        get("digits-cnn", width=0)
    with pytest.raises(BadTypeError, match="valid_share='half' is a str"):
        get("digits-cnn", valid_share="half")


def test_the_table_loads_without_torch():
    code = (
        "import sys, etude.tasks as t; names = [r.name for r in t.rows()]; "
        "heavy = {'torch', 'sklearn', 'numpy', 'datasets'} & set(sys.modules); "
        "assert names and not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_room_offers_its_names():
    import etude.tasks

    assert dir(etude.tasks) == sorted(etude.tasks.__all__)
    for name in etude.tasks.__all__:
        assert getattr(etude.tasks, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'tsak'"):
        _ = etude.tasks.tsak


@pytest.mark.parametrize("name", ["self", "name", "reference", "options"])
def test_an_option_of_any_name_is_an_option(name):
    with pytest.raises(UnknownNameError, match=f"the task 'cancer-mlp' has no option '{name}'"):
        load("cancer-mlp", **{name: 1})


def test_a_size_beyond_any_memory_is_refused_in_one_line():
    with pytest.raises(BadValueError, match="give a whole number, from 1 to 2147483648") as caught:
        load("cancer-mlp", width=10**400)
    assert "\n" not in str(caught.value)
