"""Drives an estimator of scikit-learn, or a net of skorch, epoch by epoch."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils import _safe_indexing
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import _num_samples

from etude.errors import BadTypeError
from etude.interop.sklearn.epochs import Epochs
from etude.randomness import OwnRandomness, random_state_kept
from etude.tuning.loops.reports import RunReports


class Split:
    """The data of one fold.

    Args:
        X: All inputs.
        y: All targets; None without.
        train: The rows to train on.
        test: The rows to score.
        given: Arguments of the estimator's `fit`, those of all samples with a value
            for each; see `by_sample`.
    """

    def __init__(
        self, X: Any, y: Any, train: Any, test: Any, given: Mapping[str, Any] | None = None
    ) -> None:
        self.x, self.test_x = _safe_indexing(X, train), _safe_indexing(X, test)
        self.y, self.test_y = None, None
        if y is not None:
            self.y, self.test_y = _safe_indexing(y, train), _safe_indexing(y, test)
        self.given = {
            name: _safe_indexing(one, train) if by_sample(one, X) else one
            for name, one in (given or {}).items()
        }


def by_sample(given: Any, X: Any) -> bool:
    """Return whether an argument of `fit` has one value for each sample, as weights have.

    >>> by_sample([0.5, 2.0], np.zeros((2, 3))), by_sample(0.5, np.zeros((2, 3)))
    (True, False)
    """
    return np.ndim(given) > 0 and _num_samples(given) == _num_samples(X)


def seeded(epochs: Epochs, lr: float, seed: int) -> Any:
    """Return a clone at a rate, whose own random numbers are those of every other rate.

    A number as `random_state` would shuffle every epoch of `partial_fit` alike.
    """
    made = clone(epochs.estimator).set_params(**{epochs.param: lr})
    values = made.get_params(deep=True)
    for name in [n for n in values if n.rpartition("__")[2] == "random_state"]:
        given = values[name]
        own = seed if given is None else given
        if isinstance(own, (int, np.integer)):
            made.set_params(**{name: np.random.RandomState(own)})
    return made


@dataclass(frozen=True)
class FoldRun:
    """One rate on one fold.

    Attributes:
        epochs: How the estimator trains.
        split: The data.
        scorer: (estimator, X, y) -> score.
        lr: The rate.
        seed: Of its random numbers.
    """

    epochs: Epochs
    split: Split
    scorer: Any
    lr: float
    seed: int

    def estimator(self) -> Any:
        """Return a fresh estimator at the rate."""
        return seeded(self.epochs, self.lr, self.seed)

    def score(self, net: Any) -> float:
        """Return the score of an estimator on the rows held out."""
        return score_of(self.scorer, net, self.split)


class EpochDriver:
    """Drives an estimator that goes on where it was left.

    Args:
        run: The rate and the fold.
    """

    resumable = True

    def __init__(self, run: FoldRun) -> None:
        self.run, self.epochs, self.split = run, run.epochs, run.split
        self._random = OwnRandomness(run.seed)
        self._done = 0
        self.value: Any = None
        with self._random:
            self.net: Any = run.estimator()

    def drive(self, reports: RunReports) -> None:
        """Train epoch by epoch, and report each."""
        with self._random:
            if not self._done and not self._begin(reports):
                return
            while self._done < reports.length:
                ended = self._epoch()
                self._done += 1
                if not reports.take(self._done, self._score, self._loss()):
                    return
                if ended:
                    break
            if self.epochs.kind == "skorch":
                self.net.notify("on_train_end", X=self.split.x, y=self.split.y)
        self.value = self.net
        reports.end()

    def _begin(self, reports: RunReports) -> bool:
        """Make a net of skorch ready; report its score before training."""
        if self.epochs.kind != "skorch":
            return True
        self.net.set_params(verbose=0)
        self.net.initialize()
        self.net.check_data(self.split.x, self.split.y)  # a classifier learns of its classes
        going = reports.take(0, self._score)
        self.net.notify("on_train_begin", X=self.split.x, y=self.split.y)
        return going

    def _epoch(self) -> bool:
        """Train for one epoch; return whether the estimator ended by itself."""
        x, y = self.split.x, self.split.y
        if self.epochs.kind == "skorch":
            try:
                self.net.fit_loop(x, y, epochs=1)
            except KeyboardInterrupt as stop:
                if not _from_skorch(stop):
                    raise
                return True
            return False
        options: dict[str, Any] = {}
        if not self._done and y is not None and is_classifier(self.net):
            options = {"classes": unique_labels(y)}
        self.net.partial_fit(x, y, **options, **self.split.given)
        return False

    def _loss(self) -> float | None:
        """Return the training loss of the last epoch, where the estimator tells it."""
        if self.epochs.kind == "skorch":
            last = self.net.history[-1]
            return float(last["train_loss"]) if "train_loss" in last else None
        loss = getattr(self.net, "loss_", None)
        return float(loss) if isinstance(loss, (float, np.floating)) else None

    def _score(self) -> float:
        with random_state_kept():
            return self.run.score(self.net)

    def close(self) -> None:
        """Forget a paused estimator."""
        self.net = None


class RestartDriver:
    """Drives an estimator that cannot be paused: a fit of fewer epochs, from the start.

    Args:
        run: The rate and the fold.
    """

    resumable = False
    value: Any = None

    def __init__(self, run: FoldRun) -> None:
        self.run = run

    def drive(self, reports: RunReports) -> None:
        """Fit anew, to where the run is to be paused, and report its score there."""
        until = reports.until
        reports.restart()
        reports.begin(until)
        run = self.run
        with OwnRandomness(run.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged yet
            net = run.estimator()
            net.set_params(**{run.epochs.length_param: until})
            net.fit(run.split.x, run.split.y, **run.split.given)
            done = min(until, epochs_done(net, until))
            if reports.take(done, run.score(net)):
                self.value = net
                reports.end()

    def close(self) -> None:
        """Nothing is held."""


def epochs_done(net: Any, asked: int) -> int:
    """Return how many epochs a fit took: fewer than it was asked for where it stopped early."""
    inner = net.steps[-1][1] if hasattr(net, "steps") else net
    history = getattr(inner, "history", None)
    return int(getattr(inner, "n_iter_", asked)) if history is None else len(history)


def score_of(scorer: Any, net: Any, split: Split) -> float:
    """Return the score of an estimator on the rows of a fold.

    Raises:
        BadTypeError: If it is no number.
    """
    given = (split.test_x,) if split.test_y is None else (split.test_x, split.test_y)
    found = scorer(net, *given)
    try:
        return float(found)
    except (TypeError, ValueError):
        raise BadTypeError(
            f"scoring gave {found!r}, and rates are compared by one number"
        ) from None


def _from_skorch(stop: KeyboardInterrupt) -> bool:
    """Return whether a callback of skorch ended the training; it raises what Ctrl-C raises."""
    frames = [frame for frame, _ in traceback.walk_tb(stop.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")).startswith("skorch.callbacks")
