"""The rate for another number of processes: by rule, tried in short paired runs, with its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from etude.distributed.large_batch import LargeBatch
from etude.engines import Engine
from etude.errors import BadTypeError, BadValueError, check_whole, shown, unknown_name
from etude.measure.noise_scale import NoiseScale, noise_scale
from etude.optimizers.prior import nice
from etude.recipe import Recipe
from etude.record import Evaluation, to_json
from etude.tasks.task import Task
from etude.training.clock import batch_size_of
from etude.trials.phase import Phase
from etude.trials.pool import TrialPool
from etude.trials.score import goal_for
from etude.trials.session import trial_session
from etude.trials.trial import Trial
from etude.tuning.recipes.space import with_warmup
from etude.tuning.result import tie
from etude.tuning.transfer.rules import family
from etude.tuning.transfer.scaling import linear, square_root
from etude.tuning.transfer.scaling import noise_scale as by_noise
from etude.warning_filters import filters_kept

MISS = 0.01
"""The share of the drop in loss by which a rule may miss before it is said."""

WARMUP = "5%"
"""The warmup that SGD gets at a larger batch if its schedule has none."""

RULES = ("linear", "square root", "noise scale")

SOURCES = {
    "linear": "Goyal et al. 2017, arXiv:1706.02677",
    "square root": "Malladi et al. 2022, arXiv:2205.10287; the betas: arXiv:2507.07101",
    "noise scale": "McCandlish et al. 2018, arXiv:1812.06162",
}


@dataclass(frozen=True)
class WorldRate:
    """The rate for another number of processes, and what the short runs showed.

    Attributes:
        task: The task's name.
        before: The number of processes for which the recipe was tuned.
        after: The number of processes now.
        rule: 'linear', 'square root' or 'noise scale'.
        recipe: The recipe for `after` processes, with the rule's rate.
        rates: Those tried, ascending; the rule's is `recipe.lr`.
        losses: Their validation losses after `updates`; infinite where training diverged.
        untrained: The validation loss before training.
        miss: By how much the rule's rate is worse than the best one tried, as a share of the drop
            in loss; infinite if the rule's rate diverged.
        confirmed: Whether the rule misses by at most 1% of the drop, or by no more than noise: two
            standard errors of the differences, slice by slice.
        best: The recipe to use: the rule's if it is confirmed, else that of the best rate.
        updates: Of each short run.
        length: Of the full run.
        noise: The gradient noise scale after the short run; None if it was not measured.
        limit: What follows from it for larger batches; None without it.
        cost: In full runs of the new recipe, the measurement of the noise included.
        compress: The recipe's compression, which the short runs leave out; empty for none.
    """

    task: str
    before: int
    after: int
    rule: str
    recipe: Recipe
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    untrained: float
    miss: float
    confirmed: bool
    best: Recipe
    updates: int
    length: int
    noise: NoiseScale | None
    limit: LargeBatch | None
    cost: float
    compress: str = ""

    @property
    def lr(self) -> float:
        """The rate to use."""
        return self.best.lr

    @property
    def trained(self) -> bool:
        """Whether any rate tried did better than the untrained model."""
        return min(self.losses) < self.untrained

    def advice(self) -> str:
        """Say what the short runs showed, and how far the batch can grow."""
        return " ".join(filter(None, (self._of_rule(), self._of_compression(), self._of_limit())))

    def _of_rule(self) -> str:
        share = f"after {self.updates} of {self.length} updates"
        if not self.trained:
            return (
                f"No rate from {self.rates[0]:g} to {self.rates[-1]:g} trains {share}: look for "
                "the fault in the model or the data, or tune the rate anew."
            )
        own, best = self.recipe.lr, self.rates[self.losses.index(min(self.losses))]
        if own == best:
            return f"Confirmed: {share} no rate tried is better than the rule's {own:g}."
        missed = (
            "it diverges" if math.isinf(self.miss) else f"it misses {self.miss:.1%} of the drop"
        )
        if self.confirmed and self.miss <= MISS:
            return f"Confirmed: {share} {best:g} is better than the rule's {own:g}, but {missed}."
        if self.confirmed:
            return (
                f"Not refuted: {share} {missed} against {best:g}, which is no more than two "
                "standard errors; give a larger share to be sure."
            )
        ends = self.rates[0], self.rates[-1]
        beyond = (
            " It is the last one tried: the best may lie beyond: tune there."
            if best in ends
            else ""
        )
        return f"Corrected: {share} {best:g} is better than the rule's {own:g}; {missed}.{beyond}"

    def _of_compression(self) -> str:
        if not self.compress:
            return ""
        return (
            f"The short runs exchange whole gradients: with compress={self.compress!r} the best "
            "rate may be another; tune it in the processes themselves."
        )

    def _of_limit(self) -> str:
        return "" if self.limit is None else self.limit.text(self.before, self.after)

    def plain(self) -> dict[str, Any]:
        """Return the findings as plain values that JSON can hold."""
        noise = self.noise
        return {
            "task": self.task,
            "before": self.before,
            "after": self.after,
            "rule": self.rule,
            "source": SOURCES[self.rule],
            "lr": self.lr,
            "rule_lr": self.recipe.lr,
            "confirmed": self.confirmed,
            "miss": to_json(self.miss),
            "advice": self.advice(),
            "rates": list(self.rates),
            "losses": [to_json(loss) for loss in self.losses],
            "untrained_loss": to_json(self.untrained),
            "updates": self.updates,
            "length": self.length,
            "noise_scale": None if noise is None else to_json(noise.samples),
            "noise_scale_error": None if noise is None else to_json(noise.error),
            "limit": None if self.limit is None else self.limit.plain(),
            "cost": self.cost,
            "recipe": self.best.plain(),
        }


@filters_kept()
def rate_for_world(
    task: Task,
    recipe: Recipe,
    *,
    after: int,
    before: int = 1,
    rule: str | None = None,
    share: float = 1 / 4,
    factor: float = 2.0,
    further: int = 2,
    engine: str | Engine | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> WorldRate:
    """Carry a tuned rate from `before` to `after` processes, each with as large a batch as before.

        κ = after / before:   B' = κ B,  steps' = steps / κ
        linear        lr' = κ lr, with a warmup                    (SGD)
        square root   lr' = √κ lr,  β' = β^κ,  ε' = ε / √κ         (Adam and its relatives)
        noise scale   lr' = lr ((1 + N/B) / (1 + N/B'))^α, α = 1 for SGD and 1/2 for Adam

    β^κ keeps the half-life of Adam's averages in samples. N is the gradient noise scale, measured
    where the short run at the other rule's rate ends. Then the rule's rate and its neighbours train
    for a share of the run, from the same weights and with the same batches. They run in this
    process: `after` processes give the same updates as one with their batches together.

    Args:
        task: What to learn.
        recipe: The recipe that was tuned; its `batch_size` is that of all processes together.
        after: The number of processes now.
        before: The number for which it was tuned.
        rule: One of the three; None takes 'linear' for SGD and 'square root' for Adam.
        share: Of the new run that is trained to judge. A short run judges early progress, which
            often prefers a higher rate than the end does.
        factor: Between neighbouring rates.
        further: Rates beyond the first three at most, while the best one is the last one tried.
        engine: What trains the runs, as in `grid`.
        device: Where to train; None takes the model's own device, else an accelerator.
        progress: Whether to draw a bar; None draws it at a terminal.

    Raises:
        BadValueError: If a number is out of bounds, no rule is known for the optimizer, or the
            batch cannot be shared out.
        TaskError: If model, data and loss do not fit together.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 512)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> tuned = Recipe(optimizer="sgd", lr=0.02, steps=400, batch_size=16)
    >>> found = rate_for_world(task, tuned, after=4, progress=False)
    >>> found.recipe.lr, found.recipe.batch_size, found.recipe.steps
    (0.08, 64, 100)
    """
    before, after = check_whole("before", before, 1), check_whole("after", after, 1)
    further = check_whole("further", further, 0)
    for name, number, low, high in (("share", share, 0, 1), ("factor", factor, 1, 100)):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise BadTypeError(f"{name}={shown(number)} is not a number")
        if not low < number <= high:
            raise BadValueError(
                f"{name}={number!r} is out of bounds: give a number in ({low}, {high}]"
            )
    if before == after:
        raise BadValueError(f"before and after are both {after}: nothing changes")
    kind = family(recipe, "batch size")
    usual = "linear" if kind == "sgd" else "square root"
    if rule is not None and rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    compress = "" if recipe.compress is None else repr(recipe.compress)
    recipe = recipe.replace(
        compress=None, batch_size=recipe.batch_size or batch_size_of(task, recipe)
    )
    size = _shared_out(recipe, before, after)
    task.train.check(size)
    chosen = rule or usual
    first = scaled(recipe, size, chosen if chosen != "noise scale" else usual)
    with trial_session(
        "tune", task, None, engine=engine, device=device, progress=progress
    ) as setting:
        short = _ShortRuns(TrialPool([task], first, math.inf, goal_for(task), setting), share)
        try:
            short.train(first.lr)
            noise = short.noise(first.lr)
            if chosen == "noise scale":
                first = first.replace(lr=_by_noise(recipe, size, noise, kind).lr)
                short.train(first.lr)
            short.around(first.lr, factor, further)
            return _result(task, recipe, first, short, noise, (before, after, chosen, compress))
        finally:
            short.pool.close()


def scaled(recipe: Recipe, batch_size: int, rule: str) -> Recipe:
    """Return a recipe at another batch size by the linear or the square-root rule.

    Args:
        recipe: A recipe that names its batch size.
        batch_size: The new one; the number of samples stays.
        rule: 'linear', with a warmup if the batch grows; or 'square root', with the half-lives of
            the betas held in samples.

    >>> moved = scaled(Recipe(batch_size=32, steps=800), 128, "square root")
    >>> moved.lr, [round(beta, 6) for beta in moved.optimizer.value("betas")]
    (0.002, [0.6561, 0.996006])
    >>> scaled(Recipe(optimizer="sgd", schedule="cosine()", batch_size=32), 64, "linear").schedule
    warmup('5%') >> cosine()
    """
    assert isinstance(recipe.batch_size, int)
    ratio = batch_size / recipe.batch_size
    if rule == "linear":
        moved = linear(recipe, batch_size)
        warm = ratio <= 1 or _begins_low(moved)
        return moved if warm else moved.replace(schedule=with_warmup(moved.schedule, WARMUP))
    return _half_lives_held(square_root(recipe, batch_size), ratio)


def _half_lives_held(recipe: Recipe, ratio: float) -> Recipe:
    """Return the recipe with betas whose half-lives are as many samples as before.

    β^(n/B) is what is left of a gradient after n samples: β'^(n/κB) is equal for β' = β^κ.
    """
    from etude import optimizers

    row = optimizers.get(recipe.optimizer.name)
    values = dict(recipe.optimizer.hyperparameters)
    if "betas" in row.hyperparameters:
        values["betas"] = tuple(beta**ratio for beta in recipe.optimizer.value("betas"))
    if "eps" in row.hyperparameters:
        values["eps"] = recipe.optimizer.value("eps") / math.sqrt(ratio)
    return recipe.replace(optimizer={"name": row.name, **values})


def _begins_low(recipe: Recipe) -> bool:
    """Whether the schedule begins below its largest value, as after a warmup from below."""
    from etude.schedules import Clock

    horizon = recipe.steps if isinstance(recipe.steps, int) else 1_000
    bound = recipe.schedule.over(
        Clock(horizon=horizon, steps_per_epoch=horizon, samples_per_step=1, tokens_per_step=1)
    )
    return bool(bound(0) < 0.5 * max(bound(t) for t in range(min(horizon, 1_000))))


def _shared_out(recipe: Recipe, before: int, after: int) -> int:
    """Return the batch of all processes together, after their number has changed."""
    size = recipe.batch_size
    if not isinstance(size, int):
        raise BadValueError(
            f"the recipe's batch_size is {size!r}, which does not grow with the processes: name a "
            "number, recipe.replace(batch_size=64)"
        )
    if size % before:
        raise BadValueError(
            f"batch_size={size} is not shared out evenly by before={before} processes: give a "
            "multiple of it"
        )
    return size // before * after


def _by_noise(recipe: Recipe, size: int, noise: NoiseScale | None, kind: str) -> Recipe:
    if noise is None or not 0 < noise.samples < math.inf:
        found = "could not be measured" if noise is None else f"was measured as {noise.samples:g}"
        raise BadValueError(
            f"rule='noise scale': the gradient noise scale {found}, from which no rate follows: "
            "take 'linear' or 'square root'"
        )
    return by_noise(recipe, size, noise.samples, exponent=1.0 if kind == "sgd" else 0.5)


class _ShortRuns:
    """The paired runs of one question: each rate for the same share of the same run."""

    def __init__(self, pool: TrialPool, share: float) -> None:
        self.pool, self.share = pool, share
        self.trials: dict[float, Trial] = {}
        self.gradients = 0
        if math.floor(pool.length * share) < 1:
            raise BadValueError(
                f"share={share:g} of {pool.length} updates is no update: give a share of at least "
                f"{1 / pool.length:.2g}, or a longer run"
            )

    def train(self, *rates: float) -> None:
        """Train at rates that were not tried yet."""
        for rate in rates:
            if rate not in self.trials:
                recipe = self.pool.recipe.replace(lr=rate)
                self.trials[rate] = self.pool.add(recipe, f"lr-{rate:g}")
        self.pool.go([self.trials[rate] for rate in rates], self.share, Phase.RUNG)

    def around(self, rate: float, factor: float, further: int) -> None:
        """Train at the neighbours of a rate, and beyond while the best one is the last one."""
        self.train(nice(rate / factor), nice(rate * factor))
        for _ in range(further):
            rates, best = sorted(self.trials), self.best(rate)
            if best == rates[0]:
                self.train(nice(best / factor))
            elif best == rates[-1]:
                self.train(nice(best * factor))
            else:
                break

    def judged(self, rate: float) -> Evaluation | None:
        """Return the evaluation at the share; None if the run diverged before."""
        trial = self.trials[rate]
        found = trial.last()
        return None if trial.diverged or found is None or not math.isfinite(found.loss) else found

    def loss(self, rate: float) -> float:
        """Return the validation loss at the share; infinite if the run diverged."""
        found = self.judged(rate)
        return math.inf if found is None else found.loss

    def best(self, own: float) -> float:
        """Return the rate of the lowest loss; the rule's own where they are equal."""
        return min(self.trials, key=lambda rate: (self.loss(rate), rate != own, rate))

    def noise(self, rate: float) -> NoiseScale | None:
        """Measure the gradient noise scale where a rate's run has paused; None if it diverged."""
        if self.judged(rate) is None or self.pool.first.task.alternates:
            return None
        found = noise_scale(self.trials[rate].runs[0])
        self.gradients += found.cost
        return found


