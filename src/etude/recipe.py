"""A Recipe says how to learn: an immutable set of optimizer, rate, schedule and length."""

from __future__ import annotations

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
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)

from etude import files, optimizers
from etude.errors import (
    BadTypeError,
    BadValueError,
    EtudeError,
    MovedError,
    is_flag,
    kind_of,
    shown,
)
from etude.layerwise.matrices import selectors
from etude.layerwise.spec import LrMult
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.hyperparameters import Number
from etude.optimizers.importable import own_factory
from etude.recipe_checks import check_clipping, check_precision, check_schedules, run_length
from etude.recipe_digest import digest_before, digest_of
from etude.recipe_exchange import Compression, compression
from etude.recipe_mistakes import explain
from etude.recipe_spikes import SpikePolicy, spike_policy
from etude.recipe_text import LARGEST, RecipeError, json_table, toml_table
from etude.schedules import KINDS, Clock, Schedule, parse

FORMAT = 1
"""The version of the recipe file; a newer file is refused."""

CLIPPING = ("clip_norm", "clip_value", "clip_adaptive", "clip_percentile")
"""The fields that clip the gradient."""


TOLD = 3
"""The largest number of mistakes that one message lists."""


def _schedule(value: object, info: ValidationInfo) -> Schedule:
    if isinstance(value, Schedule):
        return value
    place = "schedule" if info.field_name == "schedule" else f"a value of {info.field_name}"
    if value is None:
        raise BadTypeError(f'{place} is None: give "constant()" for a value that stays')
    if callable(value) and all(row.make is not value for row in KINDS.values()):
        raise BadTypeError(
            f"{place} is {kind_of(value)}: register it by a name, "
            "etude.schedules.register('mine', f), and give \"function('mine')\""
        )
    return parse(value)  # type: ignore[arg-type]


def _number(value: object, info: ValidationInfo) -> object:
    """Raise for values that pydantic would accept as a number: True, and text."""
    if is_flag(value) or isinstance(value, (str, bytes)):
        raise BadTypeError(
            f"{info.field_name}={shown(value)} is not a number: give one without quotes"
        )
    return value


def _batch_size(value: object, check: Callable[[object], int]) -> int | str:
    if isinstance(value, str) and value != "all" and not value.isdigit():
        raise BadTypeError(
            f"batch_size={shown(value)} is not a whole number: give a whole number of at least 1, "
            "such as 64, or 'all'"
        )
    return "all" if value == "all" else check(value)


def _lr_mult(value: object) -> LrMult | None:
    return None if value is None else LrMult.of(value)


def _plain_named(value: SpikePolicy | Compression | None) -> str | None:
    return None if value is None else repr(value)


def _plain_lr_mult(value: LrMult | None) -> object:
    return None if value is None else value.plain()


