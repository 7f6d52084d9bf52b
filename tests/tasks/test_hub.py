import io
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from etude.errors import BadTypeError, BadValueError, MissingExtraError, TaskError, UnknownNameError
from etude.tasks import get, rows
from etude.tasks.images import hub, image_source


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def picture(label, i, size=28, mode="L"):
    """An image whose mean brightness tells its label."""
    shape = (size, size) if mode == "L" else (size, size, 3)
    noise = np.random.default_rng(1000 * label + i).integers(0, 20, shape)
    return Image.fromarray((20 * label + noise).astype(np.uint8), mode)


def png(image):
    with io.BytesIO() as file:
        image.save(file, "png")
        return file.getvalue()


def records(count, classes, *, image="image", **kind):
    labels = [i % classes for i in range(count)]
    return {
        image: [picture(label, i, **kind) for i, label in enumerate(labels)],
        "label": labels,
    }


def dataset(count=60, classes=10, *, image="image", **kind):
    features = datasets.Features(
        {
            image: datasets.Image(),
            "label": datasets.ClassLabel(names=[f"class {i}" for i in range(classes)]),
        }
    )
    return datasets.Dataset.from_dict(
        records(count, classes, image=image, **kind), features=features
    )


def image_folder(root, splits, classes=3, count=12, **kind):
    for split in splits:
        for i in range(count):
            folder = root / split / f"class{i % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            picture(i % classes, i, **kind).save(folder / f"{i:03}.png")
    return root


