"""Measures how the loss responds to the rate of each kind of layer and of each gate.

Short runs are compared in pairs with the same seed, so with the same weights and batches: one with
and one without a multiplier for a part. Only effects that exceed the margin over the seeds are
proposed, and all proposed multipliers together are tried again on new seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from etude import optimizers
from etude.errors import BadTypeError, BadValueError, TaskError, as_whole, check_real
from etude.layerwise.model_parts import parts_of
from etude.layerwise.parts import KINDS, Part, layer_count
from etude.layerwise.planning import plan
from etude.layerwise.selectors import Selector
from etude.measure.effect import Effect
from etude.progress import Bar, bar
from etude.recipe import Recipe
from etude.shows_itself import ShowsItself
from etude.tasks.task import Task
from etude.training.checks.validation import check_given
from etude.training.run import Run
from etude.warning_filters import filters_kept

ALL = "*"
"""The control: one multiplier for all rates. The effect of a part is compared with it."""

TOGETHER = "all together"
"""The name of the trial of all proposed multipliers together."""

SHORTEST = 16
"""The smallest number of updates of a run that can be compared."""

SEEDS = (2, 10)
"""The bounds of the number of seeds: a spread needs two, and ten cost as much as tuning."""


@dataclass(frozen=True)
class Response:
    """The effect of multiplying one part's rate.

    Attributes:
        part: The selector of the part.
        factor: The multiplier.
        losses: The validation loss for each seed; infinite if the run diverged.
        effects: For each seed, the loss without the multiplier minus the loss with it.
    """

    part: str
    factor: float
    losses: tuple[float, ...]
    effects: tuple[float, ...]

    @property
    def effect(self) -> float:
        """The mean gain: positive if the multiplier lowers the loss."""
        return math.fsum(self.effects) / len(self.effects) if self.finite else -math.inf

    @property
    def finite(self) -> bool:
        """Whether no run diverged."""
        return all(map(math.isfinite, self.effects))

    @property
    def spread(self) -> float:
        """The standard deviation of the gain over the seeds."""
        if not self.finite:
            return math.inf
        centre, count = self.effect, len(self.effects)
        return math.sqrt(math.fsum((e - centre) ** 2 for e in self.effects) / (count - 1))

    @property
    def margin(self) -> float:
        """Half the width of the 95% interval of the mean gain: t · spread / sqrt(n)."""
        return t_quantile(0.975, len(self.effects) - 1) * self.spread / math.sqrt(len(self.effects))

    @property
    def verdict(self) -> Effect:
        """Whether the multiplier lowers or raises the loss by more than the margin."""
        if not self.finite:
            return Effect.DIVERGED
        if abs(self.effect) <= self.margin:
            return Effect.NOTHING
        return Effect.BETTER if self.effect > 0 else Effect.WORSE


@dataclass(frozen=True)
class Sensitivity(ShowsItself):
    """The result of `sensitivity`.

    Attributes:
        task: The name of the task.
        recipe: The recipe that was varied.
        steps: The number of updates of each run.
        seeds: The seeds of all comparisons.
        baseline: The validation loss of the unchanged recipe, for each seed.
        responses: One for each part and factor.
        proposal: The proposed multipliers; empty if there are none.
        trial: The response to all multipliers that looked better, together, on new seeds. It is
            compared with one rate for all parts: the recipe's, or a multiple of it if that looked
            better. None if no multiplier looked better, or if together they are one multiplier for
            the whole model.
        cost: The cost in full runs of the recipe.
        left_out: Why gates were not measured; empty if they were.
    """

    task: str
    recipe: Recipe
    steps: int
    seeds: tuple[int, ...]
    baseline: tuple[float, ...]
    responses: tuple[Response, ...]
    proposal: Mapping[str, float]
    trial: Response | None
    cost: float
    left_out: str = ""

    @property
    def whole(self) -> Response | None:
        """The response to one multiplier for all rates, if it is better; else None."""
        return _whole(self.responses)

    def advice(self) -> str:
        """Return the conclusion in a few sentences."""
        words = []
        whole = self.whole
        if whole is not None:
            words.append(
                f"All rates × {whole.factor:.3g} lower the loss by {whole.effect:.3g}: the rate "
                f"itself is too {'low' if whole.factor > 1 else 'high'}, which affects every "
                "part. Tune the rate first, then measure again."
            )
        if self.proposal and self.trial is not None:
            rules = ", ".join(f"{part} × {factor:g}" for part, factor in self.proposal.items())
            words.append(
                f"Proposed: {rules}. On new seeds this lowers the loss by "
                f"{self.trial.effect:.3g} ± {self.trial.margin:.2g}, compared with "
                f"{self._one_rate()}."
            )
        elif self.trial is not None:
            words.append(
                "The multipliers that looked better do not lower the loss on new seeds, "
                f"compared with {self._one_rate()} ({self.trial.effect:+.3g} "
                f"± {self.trial.margin:.2g}): keep one rate for all parts."
            )
        elif any(r.part != ALL and r.verdict == Effect.BETTER for r in self.responses):
            words.append(
                "The multipliers that looked better are together one multiplier for the whole "
                "model: tune the rate instead, and keep one rate for all parts."
            )
        else:
            words.append(
                "No multiplier helps by more than its margin: keep one rate for all parts."
            )
        chance = 0.025 * len([r for r in self.responses if r.part != ALL])
        hits = len([r for r in self.responses if r.part != ALL and r.verdict == Effect.BETTER])
        if hits:
            words.append(
                f"Multipliers that looked better: {hits}; by chance about {chance:.1g} would."
            )
        return " ".join([*words, *([self.left_out] if self.left_out else [])])

    def _one_rate(self) -> str:
        whole = self.whole
        return "the recipe's one rate" if whole is None else f"all rates × {whole.factor:.3g}"

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""

        def row(response: Response) -> dict[str, Any]:
            return {
                "part": response.part,
                "factor": response.factor,
                "effect": response.effect if response.finite else None,
                "spread": response.spread if response.finite else None,
                "margin": response.margin if response.finite else None,
                "verdict": response.verdict,
                "losses": [v if math.isfinite(v) else None for v in response.losses],
            }

        return {
            "task": self.task,
            "recipe": self.recipe.plain(),
            "steps": self.steps,
            "seeds": list(self.seeds),
            "baseline": [v if math.isfinite(v) else None for v in self.baseline],
            "responses": [row(response) for response in self.responses],
            "proposal": dict(self.proposal),
            "trial": None if self.trial is None else row(self.trial),
            "cost": self.cost,
            "advice": self.advice(),
        }


@filters_kept()
def sensitivity(
    task: Task,
    recipe: Recipe | None = None,
    *,
    budget: float = 6.0,
    seeds: int = 4,
    factor: float = 3.0,
    parts: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Sensitivity:
    """Measure how the loss responds to the rate of each layer kind and each gate.

    The rate of each part is multiplied by `factor` and by 1 / `factor`, in runs that are as long as
    the budget allows; the recipe's schedule is stretched to their length. With d the differences
    of paired losses over n seeds, a multiplier helps if mean(d) > t(0.975, n − 1) · s(d) / sqrt(n).

    Args:
        task: The task.
        recipe: The recipe, with one rate for all parts; None takes the task's defaults.
        budget: The budget in full runs of the recipe; it includes the trial of the proposal.
        seeds: The number of seeds, 2 to 10, from the recipe's seed on.
        factor: The factor by which rates are multiplied and divided, above 1.
        parts: Selectors; None takes the kinds of layers and the gates of the model.
        device: As in `train`.
        progress: Whether to draw a bar; None draws it at a terminal, and otherwise writes a line
            from time to time.

    Returns:
        The response of the loss to each multiplier, and the proposed multipliers.

    Raises:
        BadValueError: If a number is out of bounds, the budget too small, or the recipe has
            multipliers already.

    >>> from etude import tasks
    >>> found = sensitivity(tasks.get("cancer-mlp"), budget=0.6, seeds=2, progress=False)
    >>> [(r.part, round(r.factor, 2)) for r in found.responses]
    [('*', 0.33), ('*', 3.0), ('@bias', 0.33), ('@bias', 3.0)]
    """
    check_given(task, recipe)
    recipe = recipe or Recipe(**task.defaults)
    _check(recipe, budget, seeds, factor)
    first = Run(task, recipe, device=device)
    first.check()
    chosen, left_out = _parts(first, parts)
    factors = (1 / factor, factor)
    runs = seeds * (1 + len(factors) * len(chosen)) + 2 * seeds
    steps = math.floor(budget * first.length / runs)
    if steps < SHORTEST:
        raise BadValueError(
            f"budget={budget:g} leaves {steps} updates for each of {runs} runs, too few to "
            f"compare: give at least {SHORTEST * runs / first.length:.2g}, or fewer seeds or parts"
        )
    with bar(progress, f"{task.name}: sensitivity") as draw:
        lab = _Lab(first, recipe.replace(steps=steps), draw, runs)
        own = tuple(recipe.seed + i for i in range(seeds))
        baseline = lab.losses(None, own)
        if not all(map(math.isfinite, baseline)):
            raise TaskError(
                f"the recipe itself diverges at lr={recipe.lr:g}: lower the rate, then measure"
            )
        responses = tuple(
            lab.response({part: f}, part, f, own, baseline) for part in chosen for f in factors
        )
        wanted = _propose(responses, parts_of(first.model))
        whole = _whole(responses)
        trial = None
        if wanted and not _is_one_rate(wanted, first):
            fresh = tuple(recipe.seed + seeds + i for i in range(seeds))
            beside = None if whole is None else {ALL: whole.factor}
            trial = lab.response(wanted, TOGETHER, factor, fresh, lab.losses(beside, fresh))
    holds = trial is not None and trial.verdict == Effect.BETTER
    return Sensitivity(
        task.name,
        recipe,
        steps,
        own,
        baseline,
        responses,
        wanted if holds else {},
        trial,
        lab.updates / first.length,
        left_out,
    )


class _Lab:
    """Trains short runs of the task of a first run, which was checked, and counts their cost."""

    def __init__(self, first: Run, recipe: Recipe, draw: Bar, runs: int) -> None:
        self.first, self.recipe = first, recipe
        self.draw, self.runs = draw, runs
        self.done = self.updates = 0

    def losses(self, rules: Mapping[str, float] | None, seeds: Iterable[int]) -> tuple[float, ...]:
        """Return the validation loss after training with each seed; infinite if it diverged."""
        found = []
        for seed in seeds:
            recipe = self.recipe.replace(seed=seed, lr_mult=rules)
            run = Run(self.first.task, recipe, device=self.first.device)
            run.limit_threads(self.first.threads)  # unless it is checked, a run uses all threads
            run.advance()
            loss = math.inf if run.diverged else run.evaluate().loss
            found.append(loss if math.isfinite(loss) else math.inf)
            self.updates += run.step
            self.done += 1
            self.draw(self.done, self.runs, "" if rules is None else " ".join(rules))
        return tuple(found)

    def response(
        self,
        rules: Mapping[str, float],
        part: str,
        factor: float,
        seeds: tuple[int, ...],
        baseline: tuple[float, ...],
    ) -> Response:
        """Return the response to multipliers, compared with the baseline of the same seeds."""
        losses = self.losses(rules, seeds)
        effects = tuple(before - after for before, after in zip(baseline, losses, strict=True))
        return Response(part, factor, losses, effects)


def _check(recipe: Recipe, budget: float, seeds: int, factor: float) -> None:
    if recipe.lr_mult is not None:
        raise BadValueError(
            "the recipe has lr_mult: sensitivity starts from one rate, leave it out"
        )
    if as_whole(seeds) is None:
        raise BadTypeError(f"seeds={seeds!r} is not a whole number: give 2 to 10")
    if not SEEDS[0] <= seeds <= SEEDS[1]:
        raise BadValueError(f"seeds={seeds!r} is out of bounds: a spread needs 2 to 10")
    for name, value, low in (("budget", budget, 0.0), ("factor", factor, 1.0)):
        number = check_real(name, value, f"one above {low:g}")
        if not (math.isfinite(number) and number > low):
            raise BadValueError(f"{name}={value!r} is out of bounds: give a number > {low:g}")


def _parts(run: Run, wanted: Sequence[str] | None) -> tuple[list[str], str]:
    """Return the control and the parts to measure, and why some were left out."""
    row = optimizers.get(run.recipe.optimizer.name)
    if wanted is not None:
        for text in wanted:
            plan({text: 2.0}, run.model)  # raises for a selector that is wrong
        return [ALL, *(text for text in dict.fromkeys(wanted) if text != ALL)], ""
    parts = parts_of(run.model)
    found = [
        f"@{kind}"
        for kind in (*(k for k in KINDS if k != "other"), "bias")
        if _is_some(f"@{kind}", parts)
    ]
    gates = dict.fromkeys(
        gate for part in parts for gate, (first, last) in part.gates.items()
        if last - first < part.rows
    )  # fmt: skip
    if gates and not row.linear:
        why = f"Gates were left out: {row.name} cannot have separate rates within a tensor."
        return [ALL, *found], why
    return [ALL, *found, *(f"*[{gate}]" for gate in gates)], ""


@cache
def t_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t for some degrees of freedom.

    >>> round(t_quantile(0.975, 3), 4)
    3.1824
    """
    from scipy.stats import t  # imported here, because loading it is slow

    return float(t.ppf(share, freedom))


