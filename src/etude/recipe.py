"""A Recipe says how to learn: the frozen join of optimizer, rate, schedule and length."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Self

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)

from etude import files, optimizers
from etude.errors import LONGEST_NAME, BadTypeError, BadValueError, EtudeError, MovedError, shown
from etude.layerwise.matrices import selectors
from etude.layerwise.spec import LrMult
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.hyperparameters import Number
from etude.recipe_digest import digest_before, digest_of
from etude.recipe_text import LARGEST, RecipeError, json_table, toml_table
from etude.schedules import Clock, Schedule, parse

FORMAT = 1
"""The version of the recipe file; a newer file is refused, never half understood."""

CLIPPING = ("clip_norm", "clip_value", "clip_adaptive", "clip_percentile")
"""The fields that bound the gradient."""


TOLD = 3
"""Mistakes that are told at once."""


def _schedule(value: object) -> Schedule:
    return value if isinstance(value, Schedule) else parse(value)  # type: ignore[arg-type]


def _number(value: object, info: ValidationInfo) -> object:
    """Refuse what pydantic would take for a number: True, and text."""
    if isinstance(value, (bool, str, bytes)):
        raise BadTypeError(
            f"{info.field_name}={shown(value)} is not a number: give one without quotes"
        )
    return value


def _batch_size(value: object, check: Callable[[object], int]) -> int | str:
    return "all" if value == "all" else check(value)


def _length(value: object) -> int | str:
    """Check a run's length: a count of updates, or text with a unit other than percent."""
    if isinstance(value, str):
        if value.strip().endswith("%"):
            raise BadValueError(f"steps={value!r}: a share of what? Give steps, epochs or samples")
        Clock(steps_per_epoch=1, samples_per_step=1, tokens_per_step=1).steps(value)
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadTypeError(
            f"steps={shown(value)}: give a whole number, or text such as '20 epochs'"
        )
    if value < 1:
        raise BadValueError(f"steps={shown(value)} is out of bounds: give at least 1")
    return value


def _lr_mult(value: object) -> LrMult | None:
    return None if value is None else LrMult.of(value)