def finite_step(task, batch_size=4):
    model = task.build()
    batch = task.train.take(torch.arange(batch_size))
    loss, _, _ = task.forward(model, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_repositories_and_columns_are_the_hubs_own():
    found = {(h.repository, h.image, h.label, h.classes) for h in (hub.MNIST, hub.CIFAR10)}
    assert found == {
        ("ylecun/mnist", "image", "label", 10),
        ("uoft-cs/cifar10", "img", "label", 10),
    }
    assert hub.IMAGENET.repository == "ILSVRC/imagenet-1k"
    assert hub.IMAGENET.gated


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-mlp"])
def test_mnist_from_parquet_of_the_hubs_layout(tmp_path, name):
    dataset(60).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    dataset(20).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    task = get(name, source=str(tmp_path))
    assert (task.train.samples, task.valid.samples) == (50, 10)
    x, y = task.train.tensors
    assert x.shape == (50, 1, 28, 28)
    assert y.dtype == torch.long
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    finite_step(task)
    judged = get(name, source=str(tmp_path), valid_split="test")
    assert (judged.train.samples, judged.valid.samples) == (60, 20)


def test_pixels_arrive_as_they_were_saved(tmp_path):
    dataset(20).to_parquet(tmp_path / "one.parquet")
    train, valid = hub._splits(
        hub.MNIST,
        source=str(tmp_path / "one.parquet"),
        valid_split="holdout",
        valid_share=0.25,
        split_seed=0,
        limit=None,
    )
    seen = []
    for part in (train, valid):
        pixels = hub._pixels(part, "L", 28)
        for image, label in zip(pixels, part.labels.tolist(), strict=True):
            numbers = {i for i in range(20) if i % 10 == label}
            saved = {i: torch.tensor(np.array(picture(label, i))) for i in numbers}
            match = [
                i for i, s in saved.items() if torch.equal((image[0] * 255).round(), s.float())
            ]
            assert len(match) == 1
            seen += match
    assert sorted(seen) == list(range(20))


def test_parquet_without_the_libraries_own_metadata(tmp_path):
    table = pa.table(
        {
            "img": [{"bytes": png(picture(i % 10, i, 32, "RGB")), "path": None} for i in range(30)],
            "label": pa.array([i % 10 for i in range(30)], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    task = get("cifar10-cnn", source=str(tmp_path / "train.parquet"), width=4)
    assert task.train.tensors[0].shape == (27, 3, 32, 32)
    finite_step(task)


@pytest.mark.parametrize("save", ["dict", "single"])
def test_a_saved_dataset(tmp_path, save):
    rows = dataset(40, image="img", size=32, mode="RGB")
    if save == "dict":
        datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    else:
        rows.save_to_disk(tmp_path / "saved")
    task = get("cifar10-resnet", source=str(tmp_path / "saved"), width=4, depth=1)
    assert (task.train.samples, task.valid.samples) == (36, 4)
    finite_step(task)


def test_folders_of_images_are_scaled_and_their_classes_counted(tmp_path):
    image_folder(tmp_path, ["train", "test"], size=40)
    task = get("mnist-cnn", source=str(tmp_path), valid_split="test", size=16, width=4)
    assert task.train.tensors[0].shape == (12, 1, 16, 16)
    assert task.build().head.out_features == 3
    assert sorted(set(task.valid.tensors[1].tolist())) == [0, 1, 2]


def test_limit_and_seed_choose_the_samples(tmp_path):
    dataset(60).to_parquet(tmp_path / "train.parquet")
    source = str(tmp_path)
    base = get("mnist-mlp", source=source, limit=30)
    assert base.train.samples + base.valid.samples == 30
    same = get("mnist-mlp", source=source, limit=30)
    assert torch.equal(base.train.tensors[0], same.train.tensors[0])
    other = get("mnist-mlp", source=source, limit=30, split_seed=1)
    assert not torch.equal(base.train.tensors[1], other.train.tensors[1])
    half = get("mnist-mlp", source=source, valid_share=0.5)
    assert half.valid.samples == 30
    with pytest.raises(BadValueError, match=r"limit=61 .* from 2 to 60"):
        get("mnist-mlp", source=source, limit=61)


class TestImageNet:
    def task(self, tmp_path, **options):
        image_folder(tmp_path / "in", ["train", "val"], size=50, mode="RGB")
        return get(
            "imagenet-resnet",
            source=str(tmp_path / "in"),
            size=32,
            width=4,
            depth=1,
            stages=2,
            **options,
        )

    def test_decodes_when_asked(self, tmp_path):
        task = self.task(tmp_path)
        assert (task.train.samples, task.valid.samples) == (12, 12)
        assert isinstance(task.train.dataset, hub.DecodedImages)
        x, y = task.train.take(torch.tensor([0, 5]))
        assert x.shape == (2, 3, 32, 32)
        assert y.dtype == torch.long
        finite_step(task)

    def test_training_crops_are_drawn_from_torch_and_validation_is_fixed(self, tmp_path):
        task = self.task(tmp_path)
        index = torch.tensor([3])

        def draw(data, seed):
            torch.manual_seed(seed)
            return data.take(index)[0]

        assert torch.equal(draw(task.train, 0), draw(task.train, 0))
        assert not torch.equal(draw(task.train, 0), draw(task.train, 1))
        assert torch.equal(draw(task.valid, 0), draw(task.valid, 1))

    def test_without_augmentation_training_is_fixed_too(self, tmp_path):
        task = self.task(tmp_path, augment=False)
        first, second = (task.train.take(torch.tensor([3]))[0] for _ in range(2))
        assert torch.equal(first, second)

    def test_is_a_dataset_that_ends(self, tmp_path):
        data = self.task(tmp_path).valid.dataset
        assert len(list(data)) == 12
        assert torch.equal(data[-1][0], data[11][0])
        with pytest.raises(IndexError, match="range"):
            data[12]


class TestRefusals:
    def test_no_network_says_how_to_give_a_local_copy(self, monkeypatch):
        def offline(name):
            raise ConnectionError(f"Couldn't reach '{name}' on the Hub")

        monkeypatch.setattr(datasets, "load_dataset", offline)
        with pytest.raises(TaskError, match=r"fetching 'ylecun/mnist'.*Couldn't reach.*source=<"):
            get("mnist-cnn")
        with pytest.raises(TaskError, match=r"gated: accept its terms.*hf auth login"):
            get("imagenet-resnet")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'etude\[hub\]'"):
            get("mnist-cnn")

    def test_sources_that_hold_nothing(self, tmp_path):
        with pytest.raises(TaskError, match="there is nothing at source="):
            get("mnist-cnn", source=str(tmp_path / "missing"))
        with pytest.raises(TaskError, match="holds no data set"):
            get("mnist-cnn", source=str(tmp_path))
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(TaskError, match="holds no data set"):
            get("mnist-cnn", source=str(tmp_path / "notes.txt"))
        with pytest.raises(BadTypeError, match="source=3 is an int"):
            get("mnist-cnn", source=3)

    def test_a_damaged_file(self, tmp_path):
        (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
        with pytest.raises(
            TaskError, match=r"reading .* failed \(ArrowInvalid: .*\): give a folder or file"
        ):
            get("mnist-cnn", source=str(tmp_path))

    def test_a_damaged_image(self, tmp_path):
        table = pa.table(
            {
                "image": [{"bytes": b"not a picture", "path": None}] * 4,
                "label": pa.array([0, 1, 2, 3], pa.int64()),
            }
        )
        pq.write_table(table, tmp_path / "train.parquet")
        with pytest.raises(
            TaskError, match=r"row 0 of column 'image' cannot be decoded as an image"
        ):
            get("mnist-cnn", source=str(tmp_path))

    def test_columns_splits_and_labels(self, tmp_path):
        (tmp_path / "a").mkdir()
        pq.write_table(
            pa.table({"words": ["x"] * 4, "label": [0] * 4}), tmp_path / "a" / "train.parquet"
        )
        with pytest.raises(TaskError, match="no column of images named 'image' among words, label"):
            get("mnist-cnn", source=str(tmp_path / "a"))
        dataset(12).to_parquet(tmp_path / "train.parquet")
        source = str(tmp_path / "train.parquet")
        with pytest.raises(TaskError, match=r"no split 'test' among 'train'.*'holdout'"):
            get("mnist-cnn", source=source, valid_split="test")
        with pytest.raises(TaskError, match="would evaluate on the training data"):
            get("mnist-cnn", source=source, valid_split="train")
        (tmp_path / "b").mkdir()
        unlabelled = pa.table(
            {
                "image": [{"bytes": png(picture(0, i)), "path": None} for i in range(4)],
                "label": pa.array([-1] * 4, pa.int64()),
            }
        )
        pq.write_table(unlabelled, tmp_path / "b" / "train.parquet")
        with pytest.raises(TaskError, match="not whole numbers from 0 to 9"):
            get("mnist-cnn", source=str(tmp_path / "b"))

    def test_an_unknown_option(self):
        with pytest.raises(UnknownNameError, match="did you mean 'source'"):
            get("mnist-cnn", sorce="x")


def test_any_other_name_of_the_image_column_will_do(tmp_path):
    dataset(20, image="photo").to_parquet(tmp_path / "train.parquet")
    assert get("mnist-mlp", source=str(tmp_path)).train.samples == 17


def test_hub_rows_stand_in_the_table():
    assert {
        row.name for row in rows() if row.factory.data.startswith("etude.tasks.images.hub:")
    } == {
        "mnist-mlp",
        "mnist-cnn",
        "cifar10-cnn",
        "cifar10-resnet",
        "imagenet-resnet",
    }


def test_only_local_files_are_read_with_a_source(tmp_path, monkeypatch):
    dataset(12).to_parquet(tmp_path / "train.parquet")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    splits = image_source.open_splits(hub.MNIST, str(tmp_path))
    assert list(splits) == ["train"]


class TestStrangers:
    """Images come from strangers: only plain formats, of a bounded size, from the folder itself."""

    def cell(self, image, kind, **options):
        with io.BytesIO() as file:
            image.save(file, kind, **options)
            return {"bytes": file.getvalue(), "path": None}

    @pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "ppm"])
    def test_plain_formats_are_read(self, kind):
        assert image_source.opened(self.cell(picture(3, 0), kind), None).size == (28, 28)

    @pytest.mark.parametrize(
        "content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n", b"\x89PNG\r\n"]
    )
    def test_others_are_not(self, content):
        rows = [{"image": {"bytes": content, "path": None}}]
        with pytest.raises(
            TaskError, match="row 0 of column 'image' cannot be decoded as an image"
        ):
            image_source.Images(rows, "image", torch.zeros(1), 1).decode(0, "L")

    def test_one_that_unfolds_into_gigabytes_is_measured_first(self):
        bomb = self.cell(Image.new("1", (30_000, 2_000)), "png")
        assert len(bomb["bytes"]) < 20_000
        with pytest.raises(TaskError, match="30000 x 2000 pixels, and at most 50,000,000 are read"):
            image_source.opened(bomb, None)

    def test_a_path_leads_nowhere_but_into_the_folder(self, tmp_path):
        outside = tmp_path / "outside.png"
        picture(1, 0).save(outside)
        (tmp_path / "in").mkdir()
        (tmp_path / "in/link.png").symlink_to(outside)
        for path in (str(outside), str(tmp_path / "in/link.png"), "http://nowhere/x.png", None):
            for root in (tmp_path / "in", None):
                with pytest.raises(TaskError, match="is not a file inside the data's folder"):
                    image_source.opened({"bytes": None, "path": path}, root)
        picture(1, 0).save(tmp_path / "in/own.png")
        found = image_source.opened({"path": str(tmp_path / "in/own.png")}, tmp_path / "in")
        assert found.size == (28, 28)


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-mlp", "cifar10-cnn", "cifar10-resnet"])
def test_images_in_memory_are_contiguous(tmp_path, name):
    mode = "L" if name.startswith("mnist") else "RGB"
    dataset(20, image="img", size=40, mode=mode).to_parquet(tmp_path / "train.parquet")
    task = get(name, source=str(tmp_path))
    for data in (task.train, task.valid):
        assert data.tensors[0].is_contiguous()
        assert data.take(torch.tensor([1, 0]))[0].is_contiguous()


@pytest.mark.parametrize("augment", [False, True])
def test_images_decoded_when_asked_are_contiguous_alone_and_in_a_batch(tmp_path, augment):
    image_folder(tmp_path, ["train", "val"], size=50, mode="RGB")
    task = get("imagenet-resnet", source=str(tmp_path), size=32, augment=augment)
    for data in (task.train, task.valid):
        assert data.dataset[3][0].is_contiguous()
        assert data.take(torch.tensor([3, 0, 5]))[0].is_contiguous()
        assert next(iter(torch.utils.data.DataLoader(data.dataset, 4)))[0].is_contiguous()