ScheduleField = Annotated[Schedule, BeforeValidator(_schedule), PlainSerializer(repr)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
if TYPE_CHECKING:
    BatchSize = int | Literal["all"]
    LrMultField = LrMult | None
    SpikesField = SpikePolicy | None
    CompressField = Compression | None
else:  # pydantic would report every mistake in a union twice, and before 2.14 look into LrMult
    LrMultField = Annotated[Any, BeforeValidator(_lr_mult), PlainSerializer(_plain_lr_mult)]
    SpikesField = Annotated[Any, BeforeValidator(spike_policy), PlainSerializer(_plain_named)]
    CompressField = Annotated[Any, BeforeValidator(compression), PlainSerializer(_plain_named)]
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
    """How to learn: an immutable, validated recipe. Equal recipes give the same bits.

    Attributes:
        optimizer: A name of `etude.optimizers`, a torch Optimizer class, or a function of parameter
            groups and the rate; or a table of one of these, as 'name', and hyperparameters. Others
            keep their defaults.
        lr: The peak of the learning rate. Update t uses `lr * schedule(t)`. The default is 1 for
            an optimizer that sizes its own step, and 0.001 for any other.
        lr_mult: Multipliers of the rate for parts of the model: a table of selectors, such as
            {"*[forget]": 3.0, "conv*": 2.0}, or a policy, such as "decay(0.75)"; None for none.
        schedule: The schedule that multiplies `lr`, as a Schedule or its text. By default it is
            constant for an optimizer with a line search, and constant after a warmup for
            Schedule-Free.
        schedules: Schedules of other hyperparameters ('momentum', 'weight_decay', 'eps', ...), in
            absolute values.
        steps: Length in optimizer updates, or with a unit: '20 epochs', '1e6 samples'.
        batch_size: Samples per batch, or 'all'; None is 64, or a DataLoader's own batch size.
        accumulate: Batches whose gradients are averaged into one update.
        clip_norm: Largest 2-norm of the gradient over all parameters; None does not clip.
        clip_value: Largest magnitude of any one entry of the gradient; None does not clip.
        clip_adaptive: Largest norm of a unit's gradient as a share of its weights' (AGC).
        clip_percentile: Clip the norm at this percentile of the norms of the run so far
            (AutoClip).
        spikes: What to do at a spike of the loss or of the gradient: 'skip' the step, 'rewind' to
            earlier weights, or 'zclip', clip by z-score; with numbers, as in 'skip(sigmas=5)'; see
            `etude.recipe_spikes`. None does nothing.
        l1: Coefficient of a penalty on the sum of the weights' magnitudes.
        l2: Coefficient of a penalty on half the sum of the weights' squares.
        activity: Coefficient of a penalty on the mean squares of the layers' activations.
        dropout: The rate of every dropout layer of the model; None keeps the model's own rates.
        label_smoothing: The share of each label that is spread evenly over the classes.
        early_stopping: Number of evaluations without a lower validation loss after which
            training stops and the best weights are restored; None trains to the end.
        initialisation: How to initialise the weights: 'xavier_normal', 'he_normal', 'orthogonal',
            'lsuv', ...; None keeps the model's own initialisation.
        evaluations: Number of evaluations on the validation data during the run, besides one
            before it. Early stopping uses their loss, and schedules with feedback, such as
            `plateau`, use the loss (the task's metric with on='metric' or mode='max').
        precision: 'float32', or 'bfloat16' or 'float16' for autocast around the forward pass. In
            'float16' the loss is scaled, as `torch.amp.GradScaler` does; a step whose gradient
            overflows is no update, and is taken again with the next batch.
        compress: How the processes of a data-parallel run exchange gradients: 'fp16', 'bf16',
            'powersgd', 'topk', 'local-sgd' or 'diloco', with numbers as in 'powersgd(rank=2)'; see
            `etude.recipe_exchange`. None, or 'none', exchanges them whole.
        seed: The only source of randomness: weights, data order, dropout.

    Raises:
        RecipeError: If a field is unknown or out of bounds; the message gives the fix.

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
    steps: Annotated[int | str, BeforeValidator(run_length)] = "20 epochs"
    batch_size: BatchSize | None = None
    accumulate: Count = 1
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    clip_adaptive: Positive | None = None
    clip_percentile: Percentile | None = None
    spikes: SpikesField = None
    l1: Positive | None = None
    l2: Positive | None = None
    activity: Positive | None = None
    dropout: Share | None = None
    label_smoothing: Share | None = None
    early_stopping: Count | None = None
    initialisation: Initialisation | None = None
    evaluations: Count = 20
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compress: CompressField = None
    seed: Annotated[int, BeforeValidator(_number), Field(ge=0, lt=2**63)] = 0

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**{**usual(fields.get("optimizer")), **fields})
        except ValidationError as error:
            told = [
                explain(mistake, type(self).model_fields)
                for mistake in error.errors(include_url=False)[:TOLD]
            ]
            more = error.error_count() - len(told)
            rest = [f"and {more:,} more mistakes"] if more else []
            raise RecipeError("; ".join(told + rest)) from None

    @field_validator("schedules", mode="after")
    @classmethod
    def _freeze(cls, value: Mapping[str, Schedule]) -> Mapping[str, Schedule]:
        return MappingProxyType(dict(sorted(value.items())))

    def model_post_init(self, _: Any) -> None:
        """Check the conditions that involve several fields."""
        row = optimizers.get(self.optimizer.name)
        selectors(self.optimizer.hyperparameters.get("matrix", ()))
        check_schedules(row, self.schedule, self.schedules)
        set_ = {name: getattr(self, name) for name in CLIPPING}
        check_clipping(row, {name: v for name, v in set_.items() if v is not None}, self.spikes)
        check_precision(row, self.precision)

    def replace(self, **changes: Any) -> Self:
        """Return a recipe with some fields changed, validated again."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changes})

    def bound_schedule(self, clock: Clock) -> Schedule:
        """Return `schedule` bound to the length of a run; its values are checked to be at least 0.

        Args:
            clock: The run's clock, with a horizon.

        Raises:
            BadValueError: If a value during the run is negative or not finite.
        """
        bound = self.schedule.over(clock)
        try:
            Number(1.0).check_run("schedule", bound, clock.horizon)
        except BadValueError as error:
            raise RecipeError(str(error)) from None
        return bound

    def bound_schedules(self, clock: Clock) -> dict[str, Schedule]:
        """Return `schedules` bound to the length of a run; their values are checked against bounds.

        Args:
            clock: The run's clock, with a horizon.

        Raises:
            BadValueError: If a value during the run is one that the optimizer does not accept.
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
            "spikes": _plain_named(self.spikes),
            "compress": _plain_named(self.compress),
            "schedule": repr(self.schedule),
            "schedules": {name: repr(s) for name, s in self.schedules.items()},
            **{
                name: getattr(self, name)
                for name in type(self).model_fields
                if name
                not in ("optimizer", "lr", "lr_mult", "schedule", "schedules", "spikes", "compress")
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
            RecipeError: If its content is not a recipe; the message names the file.
        """
        path = Path(path)
        text = files.read_text(path, "the recipe", LARGEST)
        read = json_table if path.suffix == ".json" else toml_table
        try:
            table = read(text)
            if not set(table) - {"version"}:
                raise RecipeError(
                    "the file has no field of a recipe: give at least one, such as lr = 0.001, "
                    "or leave the file out to use the task's own recipe"
                )
            return cls._from_table(table)
        except EtudeError as error:
            raise RecipeError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the recipe to a .toml or .json file, atomically.

        Raises:
            BadValueError: If the file's name has another ending.
        """
        path = Path(path)
        if path.suffix not in (".toml", ".json"):
            raise BadValueError(
                f"{str(path)!r}: a recipe is saved as TOML or JSON: give a name that ends in .toml "
                "or .json"
            )
        files.write_text(path, self.to_json() if path.suffix == ".json" else self.to_toml())

    def to_pytorch(self, *_: object, **__: object) -> NoReturn:
        """Raise an error that names the function that replaced this method."""
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
        return _received, (type(self), self.to_json(), own_factory(self.optimizer.name))


def _received(kind: type[Recipe], text: str, own: Callable[..., Any] | None) -> Recipe:
    """Return a recipe in the process to which it was sent, with the optimizer of one's own."""
    if own is not None:
        optimizers.own(own)
    return kind.from_json(text)


def usual(optimizer: object) -> dict[str, Any]:
    """Return the default rate and schedule for optimizers for which AdamW's would be wrong."""
    try:
        row = optimizers.get(OptimizerChoice.of(optimizer).name)
    except EtudeError:
        return {}  # an invalid optimizer raises its error where it is validated
    usual: dict[str, Any] = {"lr": 1.0} if row.rate_free else {}
    if row.closure:
        usual["schedule"] = "constant()"
    elif row.schedule_free:
        usual["schedule"] = "warmup('5%') >> constant()"
    return usual