LrMultField = Annotated[
    InstanceOf[LrMult] | None,
    BeforeValidator(_lr_mult),
    PlainSerializer(lambda value: None if value is None else value.plain()),
]
ScheduleField = Annotated[Schedule, BeforeValidator(_schedule), PlainSerializer(repr)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
if TYPE_CHECKING:
    BatchSize = int | Literal["all"]
else:  # a union would answer every mistake twice
    BatchSize = Annotated[Count, WrapValidator(_batch_size)]
Percentile = Annotated[float, BeforeValidator(_number), Field(gt=0, le=100, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1, allow_inf_nan=False)]
Initialisation = Literal[
    "default",
    "uniform",
    "normal",
    "xavier_uniform",
    "xavier_normal",
    "he_uniform",
    "he_normal",
    "orthogonal",
    "lsuv",
]


class Recipe(BaseModel):
    """How to learn. Frozen and validated; equal recipes train to the same bits.

    Attributes:
        optimizer: A name of `etude.optimizers`, or a table of a name and hyperparameters; what
            is not named keeps torch's own default.
        lr: The peak of the learning rate. Update t uses `lr * schedule(t)`. Left out, it is 1
            for an optimizer that sizes its own step, 0.001 for any other.
        lr_mult: Multipliers of the rate for parts of the model: a table of selectors, such as
            {"*[forget]": 3.0, "conv*": 2.0}, or a policy, such as "decay(0.75)"; None for none.
        schedule: The shape that multiplies `lr`, as a Schedule or its text. Left out, it is
            constant for an optimizer with a line search, and after a warmup for Schedule-Free.
        schedules: For other hyperparameters ('momentum', 'weight_decay', 'eps', ...): the value
            itself over the steps.
        steps: Length in optimizer updates, or with a unit: '20 epochs', '1e6 samples'.
        batch_size: Samples in one batch, or 'all'; None takes 64, or a DataLoader's own.
        accumulate: Batches whose gradients are averaged into one update.
        clip_norm: Largest 2-norm of the gradient over all parameters; None does not clip.
        clip_value: Largest magnitude of any one entry of the gradient; None does not clip.
        clip_adaptive: Largest norm of a unit's gradient as a share of its weights' (AGC).
        clip_percentile: Clip the norm at this percentile of the run's own history (AutoClip).
        l1: Weight in the loss of the sum of the weights' magnitudes.
        l2: Weight in the loss of half the sum of the weights' squares.
        activity: Weight in the loss of the mean squares of the layers' activations.
        dropout: The share that every dropout of the model drops; None leaves the model's own.
        label_smoothing: The share of each label that is spread evenly over the classes.
        early_stopping: Evaluations without a lower validation loss after which to stop, with the
            best weights put back; None trains to the end.
        initialisation: How to draw the weights anew: 'xavier_normal', 'he_normal',
            'orthogonal', 'lsuv', ...; None keeps them as the model comes.
        evaluations: How many times over the run to look at the validation data, besides once
            before it: what early stopping hears (the loss), and schedules that react, such as
            `plateau` (the loss; the task's metric with on='metric' or mode='max').
        precision: 'float32', or 'bfloat16' for autocast around the forward pass.
        seed: The only source of randomness: weights, data order, dropout.

    Raises:
        RecipeError: If a field is unknown or out of bounds; the message names the fix.

    >>> recipe = Recipe(optimizer="adamw", lr=3e-3, steps=2_000)
    >>> recipe.replace(lr=1e-3).lr
    0.001
    >>> Recipe.from_toml(recipe.to_toml()) == recipe
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    optimizer: Annotated[
        OptimizerChoice, BeforeValidator(OptimizerChoice.of), PlainSerializer(OptimizerChoice.plain)
    ] = OptimizerChoice("adamw")
    lr: Positive = 1e-3
    lr_mult: LrMultField = None
    schedule: ScheduleField = Field(default_factory=lambda: parse("warmup('5%') >> cosine()"))
    schedules: Mapping[str, ScheduleField] = Field(default_factory=dict)
    steps: Annotated[int | str, BeforeValidator(_length)] = "20 epochs"
    batch_size: BatchSize | None = None
    accumulate: Count = 1
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    clip_adaptive: Positive | None = None
    clip_percentile: Percentile | None = None
    l1: Positive | None = None
    l2: Positive | None = None
    activity: Positive | None = None
    dropout: Share | None = None
    label_smoothing: Share | None = None
    early_stopping: Count | None = None
    initialisation: Initialisation | None = None
    evaluations: Count = 20
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**63)] = 0

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**{**usual(fields.get("optimizer")), **fields})
        except ValidationError as error:
            told = [_explain(one) for one in error.errors(include_url=False)[:TOLD]]
            more = error.error_count() - len(told)
            rest = [f"and {more:,} more mistakes"] if more else []
            raise RecipeError("; ".join(told + rest)) from None

    @field_validator("schedules", mode="after")
    @classmethod
    def _freeze(cls, value: Mapping[str, Schedule]) -> Mapping[str, Schedule]:
        return MappingProxyType(dict(sorted(value.items())))

    def model_post_init(self, _: Any) -> None:
        """Check what concerns more than one field."""
        row = optimizers.get(self.optimizer.name)
        selectors(self.optimizer.hyperparameters.get("matrix", ()))
        for name in self.schedules:
            if name == "lr":
                raise BadValueError("schedules['lr']: the rate's own shape is the field 'schedule'")
            if row.scheduled(name) is not None:
                continue
            if name in row.hyperparameters:
                fix = "schedule 'momentum', the first of them" if name == "betas" else "set it once"
                raise BadValueError(
                    f"schedules[{name!r}]: {row.name} cannot change it while training: {fix}"
                )
            if name == "momentum":
                raise BadValueError(f"schedules['momentum']: {row.name} has no momentum")
            usable = ", ".join(row.hyperparameters)
            raise BadValueError(
                f"schedules[{shown(name)}]: {row.name} has no such hyperparameter; it has {usable}"
            )
        for schedule in (self.schedule, *self.schedules.values()):
            if "gradient" in schedule.hears:
                raise BadValueError(
                    f"schedule {schedule!r} reacts to the gradient, which training does not report "
                    "to it: record it in a loop of your own, or use plateau()"
                )
            if len(schedule.hears) > 1:
                raise BadValueError(
                    f"schedule {schedule!r} reacts to the validation loss in one part and to the "
                    "metric in another: let all its parts react to one, with on='loss' or "
                    "on='metric'"
                )
        clipped = [name for name in CLIPPING if getattr(self, name) is not None]
        if row.closure and clipped:
            raise BadValueError(
                f"{clipped[0]}={getattr(self, clipped[0])!r}: {row.name} compares losses along its "
                "step, which needs the true gradient: leave clipping out"
            )

    def replace(self, **changes: Any) -> Self:
        """Return a recipe with some fields changed, validated again."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changes})

    def bound_schedule(self, clock: Clock) -> Schedule:
        """Return `schedule` over the length of a run, its values checked: no rate is negative.

        Args:
            clock: The run's clock, with a horizon.

        Raises:
            BadValueError: If a value on the way is negative or not finite.
        """
        bound = self.schedule.over(clock)
        try:
            Number(1.0).check_run("schedule", bound, clock.horizon)
        except BadValueError as error:
            raise RecipeError(str(error)) from None
        return bound

    def bound_schedules(self, clock: Clock) -> dict[str, Schedule]:
        """Return `schedules` over the length of a run, their values checked against the bounds.

        Args:
            clock: The run's clock, with a horizon.

        Raises:
            BadValueError: If a value on the way is one that the optimizer does not take.
        """
        row = optimizers.get(self.optimizer.name)
        bound = {name: schedule.over(clock) for name, schedule in self.schedules.items()}
        for name, schedule in bound.items():
            limits = row.scheduled(name)
            assert limits is not None
            try:
                limits.check_run(f"schedules[{name!r}]", schedule, clock.horizon)
            except BadValueError as error:
                raise RecipeError(str(error)) from None
        return bound

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain values, those that are None or empty left out."""
        return {name: value for name, value in self._values().items() if value not in (None, {})}

    def _values(self) -> dict[str, Any]:
        """Return every field as a plain value."""
        return {
            "optimizer": self.optimizer.plain(),
            "lr": self.lr,
            "lr_mult": None if self.lr_mult is None else self.lr_mult.plain(),
            "schedule": repr(self.schedule),
            "schedules": {name: repr(s) for name, s in self.schedules.items()},
            **{
                name: getattr(self, name)
                for name in type(self).model_fields
                if name not in ("optimizer", "lr", "lr_mult", "schedule", "schedules")
            },
        }

    @property
    def digest(self) -> str:
        """A stable short hash of all values and the format's version.

        >>> Recipe(lr=0.1).digest == Recipe(lr=0.1).digest != Recipe(lr=0.2).digest
        True
        """
        return digest_of(self._ordered(), FORMAT)

    def has_digest(self, digest: object) -> bool:
        """Return whether a digest, as it was kept in a file, is this recipe's.

        Those of older versions of Etude, which left out what equalled a default, count too.

        >>> recipe = Recipe(lr=0.1)
        >>> recipe.has_digest(recipe.digest), recipe.has_digest(Recipe().digest)
        (True, False)
        """
        return digest in (self.digest, digest_before(self._ordered()))

    def _ordered(self) -> dict[str, Any]:
        """Return every value, with the order of the multipliers: the first match wins."""
        values = self._values()
        if self.lr_mult is not None:
            values["lr_mult"] = self.lr_mult.pairs()
        return values

    def to_json(self) -> str:
        """Return the recipe as JSON."""
        return json.dumps({"version": FORMAT, **self.plain()}, indent=1)

    def to_toml(self) -> str:
        """Return the recipe as TOML."""
        return tomli_w.dumps({"version": FORMAT, **self.plain()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe from JSON.

        Raises:
            RecipeError: If the text is damaged, has an unknown key, or is of a newer version.
        """
        return cls._from_table(json_table(text))

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a recipe from TOML.

        Raises:
            RecipeError: If the text is damaged, has an unknown key, or is of a newer version.
        """
        return cls._from_table(toml_table(text))

    @classmethod
    def _from_table(cls, table: dict[str, Any]) -> Self:
        version = table.pop("version", FORMAT)
        if version != FORMAT or isinstance(version, bool):
            newer = isinstance(version, int) and version > FORMAT
            fix = "upgrade etude to read it" if newer else f"write version = {FORMAT}"
            raise RecipeError(f"the recipe is of version {shown(version)}, this is {FORMAT}: {fix}")
        return cls(**table)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe from a .toml or .json file.

        Raises:
            StorageError: If the file cannot be read.
            RecipeError: If what it holds is not a recipe; the message names the file.
        """
        path = Path(path)
        text = files.read_text(path, "the recipe", LARGEST)
        read = json_table if path.suffix == ".json" else toml_table
        try:
            table = read(text)
            if not set(table) - {"version"}:
                raise RecipeError(
                    "the file holds no field of a recipe: give at least one, such as lr = 0.001, "
                    "or leave the file out to train by the task's own recipe"
                )
            return cls._from_table(table)
        except EtudeError as error:
            raise RecipeError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the recipe to a .toml or .json file, atomically.

        Raises:
            BadValueError: If the file's name ends otherwise.
        """
        path = Path(path)
        if path.suffix not in (".toml", ".json"):
            raise BadValueError(
                f"{str(path)!r}: a recipe is kept as TOML or JSON: name a file that ends in .toml "
                "or .json"
            )
        files.write_text(path, self.to_json() if path.suffix == ".json" else self.to_toml())

    def to_pytorch(self, *_: object, **__: object) -> NoReturn:
        """Say where this went."""
        raise MovedError(
            "Recipe.to_pytorch is now etude.export.pytorch_code(recipe, steps, task=task)"
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_json, (self.to_json(),)


def usual(optimizer: object) -> dict[str, Any]:
    """Return rate and schedule of a recipe that names neither, where AdamW's would be wrong."""
    try:
        row = optimizers.get(OptimizerChoice.of(optimizer).name)
    except EtudeError:
        return {}  # what is wrong with it is said where it is checked
    usual: dict[str, Any] = {"lr": 1.0} if row.rate_free else {}
    if row.closure:
        usual["schedule"] = "constant()"
    elif row.schedule_free:
        usual["schedule"] = "warmup('5%') >> constant()"
    return usual


def _explain(error: Any) -> str:
    """Turn one of pydantic's errors into a message with the value, the bound and the fix."""
    name = ".".join(str(part) for part in error["loc"] if part not in ("function-before", "int"))
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, EtudeError):
        return str(cause) if str(cause).startswith(name) or not name else f"{name}: {cause}"
    if error["type"] == "extra_forbidden":
        known = list(Recipe.model_fields)
        near = difflib.get_close_matches(name[:LONGEST_NAME], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown field {shown(name)} in the recipe: {hint}Known: {', '.join(known)}"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{name}={shown(error['input'])} is out of bounds: {message}"
