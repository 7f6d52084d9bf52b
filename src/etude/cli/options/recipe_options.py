"""The options of a recipe, declared once for all verbs that train."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from etude.cli.options.choices import batch_size, length, pairs
from etude.cli.options.lr_mult import rules
from etude.cli.terminal.console import err
from etude.errors import BadValueError, EtudeError, shown

if TYPE_CHECKING:
    from etude.recipe import Recipe
    from etude.tasks import Task

Verb = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """The options of a recipe that the user typed; None for those that were not typed.

    A verb with a parameter of this type and the decorator `takes_recipe` has all of these options.
    To add an option, add a field here.
    """

    lr: Annotated[float | None, typer.Option("--lr", help="The peak of the rate.")] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="A recipe file, .toml or .json (default: the object `recipe` in your task's file, "
            "else the task's own defaults).",
        ),
    ] = None
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="The optimizer's name.")] = (
        None
    )
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", help="The schedule, such as \"warmup('5%') >> cosine()\"."),
    ] = None
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", metavar="LENGTH", help="Length: a number of updates, or '20 epochs'."
        ),
    ] = None
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            metavar="N|all",
            help="Samples in one batch; 'all' for the whole training data.",
        ),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="The only source of randomness.")] = (
        None
    )
    weight_decay: Annotated[
        float | None,
        typer.Option("--weight-decay", help="The optimizer's weight decay."),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="Precision of the forward pass: float32, bfloat16, or float16 with a loss scale.",
        ),
    ] = None
    compress: Annotated[
        str | None,
        typer.Option(
            "--compress",
            metavar="METHOD",
            help="How processes exchange gradients: none, fp16, bf16, powersgd, topk, local-sgd, "
            "diloco; with numbers as in 'powersgd(rank=2)'.",
        ),
    ] = None
    lr_mult: Annotated[
        list[str] | None,
        typer.Option(
            "--lr-mult",
            metavar="RULE|POLICY",
            help="A rule SELECTOR=FACTOR, repeatable (the first match wins), or policies "
            "joined by *.",
        ),
    ] = None
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A field of the recipe, repeatable: clip_norm=1, l2=1e-4, optimizer.momentum=0.9.",
        ),
    ] = None
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="KEY=VALUE", help="An option of the task's model or data, repeatable."
        ),
    ] = None
    device: Annotated[
        str | None, typer.Option("--device", help="Where to train: cpu, cuda, mps, ...")
    ] = None

    def choose(self, task: Task, reference: str | None) -> Recipe:
        """Return the task's recipe, or the file's, with the options that were typed.

        Args:
            task: The task, whose defaults are used if there is no file.
            reference: The reference of the task. If its file defines a Recipe with the name
                `recipe`, this is used instead of the defaults.

        Raises:
            BadValueError: If a value is wrong; the message names the option.
        """
        typed = {name: getattr(self, name) for name in _RECIPE if getattr(self, name) is not None}
        if self.lr_mult:
            typed["lr_mult"] = rules(self.lr_mult)
        else:
            typed.pop("lr_mult", None)
        return choose_recipe(
            task,
            self.recipe,
            self.changes,
            reference=reference,
            spelt={name: _spelling(name) for name in typed},
            **typed,
        )

    def typed(self, *, without: tuple[str, ...] = ()) -> list[str]:
        """Return the options of the recipe that were typed, as words of a command line.

        Args:
            without: Names of fields to leave out.
        """
        words: list[str] = []
        for name in ("recipe", *_RECIPE, "changes"):
            value = getattr(self, name)
            if value is None or name in without:
                continue
            for one in value if isinstance(value, list) else [value]:
                words += [_spelling(name), str(one)]
        return words


_RECIPE = (
    "lr",
    "optimizer",
    "schedule",
    "steps",
    "batch_size",
    "seed",
    "weight_decay",
    "precision",
    "compress",
    "lr_mult",
)
"""The fields that set a field of the recipe with the same name."""

_READ: dict[str, Callable[[str | None], int | str | None]] = {
    "steps": length,
    "batch_size": batch_size,
}
"""How those are read that take a number or a text, such as '20 epochs' or 'all'."""

_HINTS = get_type_hints(RecipeOptions, include_extras=True)


def _option(name: str) -> Any:
    """Return typer's description of a field's option."""
    return get_args(_HINTS[name])[1]


def _spelling(name: str) -> str:
    option = _option(name)
    # In Annotated, typer stores the first name as the default.
    names = [one for one in (option.default, *option.param_decls) if isinstance(one, str)]
    return names[0]


def takes_recipe(
    *, without: tuple[str, ...] = (), help: Mapping[str, str] | None = None
) -> Callable[[Verb], Verb]:
    """Replace a verb's parameter of type `RecipeOptions` by the options of a recipe.

    Args:
        without: Fields that the verb does not take, or defines itself.
        help: Help texts for fields that have a special meaning for the verb, by field.
    """
    names = [one.name for one in fields(RecipeOptions) if one.name not in without]

    def expand(verb: Verb) -> Verb:
        hints = get_type_hints(verb, include_extras=True)
        parameters: list[inspect.Parameter] = []
        place = ""
        for name, parameter in inspect.signature(verb).parameters.items():
            if hints[name] is RecipeOptions:
                place = name
                parameters += [_parameter(field, (help or {}).get(field)) for field in names]
            else:
                parameters.append(parameter.replace(annotation=hints[name]))

        def called(**given: Any) -> None:
            typed = RecipeOptions(**{name: given.pop(name) for name in names})
            verb(**given, **{place: typed})

        called.__doc__, called.__name__ = verb.__doc__, verb.__name__
        called.__module__ = verb.__module__
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return expand


def _parameter(name: str, text: str | None) -> inspect.Parameter:
    kind = _HINTS[name]
    if text is not None:
        option = copy(_option(name))
        option.help = text
        kind = Annotated[get_args(kind)[0], option]
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind
    )


def choose_recipe(
    task: Task,
    file: Path | None,
    changes: list[str] | None,
    *,
    reference: str | None = None,
    spelt: Mapping[str, str] | None = None,
    **named: Any,
) -> Recipe:
    """Return the task's recipe, or the file's, with the requested changes.

    Args:
        task: The task, whose defaults are used if there is no file.
        file: A recipe file.
        reference: The reference of the task. If its file defines a Recipe with the name `recipe`,
            this is used instead of the defaults.
        changes: FIELD=VALUE texts; 'optimizer.momentum=0.9' sets a hyperparameter.
        spelt: The option as which each of the named fields was typed, for errors.
        **named: Fields that have their own options, and the optimizer's `weight_decay`; None
            changes nothing.

    Raises:
        RecipeError: If a field is unknown or out of bounds.
    """
    recipe = _start(task, file, reference)
    try:
        return _changed(recipe, changes, named)
    except EtudeError as error:
        for name, option in (spelt or {}).items():
            if str(error) == _fault(recipe, {name: named[name]}):
                error.args = (_said_of(option, name, named[name], str(error)),)
                break
        raise


def _said_of(option: str, name: str, value: Any, error: str) -> str:
    """Return the error of a field, with the option as it was typed in place of the field.

    >>> _said_of("--lr", "lr", -1.0, "lr=-1.0 is out of bounds: give a number above 0")
    '--lr -1.0 is out of bounds: give a number above 0'
    >>> _said_of("--steps", "steps", "1.5", "steps=1.5: give a whole number")
    '--steps 1.5: give a whole number'
    """
    typed = "" if isinstance(value, dict) else f" {shlex.quote(str(value))}"
    read = _READ[name](value) if name in _READ else value
    field = f"{name}={shown(read)}"
    if error.startswith(field):
        return f"{option}{typed}{error.removeprefix(field)}"
    return f"{option}{typed}: {error.removeprefix(f'{name}: ')}"


def _fault(recipe: Recipe, named: Mapping[str, Any]) -> str:
    """Return the error of the first option that is invalid by itself, as text; empty if none is."""
    try:
        _changed(recipe, None, named)
    except EtudeError as error:
        return str(error)
    return ""


def _changed(recipe: Recipe, changes: list[str] | None, named: Mapping[str, Any]) -> Recipe:
    fields = {key: value for key, value in named.items() if value is not None}
    for name, read in _READ.items():
        if isinstance(typed := fields.get(name), str):
            fields[name] = read(typed)
    inner: dict[str, dict[str, Any]] = {}
    if (decay := fields.pop("weight_decay", None)) is not None:
        inner["optimizer"] = {"weight_decay": decay}
    for text in changes or ():
        ((key, value),) = pairs([text], "--set").items()
        outer, dot, name = key.partition(".")
        if dot:
            if decay is not None and (outer, name) == ("optimizer", "weight_decay"):
                raise BadValueError(f"--set {text}: --weight-decay sets it too: leave one out")
            inner.setdefault(outer, {})[_bare(name)] = value
        else:
            _refuse_misplaced(key, text, fields.get("optimizer"), recipe)
            fields[key] = value
    for outer, table in inner.items():
        fields[outer] = {**_table(outer, fields.get(outer), recipe), **table}
    return recipe.replace(**{**_suited(recipe, fields), **fields})


def _start(task: Task, file: Path | None, reference: str | None) -> Recipe:
    from etude.recipe import Recipe
    from etude.tasks.references.reference import beside

    if file is not None:
        return Recipe.load(file)
    own = None if reference is None else beside(reference, "recipe")
    if not isinstance(own, Recipe):
        return Recipe(**task.defaults)
    assert reference is not None
    err.print(
        f"The recipe is `recipe` of {reference.rpartition(':')[0]}.", style="dim", markup=False
    )
    return own


def _refuse_misplaced(key: str, text: str, optimizer: object, recipe: Recipe) -> None:
    """Check that a key is not a hyperparameter of an optimizer.

    Raises:
        BadValueError: If the optimizer, or another one, has it; the message says how to set it.
    """
    from etude import optimizers
    from etude.optimizers.choice import OptimizerChoice

    if key in type(recipe).model_fields:
        return
    row = optimizers.get(OptimizerChoice.of(optimizer or recipe.optimizer).name)
    spelt = f"--set {shlex.quote(f'optimizer.{text.strip()}')}"
    if key in row.hyperparameters:
        raise BadValueError(f"--set {text}: {key} belongs to the optimizer: write {spelt}")
    having = [name for name, one in optimizers.ROWS.items() if key in one.hyperparameters]
    if having:
        raise BadValueError(
            f"--set {text}: {row.name} has no {key}; it has {', '.join(row.hyperparameters)}. "
            f"With {key}, for instance: --optimizer {having[0]} {spelt}"
        )


def _suited(recipe: Recipe, fields: dict[str, Any]) -> dict[str, Any]:
    """Return rate and schedule for an optimizer for which those of the recipe are unsuitable.

    A rate of 0.001 suits Adam but not Prodigy, whose rate multiplies one that it estimates itself;
    and a line search needs no cosine schedule.
    """
    from etude import optimizers

    if "optimizer" not in fields:
        return {}
    usual = type(recipe)(optimizer=fields["optimizer"])
    old, new = (optimizers.get(one.optimizer.name) for one in (recipe, usual))
    suited: dict[str, Any] = {} if old.rate_free == new.rate_free else {"lr": usual.lr}
    if bool(new.closure) != bool(old.closure) or new.schedule_free != old.schedule_free:
        suited["schedule"] = usual.schedule
    return suited


def _table(field: str, given: Any, recipe: Recipe) -> dict[str, Any]:
    """Return the table to which FIELD.KEY=VALUE is added."""
    if field == "optimizer":
        plain = given if given is not None else recipe.optimizer.plain()
        return {"name": plain} if isinstance(plain, str) else dict(plain)
    if field == "schedules":
        return {**recipe.schedules, **(given or {})}
    if field == "lr_mult":
        plain = given if given is not None else recipe.lr_mult and recipe.lr_mult.plain()
        return {"@policy": plain} if isinstance(plain, str) else dict(plain or {})
    raise BadValueError(f"--set {field}.…: only 'optimizer', 'schedules' and 'lr_mult' have parts")


def _bare(name: str) -> str:
    """Return a key without the quotes that TOML requires for a key such as "*[forget]"."""
    return name[1:-1] if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'" else name
