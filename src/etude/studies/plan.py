"""`StudyPlan`: what a study trains, as lists of values that are combined."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator

from etude import files
from etude.errors import (
    BadTypeError,
    BadValueError,
    EtudeError,
    as_whole,
    shown,
    unknown_name,
)
from etude.recipe_text import LARGEST, toml_table
from etude.studies.axes import Axes
from etude.studies.halving import factor_of
from etude.studies.ranges import MOST, Span, no_range, values_of

PRESETS = "etude.studies.presets"
"""The package that holds the plans that come with Etude."""


SAMPLERS = ("tpe", "random", "gp", "cmaes")
"""The samplers of Optuna that a plan can name."""


def _tasks(value: object) -> tuple[Any, ...]:
    return values_of("tasks", value)


def _seeds(value: object) -> tuple[Any, ...]:
    return values_of("seeds", value)


def _blocks(value: object) -> tuple[Axes, ...]:
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, (list, tuple)) or not listed:
        raise BadTypeError(f"blocks={shown(value)}: give a list of tables of axes")
    found = []
    for i, one in enumerate(listed):
        if not isinstance(one, (Mapping, Axes)):
            raise BadTypeError(f"blocks[{i}] is {shown(one)}: give a table of axes")
        try:
            found.append(one if isinstance(one, Axes) else Axes(**one))
        except EtudeError as error:
            raise BadValueError(f"blocks[{i}]: {error}") from error
    return tuple(found)


def _sampler(value: object) -> str:
    if not isinstance(value, str):
        raise BadTypeError(f"sampler={shown(value)}: give a name, {', '.join(SAMPLERS)}")
    if value not in SAMPLERS:
        raise unknown_name("sampler", value, SAMPLERS)
    return value


def _trials(value: object) -> int:
    count = as_whole(value)
    if count is None:
        raise BadTypeError(f"trials={shown(value)} is not a whole number: give one")
    if not 1 <= count <= MOST:
        raise BadValueError(f"trials={count} is out of bounds: give 1 to {MOST:,}")
    return count


class StudyPlan(Axes):
    r"""What a study trains: every combination of the values of its axes.

    An axis is one value, a list, or a range `{from, to, points}` (equal ratios) or
    `{from, to, by}` (equal distances). An axis that is left out keeps what each task's own recipe
    says.

    Attributes:
        name: The study's name.
        tasks: Task references: 'digits-cnn', 'file.py:task', 'module:task'.
        models: Tables of the tasks' options: depth, width, activation, normalisation, residual,
            initialisation and what else the tasks have.
        optimizers: Names, or tables of a name and hyperparameters.
        schedules: Texts such as "warmup('5%') >> cosine()".
        lrs: Learning rates: of all optimizers, or a table of those of each by its name.
        batch_sizes: Samples per batch.
        clips: Largest norms of the gradient (`clip_norm`); 'none' does not clip.
        seeds: Seeds of the runs.
        steps: Lengths: updates, or text such as '20 epochs'.
        recipe: Other fields of the recipe, the same for all runs, such as {l2 = 1e-4}.
        blocks: Tables of axes. The study is what all of them train together, equal trials once;
            what a block leaves out is as the plan gives it. Without blocks the plan is the only
            one.
        halving: 2, 3 or 4: at each rung of successive halving only this share of the rates of one
            kind of run is trained on; None trains all to the end.
        sampler: 'tpe', 'random', 'gp' or 'cmaes': Optuna's sampler proposes the values of the
            ranges; None trains all of their values.
        trials: With a sampler, how many proposals it makes for each combination of the other
            values.

    Raises:
        BadValueError: If a key is unknown, or a value is out of bounds; the message gives the fix.

    >>> lrs = {"from": 0.01, "to": 1.0, "points": 3}
    >>> plan = StudyPlan(name="rates", tasks=["cancer-mlp"], lrs=lrs)
    >>> plan.lrs, plan.seeds
    ((0.01, 0.1, 1.0), (0,))
    >>> StudyPlan.from_toml('name = "rates"\ntasks = "cancer-mlp"').tasks
    ('cancer-mlp',)
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    tasks: Annotated[tuple[str, ...], PlainValidator(_tasks)] = ()
    models: Annotated[tuple[Mapping[str, Any], ...], *Axes.model_fields["models"].metadata] = Field(
        default_factory=lambda: (MappingProxyType({}),)
    )
    seeds: Annotated[tuple[Any, ...], PlainValidator(_seeds)] = (0,)
    blocks: Annotated[tuple[Axes, ...], PlainValidator(_blocks)] = ()
    halving: Annotated[int | None, PlainValidator(factor_of)] = None
    sampler: Annotated[str | None, PlainValidator(_sampler)] = None
    trials: Annotated[int | None, PlainValidator(_trials)] = None

    def model_post_init(self, _: Any) -> None:
        """Check what several axes decide together, in each block."""
        if (self.sampler is None) != (self.trials is None):
            raise BadValueError(
                "trials is how many proposals a sampler makes: give sampler too, or leave it out"
                if self.sampler is None
                else f"sampler={self.sampler!r} without trials: say how many proposals it makes"
            )
        if self.sampler is not None and self.halving is not None:
            raise BadValueError("halving and sampler exclude each other: give one of them")
        for i, part in enumerate(self.parts()):
            try:
                part.check()
                if self.sampler is None:
                    _refuse_open(part)
            except BadValueError as error:
                if not self.blocks:
                    raise
                raise BadValueError(f"blocks[{i}]: {error}") from error

    def parts(self) -> tuple[Axes, ...]:
        """Return the axes of each block, with what it leaves out; the plan's own without blocks.

        >>> plan = StudyPlan(name="a", tasks="cancer-mlp", blocks=[{"lrs": 1.0}, {"steps": 9}])
        >>> [(part.lrs, part.steps, part.tasks) for part in plan.parts()]
        [((1.0,), None, ('cancer-mlp',)), (None, (9,), ('cancer-mlp',))]
        """
        own = {name: getattr(self, name) for name in Axes.model_fields}
        if not self.blocks:
            return (Axes.model_construct(**own),)
        return tuple(
            Axes.model_construct(
                **{k: v if (given := getattr(block, k)) is None else given for k, v in own.items()}
            )
            for block in self.blocks
        )

    def plain(self) -> dict[str, Any]:
        """Return the plan as values that JSON can hold, axes that are left out as None.

        >>> StudyPlan(**StudyPlan(name="a", tasks=["digits-cnn"]).plain()).tasks
        ('digits-cnn',)
        """
        ranges = self.sampler is not None
        own = self.plain_axes(ranges=ranges)
        axes = {name: None for name in Axes.model_fields if name != "recipe"} | own
        more: dict[str, Any] = {}
        if self.blocks:
            more["blocks"] = [one.plain_axes(ranges=ranges) for one in self.blocks]
        named = {name: getattr(self, name) for name in ("halving", "sampler", "trials")}
        more |= {name: value for name, value in named.items() if value is not None}
        return {"name": self.name, **axes, "tasks": axes["tasks"] or None, **more}

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a plan from TOML.

        Raises:
            BadValueError: If the text is damaged, or not a plan.
        """
        return cls(**toml_table(text))

    @classmethod
    def load(cls, path: str | Path, /, **changes: Any) -> Self:
        """Read a plan from a .toml file; its name is the file's where it gives none.

        Args:
            path: The file.
            changes: Keys that replace those of the file, also in its blocks.

        Raises:
            StorageError: If the file cannot be read.
            BadValueError: If its content is not a plan; the message names the file.
        """
        path = Path(path)
        text = files.read_text(path, "the study's plan", LARGEST)
        try:
            return cls(**changed({"name": path.stem, **toml_table(text)}, changes))
        except EtudeError as error:
            message = str(error).replace("the recipe", "the plan")
            raise BadValueError(f"{path}: {message}") from error

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> Self:
        """Return a plan that comes with Etude; `presets` lists them.

        Args:
            name: Its name.
            changes: Keys that replace those of the plan, also in its blocks.

        Raises:
            UnknownNameError: If there is no preset of this name.
            BadValueError: If a change is out of bounds.

        >>> StudyPlan.preset("architectures", seeds=[1]).seeds
        (1,)
        """
        if name not in presets():
            raise unknown_name("preset", name, presets())
        text = resources.files(PRESETS).joinpath(f"{name}.toml").read_text("utf-8")
        return cls(**changed({"name": name, **toml_table(text)}, changes))


def presets() -> tuple[str, ...]:
    """Return the names of the plans that come with Etude.

    >>> "architectures" in presets()
    True
    """
    found = (Path(one.name) for one in resources.files(PRESETS).iterdir())
    return tuple(sorted(path.stem for path in found if path.suffix == ".toml"))


def changed(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a plan with some replaced, also where a block gives them.

    >>> changed({"name": "a", "blocks": [{"lrs": 1.0, "steps": 9}]}, {"steps": 5})
    {'name': 'a', 'blocks': [{'lrs': 1.0}], 'steps': 5}
    """
    found = {**table, **changes}
    blocks = table.get("blocks")
    if "blocks" not in changes and isinstance(blocks, list):
        found["blocks"] = [
            {k: v for k, v in one.items() if k not in changes} if isinstance(one, Mapping) else one
            for one in blocks
        ]
    return found


def _refuse_open(part: Axes) -> None:
    """Raise if a range has no values between its ends."""
    for name in Axes.model_fields:
        value = getattr(part, name)
        for one in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(one, Span) and one.open:
                raise no_range(name, one.table)
