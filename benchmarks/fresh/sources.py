"""How each data set is read from the files of its package.

The files are read as they are: the packages' own loaders would import numba, pandas and more.
Text becomes numbers here, so that a cache holds plain arrays.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        package: The name under which the package is imported.
        read: (the package's folder) -> its arrays.
    """

    package: str
    read: Callable[[Path], Arrays]


def text(path: Path) -> str:
    """Return the text of a file, of a gzipped one, or of the first member of a zip file."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read(archive.namelist()[0]).decode()
    return path.read_text(encoding="utf-8")


def columns(path: Path, delimiter: str = ",") -> dict[str, list[str]]:
    """Return a table with a header line as lists of text, by column."""
    header, *rows = [row for row in csv.reader(io.StringIO(text(path)), delimiter=delimiter) if row]
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def numbers(values: Iterable[str]) -> np.ndarray:
    """Return text as numbers; NaN where it is empty or stands for a missing value."""
    return np.array([float(v) if v not in ("", "NA") else np.nan for v in values], np.float32)


def codes(values: Sequence[str]) -> np.ndarray:
    """Number the distinct values in sorted order, and return each value's number."""
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)


def table(path: Path, features: Sequence[str]) -> np.ndarray:
    """Return columns of numbers side by side."""
    content = columns(path)
    return np.stack([numbers(content[name]) for name in features], axis=1)


def subset(count: int, keep: int) -> np.ndarray:
    """Return the places of a fixed random choice of samples, ascending."""
    return np.sort(np.random.default_rng(0).permutation(count)[:keep])


