"""The options that say how to train, declared once: every verb that trains takes the same ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from etude.cli import choices
from etude.cli.lr_mult import rules

if TYPE_CHECKING:
    from etude.recipe import Recipe
    from etude.tasks import Task

Verb = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What was typed of a recipe; None where nothing was.

    A verb declares one parameter of this type and the decorator `takes_recipe`, and then has all
    of these options. To add an option, add a field here.
    """

    lr: Annotated[float | None, typer.Option("--lr", help="The peak of the rate.")] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE",
            help="A recipe file, .toml or .json (default: the object `recipe` beside your task, "
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
        int | None, typer.Option("--batch-size", help="Samples in one batch.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="The only source of randomness.")] = (
        None
    )
    weight_decay: Annotated[
        float | None,
        typer.Option("--weight-decay", help="The optimizer's weight decay."),
    ] = None
    lr_mult: Annotated[
        list[str] | None,
        typer.Option(
            "--lr-mult",
            metavar="SELECTOR=FACTOR | POLICY",
            help="A rule, repeatable, the first match wins; or policies joined by *.",
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
        """Return the task's recipe, or the file's, with what was typed.

        Args:
            task: Whose defaults to start from where there is no file.
            reference: Of the task: a Recipe called `recipe` beside it comes before the defaults.

        Raises:
            BadValueError: If a value is wrong; the message names the option.
        """
        typed = {name: getattr(self, name) for name in _RECIPE if getattr(self, name) is not None}
        if self.lr_mult:
            typed["lr_mult"] = rules(self.lr_mult)
        else:
            typed.pop("lr_mult", None)
        return choices.choose_recipe(
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
    "lr_mult",
)
"""The fields that change a recipe by themselves."""

_HINTS = get_type_hints(RecipeOptions, include_extras=True)


def _option(name: str) -> Any:
    """Return typer's description of a field's option."""
    return get_args(_HINTS[name])[1]


def _spelling(name: str) -> str:
    spelling: str = _option(name).param_decls[0]
    return spelling


def takes_recipe(
    *, without: tuple[str, ...] = (), help: Mapping[str, str] | None = None
) -> Callable[[Verb], Verb]:
    """Give a verb the options of a recipe, in place of its parameter of type `RecipeOptions`.

    Args:
        without: Fields that the verb does not take, or has a meaning of its own for.
        help: Help texts of fields that mean more to the verb, by the field.
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
