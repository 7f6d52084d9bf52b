"""Studies on MNIST, CIFAR-10 and ImageNet: the hub's files, named in the plan's own file."""

import datasets
import numpy as np
import pytest
from PIL import Image

from etude.studies.plan import StudyPlan
from etude.studies.study import study

CLASSES = 10


def pictures(folder, name, *, size, mode, column):
    """Write pictures in the layout of the hub: one colour for each class."""
    features = datasets.Features(
        {column: datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)}
    )
    labels = [i % CLASSES for i in range(80)]
    shape = (size, size) if mode == "L" else (size, size, 3)
    rows = {
        column: [
            Image.fromarray(np.full(shape, 20 * label + i % 8, np.uint8), mode)
            for i, label in enumerate(labels)
        ],
        "label": labels,
    }
    folder.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / name)


@pytest.mark.parametrize(
    ("task", "size", "mode", "column", "options"),
    [
        ("mnist-cnn", 28, "L", "image", "width = 4"),
        ("cifar10-cnn", 32, "RGB", "img", "width = 4"),
        ("cifar10-resnet", 32, "RGB", "img", "width = 4, depth = 1"),
    ],
)
def test_a_plan_names_the_data_of_the_hub(tmp_path, monkeypatch, task, size, mode, column, options):
    monkeypatch.setenv("ETUDE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    pictures(tmp_path / "data", "train.parquet", size=size, mode=mode, column=column)
    file = tmp_path / "rates.toml"
    source = str(tmp_path / "data")
    file.write_text(
        f"tasks = '{task}'\nmodels = [{{source = '{source}', {options}}}]\n"
        "optimizers = 'adam'\nlrs = [0.001, 0.03]\nbatch_sizes = 16\nsteps = 40\n"
    )
    plan = StudyPlan.load(file)
    found = study(plan, storage=tmp_path / "s.db", engine="loop", progress=False)
    assert [str(row.state) for row in found.rows] == ["done"] * 2
    assert [row.lr for row in found.rows] == [0.001, 0.03]
    assert {dict(row.kind.settings)["source"] for row in found.rows} == {source}
    assert min(row.loss for row in found.rows) < 0.9 * found.rows[0].untrained_loss