def _result(
    task: Task,
    recipe: Recipe,
    ruled: Recipe,
    short: _ShortRuns,
    noise: NoiseScale | None,
    asked: tuple[int, int, str, str],
) -> WorldRate:
    """Compare the rule's rate with the best one tried."""
    before, after, rule, compress = asked
    pool, rates = short.pool, sorted(short.trials)
    best = short.best(ruled.lr)
    own, top = short.judged(ruled.lr), short.judged(best)
    untrained = pool.untrained.loss
    drop = untrained - short.loss(best)
    miss = (short.loss(ruled.lr) - short.loss(best)) / drop if drop > 0 else math.inf
    miss = 0.0 if best == ruled.lr else miss
    trained = drop > 0
    confirmed = trained and own is not None and top is not None and tie(own, top, drop)
    size, new = recipe.batch_size, ruled.batch_size
    assert isinstance(size, int)
    assert isinstance(new, int)
    samples = recipe.accumulate
    return WorldRate(
        task=task.name,
        before=before,
        after=after,
        rule=rule,
        recipe=ruled,
        rates=tuple(rates),
        losses=tuple(short.loss(rate) for rate in rates),
        untrained=untrained,
        miss=miss,
        confirmed=confirmed,
        best=ruled if confirmed or not trained else ruled.replace(lr=best),
        updates=math.floor(pool.length * short.share),
        length=pool.length,
        noise=noise,
        limit=None
        if noise is None or new <= size
        else LargeBatch(size * samples, new * samples, noise.samples),
        cost=pool.spent + short.gradients / pool.unit,
        compress=compress,
    )