def series(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a .ts file of series of equal length: (N, channels, L) and the classes (N,)."""
    body = text(path).split("@data", 1)[1].strip().splitlines()
    parts = [line.strip().split(":") for line in body if line.strip()]
    x = np.array([[channel.split(",") for channel in part[:-1]] for part in parts], np.float32)
    return x, codes([part[-1] for part in parts])


def archive(folder: Path, name: str, stem: str = "") -> Arrays:
    """Return the training and the test part of a data set of the time series archive."""
    place = folder / "datasets" / "data" / name
    (x, y), (held, answers) = (
        series(place / f"{stem or name}_{part}.ts") for part in ("TRAIN", "TEST")
    )
    return {"x": x, "y": y, "held": held, "answers": answers}


def sunspots(folder: Path) -> Arrays:
    """Return the monthly mean sunspot numbers of all complete years, in order."""
    lines = text(folder / "datasets/sunspots/src/sunspots_monthly.dat").splitlines()
    years = [line.split()[1:] for line in lines if line[:4].isdigit()]
    complete = [year for year in years if len(year) == 12]
    return {"x": np.array(complete, np.float32).reshape(-1)}


def carbon(folder: Path) -> Arrays:
    """Return the weekly carbon dioxide of Mauna Loa; missing weeks lie on a straight line."""
    x = numbers(columns(folder / "datasets/co2/co2.csv")["co2"])
    there, places = np.isfinite(x), np.arange(len(x))
    return {"x": np.interp(places, places[there], x[there]).astype(np.float32)}


def temperatures(folder: Path) -> Arrays:
    """Return a year of hourly temperatures in two cities."""
    return {
        city: numbers(columns(folder / f"_data/{city}-temps.csv")["temp"])
        for city in ("seattle", "sf")
    }


def weather(folder: Path) -> Arrays:
    """Return four numbers of each day, its month, and its kind of weather."""
    content = columns(folder / "_data/seattle-weather.csv")
    names = ("precipitation", "temp_max", "temp_min", "wind")
    return {
        "x": np.stack([numbers(content[name]) for name in names], axis=1),
        "month": np.array([int(date.split("/")[1]) - 1 for date in content["date"]]),
        "y": codes(content["weather"]),
    }


LETTERS = " abcdefghijklmnopqrstuvwxyz"


def airports(folder: Path) -> Arrays:
    """Return latitude, longitude, state, and the letters of the name (-1 beyond its end).

    States with fewer than 20 airports are left out.
    """
    content = columns(folder / "_data/airports.csv")
    state = codes(content["state"])
    often = np.bincount(state)[state] >= 20
    names = np.full((len(state), 24), -1, np.int64)
    for row, name in zip(names, content["name"], strict=True):
        letters = [LETTERS.index(c) for c in name.lower() if c in LETTERS][: len(row)]
        row[: len(letters)] = letters
    place = np.stack([numbers(content[name]) for name in ("latitude", "longitude")], axis=1)
    return {
        "place": place[often],
        "state": np.unique(state[often], return_inverse=True)[1],
        "names": names,
    }


def cars(folder: Path) -> Arrays:
    """Return five numbers and the origin of each car, and the miles it goes with a gallon."""
    found = json.loads(text(folder / "_data/cars.json"))
    names = ("Cylinders", "Displacement", "Horsepower", "Weight_in_lbs", "Acceleration")
    whole = [car for car in found if None not in car.values()]
    return {
        "x": np.array([[car[name] for name in names] for car in whole], np.float32),
        "year": np.array([int(car["Year"][:4]) for car in whole], np.float32),
        "origin": codes([car["Origin"] for car in whole]),
        "y": np.array([car["Miles_per_Gallon"] for car in whole], np.float32),
    }


def river(folder: Path, name: str, target: str, keep: int | None = None) -> Arrays:
    """Return the features and the class of each sample of a table."""
    content = columns(folder / "datasets" / name)
    y = codes(content.pop(target))
    x = np.stack([numbers(column) for column in content.values()], axis=1)
    chosen = subset(len(x), keep or len(x))
    return {"x": x[chosen], "y": y[chosen]}


def yeast(folder: Path) -> Arrays:
    """Return 103 measurements of each gene and its 14 labels."""
    content = columns(folder / "datasets/yeast.csv.gz")
    features = [numbers(v) for k, v in content.items() if k.startswith("Att")]
    labels = [numbers(v) for k, v in content.items() if k.startswith("Class")]
    return {"x": np.stack(features, axis=1), "y": np.stack(labels, axis=1)}


def bananas(folder: Path) -> Arrays:
    """Return points in the plane and the class of each."""
    rows = [line.split() for line in text(folder / "datasets/banana.zip").splitlines() if line]
    x = np.array([[part.split(":")[1] for part in row[1:]] for row in rows], np.float32)
    return {"x": x, "y": codes([row[0] for row in rows])}


def visits(folder: Path) -> Arrays:
    """Return nine facts on each person's insurance and health, and the visits to a physician."""
    path = folder / "datasets/randhie/randhie.csv"
    names = ("lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")
    x, y = table(path, names), table(path, ("mdvis",))[:, 0]
    chosen = subset(len(x), 8000)
    return {"x": x[chosen], "y": y[chosen]}


def affairs(folder: Path) -> Arrays:
    """Return four numbers and four categories of each woman asked, and her answer."""
    path = folder / "datasets/fair/fair.csv"
    names = ("rate_marriage", "religious", "occupation", "occupation_husb")
    content = columns(path)
    return {
        "x": table(path, ("age", "yrs_married", "children", "educ")),
        "categories": np.stack([codes(content[name]) for name in names], axis=1),
        "y": (table(path, ("affairs",))[:, 0] > 0).astype(np.float32),
    }


def trials(folder: Path) -> Arrays:
    """Return facts on each patient at the trial's start, days followed, and whether an event."""
    path = folder / "datasets/ACTG175.csv"
    names = (
        "age", "wtkg", "hemo", "homo", "drugs", "karnof", "oprior", "z30", "preanti", "race",
        "gender", "str2", "symptom", "treat", "cd40", "cd80",
    )  # fmt: skip
    days, event = table(path, ("days", "cens")).T
    return {"x": table(path, names), "days": days, "event": event}


def regimes(folder: Path) -> Arrays:
    """Return region and kind of each government, its first year, its years, and whether it fell."""
    content = columns(folder / "datasets/dd.csv")
    categories = [codes(content[name]) for name in ("un_region_name", "regime")]
    return {
        "categories": np.stack(categories, axis=1),
        "start": numbers(content["start_year"]),
        "years": numbers(content["duration"]),
        "event": numbers(content["observed"]),
    }


def grey(path: Path, scale: int = 1) -> np.ndarray:
    """Return a picture in shades of grey, reduced by a whole number."""
    with Image.open(path) as picture:
        shades = picture.convert("L")
        return np.asarray(shades.reduce(scale) if scale > 1 else shades, np.uint8)


def textures(folder: Path) -> Arrays:
    """Return three pictures, each of one texture."""
    return {name: grey(folder / f"data/{name}.png") for name in ("brick", "grass", "gravel")}


def pictures(folder: Path) -> Arrays:
    """Return four photographs in shades of grey, at half their size."""
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    return {name.split(".")[0]: grey(folder / "data" / name, 2) for name in names}


def wine(folder: Path) -> Arrays:
    """Return 13 measurements of each wine and its grower."""
    rows = text(folder / "datasets/data/wine_data.csv").splitlines()[1:]
    content = np.array([row.split(",") for row in rows if row], np.float32)
    return {"x": content[:, :-1], "y": content[:, -1].astype(np.int64)}


SOURCES = {
    "vowels": Source("aeon", partial(archive, name="JapaneseVowels", stem="JapaneseVowels_eq")),
    "power": Source("aeon", partial(archive, name="ItalyPowerDemand")),
    "leaf": Source("aeon", partial(archive, name="OSULeaf")),
    "motions": Source("aeon", partial(archive, name="BasicMotions")),
    "sunspots": Source("statsmodels", sunspots),
    "carbon": Source("statsmodels", carbon),
    "visits": Source("statsmodels", visits),
    "affairs": Source("statsmodels", affairs),
    "temperatures": Source("vega_datasets", temperatures),
    "weather": Source("vega_datasets", weather),
    "airports": Source("vega_datasets", airports),
    "cars": Source("vega_datasets", cars),
    "segment": Source("river", partial(river, name="segment.csv.zip", target="category")),
    "phishing": Source("river", partial(river, name="phishing.csv.gz", target="is_phishing")),
    "shuttle": Source("river", partial(river, name="shuttle.csv.gz", target="anomaly", keep=9000)),
    "yeast": Source("river", yeast),
    "bananas": Source("river", bananas),
    "trials": Source("lifelines", trials),
    "regimes": Source("lifelines", regimes),
    "textures": Source("skimage", textures),
    "pictures": Source("skimage", pictures),
    "wine": Source("sklearn", wine),
}
"""Every data set by name."""