def _whole(responses: Sequence[Response]) -> Response | None:
    """Return the better response to one multiplier for all rates, if one is better."""
    found = [r for r in responses if r.part == ALL and r.verdict == Effect.BETTER]
    return max(found, key=lambda r: r.effect, default=None)


def _is_one_rate(rules: Mapping[str, float], run: Run) -> bool:
    """Return whether rules give all parts of a model the same multiplier."""
    return len({row.multiplier for row in plan(rules, run.model).rows}) == 1


def _is_some(text: str, parts: Sequence[Part]) -> bool:
    """Return whether a selector matches some of the parts, but not all."""
    covered = [Selector.of(text).covers(part, layer_count(tuple(parts))) for part in parts]
    return any(covered) and not all(covered)


def _propose(responses: Sequence[Response], parts: Sequence[Part]) -> dict[str, float]:
    """Return the best factor of each part that has a better one, gates before their layers."""
    best: dict[str, Response] = {}
    for response in responses:
        part = response.part
        if part == ALL or response.verdict != Effect.BETTER:
            continue
        if part not in best or response.effect > best[part].effect:
            best[part] = response
    order = sorted(best.values(), key=lambda r: (_width(r.part, parts), -r.effect))
    rules: dict[str, float] = {}
    for response in order:
        try:
            plan({**rules, response.part: response.factor}, parts)
        except BadValueError:
            continue  # narrower parts, which come first, cover all of it
        rules[response.part] = response.factor
    return rules


def _width(text: str, parts: Sequence[Part]) -> int:
    """Return the number of scalars that a selector matches; the narrower rule comes first."""
    depths = layer_count(tuple(parts))
    return sum(
        part.count // part.rows * (last - first)
        for part in parts
        for first, last, _ in Selector.of(text).spans(part, depths)
    )
