"""Tables of encoded images and their classes, from the Hugging Face hub or a local copy."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.errors import BadTypeError, MissingExtraError, TaskError, kind_of, shown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The image formats that Pillow may read."""

MOST_PIXELS = 50_000_000
"""Pixels of the largest image that is decoded: 150 MB in colour."""


@dataclass(frozen=True)
class HubSet:
    """The name of a data set on the hub, and the names of its columns.

    Attributes:
        repository: Its name on the hub.
        image: The column of encoded images.
        label: The column of class numbers.
        mode: Pillow's name for the kind of pixel: 'L' is grey, 'RGB' is colour.
        classes: The number of classes, if the label column does not tell it.
        gated: Whether its terms must be accepted before it can be downloaded.
    """

    repository: str
    image: str
    label: str
    mode: str
    classes: int
    gated: bool = False


@dataclass(frozen=True, eq=False)
class Images:
    """One split: rows of encoded images, the class of each, and the number of classes."""

    rows: Any
    column: str
    labels: Tensor
    classes: int
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, index: Tensor) -> Images:
        """Return the rows at `index`."""
        rows = self.rows.select(index.tolist())
        return Images(rows, self.column, self.labels[index], self.classes, self.root)

    def decode(self, i: int, mode: str) -> Any:
        """Return the image in row `i` as a Pillow image.

        Raises:
            TaskError: If the row cannot be decoded.
        """
        try:
            return opened(self.rows[i][self.column], self.root).convert(mode)
        except ImportError as error:
            raise MissingExtraError("decoding images needs pillow: pip install pillow") from error
        except Exception as error:
            raise TaskError(
                f"row {i} of column {self.column!r} cannot be decoded as an image: {error}"
            ) from error


def opened(cell: Mapping[str, Any], root: Path | None) -> Any:
    """Return the image in a cell, decoded; the data may come from an untrusted source.

    Only plain picture formats are read: others may start programs or follow references. The size
    of an image is checked before it is decoded.

    Args:
        cell: A mapping with the image as 'bytes', or else the 'path' of a file inside `root`.
        root: The folder that the data was read from, if any.

    Raises:
        TaskError: If the image is too large, or its file is outside the folder.
    """
    from PIL import Image

    content, path = cell.get("bytes"), cell.get("path")
    source: Any
    if content is not None:
        source = io.BytesIO(content)
    else:
        source = Path(str(path)).resolve()
        if root is None or not source.is_relative_to(root.resolve()) or not source.is_file():
            raise TaskError(f"the image {shown(path)} is not a file inside the data's folder")
    image = Image.open(source, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise TaskError(
            f"it has {image.width} x {image.height} pixels, and at most {MOST_PIXELS:,} are read"
        )
    image.load()
    return image


def _library() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            "this task reads its data with the package datasets: pip install 'etude[hub]'"
        ) from error
    module: ModuleType = datasets
    return module


def open_splits(hub: HubSet, source: str | None) -> Mapping[str, Any]:
    """Return the splits by name, from `source` if it is given, else from the hub.

    Raises:
        MissingExtraError: If `datasets` is not installed.
        TaskError: If the data cannot be fetched or read.
    """
    library = _library()
    if source is None:
        return _fetched(
            lambda: library.load_dataset(hub.repository),
            f"fetching {hub.repository!r} from the Hugging Face hub",
            "give a local copy with source=<folder or .parquet file>, or check the network"
            + (
                f"; the set is gated: accept its terms on https://huggingface.co/datasets/"
                f"{hub.repository} and run `hf auth login`"
                if hub.gated
                else ""
            ),
        )
    if not isinstance(source, (str, Path)):
        raise BadTypeError(
            f"source={source!r} is {kind_of(source)}: give the path of a folder or file"
        )
    path = Path(source).expanduser()
    kind = _kind(path)
    fix = "give a folder or file of parquet, a folder of save_to_disk, or folders of images"
    if kind == "saved":
        return _fetched(lambda: library.load_from_disk(str(path)), f"reading {source!r}", fix)
    where: dict[str, Any] = (
        {"data_files": {"train": str(path)}} if path.is_file() else {"data_dir": str(path)}
    )
    return _fetched(lambda: library.load_dataset(kind, **where), f"reading {source!r}", fix)


def _kind(path: Path) -> str:
    """Return the name of the format of the data at a path.

    Raises:
        TaskError: If the path does not exist, or holds no data that can be read.
    """
    if path.is_file() and path.suffix == ".parquet":
        return "parquet"
    if not path.exists():
        raise TaskError(f"there is nothing at source={str(path)!r}: check the path")
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return "saved"
        if next(path.rglob("*.parquet"), None):
            return "parquet"
        if any(child.is_dir() for child in path.iterdir()):
            return "imagefolder"
    raise TaskError(
        f"source={str(path)!r} holds no data set: give a .parquet file, a folder of them, "
        "a folder written by save_to_disk, or folders of images named train/<class>/"
    )


def _fetched(open_: Callable[[], Any], doing: str, fix: str) -> Mapping[str, Any]:
    try:
        found = open_()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the library wraps the first error in others
            cause = cause.__cause__
        text = str(cause).strip().splitlines()
        reason = f"{type(cause).__name__}: {text[0] if text else 'no reason given'}"
        raise TaskError(f"{doing} failed ({reason}): {fix}") from error
    return found if isinstance(found, Mapping) else {"train": found}


def _column(rows: Any, wanted: str, kind: type, what: str) -> str:
    """Return the column of the wanted name, or else the only column of the wanted type."""
    if wanted in rows.column_names:
        return wanted
    fitting = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    if len(fitting) == 1:
        return str(fitting[0])
    raise TaskError(
        f"no column of {what} named {wanted!r} among {', '.join(rows.column_names)}: rename it"
    )


def images(
    hub: HubSet, splits: Mapping[str, Any], split: str, source: str | Path | None = None
) -> Images:
    """Return one of the splits that `open_splits` returned.

    Args:
        hub: The data set.
        splits: The splits, by name.
        split: The name of the split to return.
        source: The local folder or file that the splits were read from; image files outside of
            its folder are not read.

    Raises:
        TaskError: If the split or a column is missing, or the labels are not class numbers.
    """
    library = _library()
    if split not in splits:
        extra = "" if split == "train" else ", or valid_split='holdout' for a part of 'train'"
        raise TaskError(
            f"there is no split {split!r} among {', '.join(map(repr, splits))}: "
            f"name the files or folders after it{extra}"
        )
    rows = splits[split]
    image = _column(rows, hub.image, library.Image, "images")
    label = _column(rows, hub.label, library.ClassLabel, "labels")
    feature = rows.features[label]
    classes = feature.num_classes if isinstance(feature, library.ClassLabel) else hub.classes
    rows = rows.cast_column(image, library.Image(decode=False))
    numbers = np.asarray(rows.select_columns([label]).with_format("numpy")[:][label])
    if not len(numbers):
        raise TaskError(f"split {split!r} is empty: it has 0 rows, and at least 1 is needed")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= classes:
        raise TaskError(
            f"the labels in column {label!r} of split {split!r} are not whole numbers from 0 to "
            f"{classes - 1}: a split without labels cannot be used"
        )
    root = None if source is None else Path(source).expanduser()
    return Images(rows, image, torch.tensor(numbers).long(), classes, root)
