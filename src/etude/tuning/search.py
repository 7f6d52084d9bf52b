"""The search: paired candidates start, pause, and the better ones go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import torch

from etude.errors import BadValueError, Interrupted
from etude.progress import Bar
from etude.recipe import Recipe
from etude.tasks.task import Task, parameter_count
from etude.training.record import Evaluation
from etude.training.run import Run
from etude.tuning.candidate import Candidate
from etude.tuning.ladder import ladder_for
from etude.tuning.prior import grid, log10_centre, nice

REFINEMENTS = (0.2, 0.1, 0.3, 0.05, 0.15)
"""Decades from the best at which a large budget looks for a still better one."""

KEPT, GAINED = 0.8, 0.1
"""A rate above the best is unstable if it keeps less than the one share of the best's drop and
has gained less than the other lately: a network that a high rate has killed predicts a constant,
which is well below the untrained loss and stays there."""

LOWEST, HIGHEST = 1e-15, 1e15
"""Rates beyond which none is tried: single precision sees no difference any more."""

SHORTEST = 16
"""Updates below which a rung would be less than two updates long."""

NEAR = 0.01
"""A refinement is finished if it trails by at most this share of the drop."""


class Search:
    """The state of one tuning.

    Every rate shares the recipe's seed: same initial weights, same batches. All run on the
    recipe's own full-length schedule, so that the winner's past is already paid when it goes on.

    Args:
        task: What to learn.
        recipe: How; its rate is what is looked for.
        budget: In full runs.
        folder: Where to keep the candidates; None keeps them in memory.
        device: As `train`.
        bar: Where progress is shown.
        stop: Asked before every update.
        again: The command that goes on after an interruption.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        budget: float,
        *,
        folder: Path | None,
        device: str | torch.device | None,
        bar: Bar,
        stop: Callable[[], bool],
        again: str,
    ) -> None:
        self.ladder = ladder_for(budget)
        first = Run(task, recipe, device=device)
        first.check()
        self.task, self.device, self.threads = first.task, first.device, first.threads
        self.recipe = recipe
        self.length = first.length
        if self.length < SHORTEST:
            raise BadValueError(
                f"steps={self.length} is too short to compare rates on: give at least {SHORTEST}"
            )
        self.centre = log10_centre(
            recipe.optimizer, parameter_count(first.model), task.train.targets()
        )
        self.folder, self.bar, self.stop, self.again = folder, bar, stop, again
        self.allowed = math.floor(budget * self.length)
        self.spent = 0
        self.costs: dict[str, int] = {}
        self.field: dict[float, Candidate] = {}
        self.untrained: Evaluation
        # Rounded down, so that rounding never costs more than the ladder does.
        self.steps = [math.floor(self.length * rung.share) for rung in self.ladder.rungs]

    def run(self) -> Candidate:
        """Climb the ladder and return the best candidate, finished if any could be."""
        first, rungs = self.steps[0], self.ladder.rungs
        start = grid(self.centre, rungs[0].keep, self.ladder.spacing)
        self.go([self.add(rate) for rate in start], first, f"to {100 * rungs[0].share:g}%")
        self.widen(first)
        for index, rung in enumerate(rungs[1:], start=1):
            here, there = self.steps[index - 1], self.steps[index]
            ranked = self.ranked(here)
            keep = max(1, min(rung.keep, self.affordable(there - here, self.length - there)))
            part = "finish" if there == self.length else f"to {100 * rung.share:g}%"
            self.go(ranked[:keep], there, part)
            if there < self.length:
                self.widen(there)
        best = self.finished() or self.fall_back()
        if best is not None:
            best = self.refine(best)
            self.find_edge(best)
        return best or self.furthest()

    def add(self, rate: float) -> Candidate:
        """Enter a rate into the field."""
        run = Run(self.task, self.recipe.replace(lr=rate), device=self.device)
        run.threads = self.threads
        place = None if self.folder is None else self.folder / "trials" / f"lr-{rate:g}"
        candidate = Candidate(run, place)
        if not self.field:
            self.untrained = candidate.at(0) or run.evaluate()
        elif not run.evaluations:
            run.evaluations.append(self.untrained)  # the same weights: no need to ask again
        self.field[rate] = candidate
        return candidate

    def go(self, candidates: Iterable[Candidate], until: int, part: str) -> None:
        """Take candidates to an update, paying for it."""
        chosen = list(candidates)
        for index, candidate in enumerate(chosen):
            before = candidate.reached

            def show(run: Run, before: int = before, index: int = index) -> None:
                self.bar(
                    self.spent + run.step - before,
                    self.allowed,
                    f"{part}, rate {index + 1} of {len(chosen)}{self.standing()}",
                )

            used = candidate.go(until, stop=self.stop, on_step=show, again=self.again)
            self.spent += used
            self.costs[part] = self.costs.get(part, 0) + used
            if self.stop():
                raise Interrupted(f"stopped; the candidates are saved. Go on with: {self.again}")

    def standing(self) -> str:
        """Say which rate leads: the lowest loss among those that went furthest."""
        furthest = max(c.reached for c in self.field.values())
        ranked = self.ranked(furthest)
        if not ranked:
            return ""
        return f", best so far {ranked[0].lr:g} (loss {ranked[0].loss(furthest):.4g})"

    def ranked(self, step: int) -> list[Candidate]:
        """Return the candidates that stand well after `step` updates, best first."""
        alive = [c for c in self.field.values() if math.isfinite(c.loss(step))]
        alive = [c for c in alive if c.reached >= step]
        return sorted(alive, key=lambda c: (c.loss(step), c.lr))

    def affordable(self, each: int, after: int) -> int:
        """Return how many can go `each` updates further and leave `after` for the finish."""
        left = self.allowed - self.spent - after
        return left // each if each else len(self.field)

    def plan(self, step: int) -> int:
        """Return what the rungs beyond `step` cost, in updates."""
        rungs = list(zip(self.ladder.rungs, self.steps, strict=True))
        return sum(
            rung.keep * (there - here)
            for (_, here), (rung, there) in pairwise(rungs)
            if here >= step
        )

    def widen(self, step: int) -> None:
        """Add rates beyond an edge while the best stands there, then between far neighbours.

        A rate beyond the edge may use up what later rungs would compare: an optimum outside the
        field cannot be ranked inside it. Only the finish of one candidate is never spent.
        """
        if not math.isfinite(self.untrained.loss):
            return  # the fault is not the rate
        strides = 0
        while self.affordable(step, self.length - step) >= 1:
            rates = sorted(self.field)
            ranked = self.ranked(step)
            leader = ranked[0].lr if ranked else rates[0]
            stride = self.ladder.spacing * (1 if strides == 0 else 2)
            if leader == rates[0]:
                rate = leader / 10**stride
            elif leader == rates[-1]:
                rate = leader * 10**stride
            else:
                return self.fill(step, leader)
            if not LOWEST < rate < HIGHEST:
                return
            strides += 1
            self.go([self.add(nice(rate))], step, "beyond an edge")

    def fill(self, step: int, leader: float) -> None:
        """Halve a wide gap beside the leader, if the ladder can still be climbed in full."""
        while self.affordable(step, self.plan(step)) >= 1:
            rates = sorted(self.field)
            place = rates.index(leader)
            gaps = [
                (math.log10(b / a), math.sqrt(a * b))
                for a, b in pairwise(rates)
                if leader in (a, b)
            ]
            if place in (0, len(rates) - 1) or max(gaps)[0] < 1.5 * self.ladder.spacing:
                return
            self.go([self.add(nice(max(gaps)[1]))], step, "beyond an edge")
            leader = self.ranked(step)[0].lr

    def finished(self) -> Candidate | None:
        """Return the best of those that reached the end."""
        ranked = self.ranked(self.length)
        return ranked[0] if ranked else None

    def fall_back(self) -> Candidate | None:
        """Resume the furthest surviving lower rates until one reaches the end."""
        alive = [c for c in self.field.values() if not c.diverged]
        for candidate in sorted(alive, key=lambda c: (-c.reached, c.loss(c.reached))):
            if self.affordable(self.length - candidate.reached, 0) < 1:
                continue
            self.go([candidate], self.length, "after a divergence")
            if not candidate.diverged:
                return candidate
        return None

    def furthest(self) -> Candidate:
        """Return the best of the sound ones that went furthest, if there are any left."""
        alive = [c for c in self.field.values() if not c.diverged]
        if not alive:
            return min(self.field.values(), key=lambda c: c.lr)
        return min(alive, key=lambda c: (-c.reached, c.loss(c.reached), c.lr))

    def refine(self, best: Candidate) -> Candidate:
        """Try neighbours of the best for what is left, finishing those that keep up."""
        pause = 3 * self.length // 4
        centre = best.lr
        reserve = self.steps[0] // 2
        for shift in (s * sign for s in REFINEMENTS for sign in (1, -1)):
            if self.affordable(self.length, reserve) < 1:
                break
            rate = nice(centre * 10**shift)
            if rate in self.field:
                continue
            rival = self.add(rate)
            self.go([rival], pause, "refine")
            mark = best.at(pause)
            slack = NEAR * (self.untrained.loss - best.loss(self.length))
            if mark is not None and rival.loss(pause) > mark.loss + slack:
                continue
            self.go([rival], self.length, "refine")
            if rival.loss(self.length) < best.loss(self.length):
                best = rival
        return best

    def find_edge(self, best: Candidate) -> None:
        """Look for the rate at which training breaks, for what is left of the budget.

        Rates go up by 0.8 decades until one is unstable; then the gap below it is halved down to
        half a decade.
        """
        most = min(self.steps[0], self.length // 8)
        # Where the best was looked at too, so that the two can be compared.
        step = max((e.step for e in best.run.evaluations if 0 < e.step <= most), default=most)
        while self.affordable(step, 0) >= 1:
            above = {rate: c for rate, c in self.field.items() if rate >= best.lr}
            broken = min((r for r, c in above.items() if self.unstable(c, best)), default=None)
            stable = max(r for r in above if broken is None or r < broken)
            if broken is None:
                rate = stable * 10**0.8
            elif math.log10(broken / stable) > 0.5:
                rate = math.sqrt(broken * stable)
            else:
                return
            if rate > HIGHEST:
                return
            self.go([self.add(nice(rate))], step, "edge of stability")

    def unstable(self, candidate: Candidate, best: Candidate) -> bool:
        """Say whether a rate diverged, or, above the best, stands still far behind it.

        That is: after as many updates, its drop from the untrained loss is less than `KEPT` of
        the best's, and either that drop or what it gained over the second half of its way is
        less than `GAINED` of the best's.
        """
        if candidate.diverged or candidate.lr <= best.lr:
            return candidate.diverged
        seen = [e for e in candidate.run.evaluations if e.step <= candidate.reached]
        common = [e for e in seen if e.step > 0 and best.at(e.step) is not None]
        if not common:
            return False
        last = common[-1]
        mark = best.at(last.step)
        assert mark is not None
        earlier = [e for e in seen if e.step <= last.step / 2]
        drop = self.untrained.loss - mark.loss
        kept = (self.untrained.loss - last.loss) / drop if drop > 0 else math.inf
        gained = (earlier[-1].loss - last.loss) / drop if drop > 0 else math.inf
        return kept < GAINED or (kept < KEPT and gained < GAINED)
