"""scikit-learn and skorch: `EtudeSearch`, the learning rate of an estimator by cross-validation."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from etude.errors import BadValueError
from etude.interop.sklearn.epochs import Epochs, check_taken, epochs_of
from etude.interop.sklearn.run import EpochDriver, FoldRun, RestartDriver, Split
from etude.randomness import OwnRandomness
from etude.trials.phase import Phase
from etude.trials.score import Goal
from etude.tuning.loops.result import LoopResult
from etude.tuning.loops.search import LoopRequest, search_rates
from etude.tuning.loops.tune_loop import centre_for, checked_steps
from etude.tuning.result import RungCost

RUNS = 3.0
"""Full fits for each fold that are spent where nothing is said."""


def _has(name: str) -> Any:
    """Return whether the estimator, or the fitted best one, has a method."""

    def check(search: EtudeSearch) -> bool:
        getattr(getattr(search, "best_estimator_", search.estimator), name)
        return True

    return available_if(check)


class EtudeSearch(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Finds an estimator's learning rate by cross-validation; stands beside `GridSearchCV`.

        search = EtudeSearch(MLPClassifier(max_iter=200)).fit(X, y)
        search.best_params_, search.best_estimator_

    Rates are trained epoch by epoch on every fold, the worse are dropped early, and the rest goes
    on: the search of `etude.tune`, with `cv` as its folds. The best rate is then fitted to all
    data by the estimator's own `fit`. Pausing is by `partial_fit`, in which MLPs and linear models
    shuffle in another order than in `fit`; a skorch net trains to the bit as in `fit`. Where an
    estimator cannot be paused (`early_stopping=True`, an adaptive rate, a pipeline), an earlier
    epoch costs a fit from the start, and `result_` says how much was repeated.

    Args:
        estimator: An `MLPClassifier`, `MLPRegressor`, `SGDClassifier`, `SGDRegressor`, a skorch
            net, or a pipeline that ends in one.
        param: The parameter that is the rate, such as 'mlp__learning_rate_init'. None finds it:
            'learning_rate_init', 'eta0' or 'lr'.
        budget: In full fits. With several folds the last one, on all data, is included. None
            takes 3 for each fold, and that one.
        around: A rate to begin around; None takes the estimator's own.
        scoring: As of `GridSearchCV`; None takes the estimator's `score`. 'neg_log_loss' tells
            rates apart that an accuracy cannot.
        cv: As of `GridSearchCV`: None for 5 folds, a number, a splitter, or splits.
        refit: Whether to fit the best rate to all data.
        random_state: Seeds the estimators where they draw, the same for every rate.

    Attributes:
        best_params_: The rate, by its parameter's name.
        best_score_: Its mean score over the folds.
        best_index_: Its place in `cv_results_`.
        best_estimator_: The estimator fitted to all data; with `refit`.
        cv_results_: Rates, mean scores over the folds, ranks, and the epochs that each was trained.
        n_splits_: The number of folds.
        scorer_: What scored them.
        refit_time_: Seconds of the last fit.
        result_: What was found, with the tied range, the confidence and the cost; see
            `etude.tune_loop`.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        param: str | None = None,
        budget: float | None = None,
        around: float | None = None,
        scoring: Any = None,
        cv: Any = None,
        refit: bool = True,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.param = param
        self.budget = budget
        self.around = around
        self.scoring = scoring
        self.cv = cv
        self.refit = refit
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, **params: Any) -> EtudeSearch:
        """Find the rate, and fit the estimator with it to all data.

        Args:
            X: The inputs.
            y: The targets.
            groups: Of the samples, for splitters that use them.
            params: Arguments of the estimator's `fit`, such as `sample_weight`; of those with a
                value for each sample, every fold gets its own. As in `GridSearchCV`, they weigh
                the training, not the score.

        Raises:
            BadTypeError: If the estimator takes no such argument.
            BadValueError: If the estimator has no rate, or does not use it.
        """
        epochs = epochs_of(self.estimator, self.param)
        given = {name: one for name, one in params.items() if one is not None}
        check_taken(epochs, given)
        X, y, groups, *_ = indexable(X, y, groups, given.get("sample_weight"))
        folds = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        parts = folds.split(X, y, groups)
        splits = [Split(X, y, train, test, given) for train, test in parts]
        self.scorer_ = check_scoring(self.estimator, scoring=self.scoring)
        self.n_splits_ = len(splits)
        driver = EpochDriver if epochs.pausable else RestartDriver

        def start(lr: float, fold: int) -> EpochDriver | RestartDriver:
            return driver(FoldRun(epochs, splits[fold], self.scorer_, lr, self.random_state))

        several = len(splits) > 1
        runs = RUNS * len(splits) + several if self.budget is None else self.budget
        self.result_ = search_rates(
            start,
            LoopRequest(
                name=type(self.estimator).__name__,
                steps=checked_steps(epochs.count),
                budget=runs,
                centre=centre_for(epochs.rate if self.around is None else self.around, None),
                goal=Goal("score", maximize=True),
                seed=self.random_state,
                folds=len(splits),
                progress=False,
            ),
        )
        self._note(epochs)
        self.__dict__.pop("best_estimator_", None)
        if self.refit:
            begun = time.perf_counter()
            self.best_estimator_: Any = clone(self.estimator).set_params(**self.best_params_)
            with OwnRandomness(self.random_state):
                self.best_estimator_.fit(X, y, **given)
            self.refit_time_ = time.perf_counter() - begun
            if several:
                self.result_ = _with_last_fit(self.result_)
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(self.best_estimator_, name):
                    setattr(self, name, getattr(self.best_estimator_, name))
        return self

    def _note(self, epochs: Epochs) -> None:
        """Set what `GridSearchCV` sets."""
        trials = self.result_.trials
        ends = [t.record.evaluations[-1:] for t in trials]  # none where a fit broke at once
        metrics = [next((e.metric for e in end), None) for end in ends]
        scores = np.array([np.nan if metric is None else metric for metric in metrics])
        self.best_index_ = next(i for i, t in enumerate(trials) if t.lr == self.result_.lr)
        self.best_params_ = {epochs.param: self.result_.lr}
        self.best_score_ = float(scores[self.best_index_])
        done = np.array([t.record.cost.steps for t in trials])
        order = np.lexsort((-np.nan_to_num(scores, nan=-np.inf), -done))
        order = np.array([self.best_index_, *(i for i in order if i != self.best_index_)])
        ranks = np.empty(len(trials), dtype=np.int32)
        ranks[order] = np.arange(1, len(trials) + 1)
        self.cv_results_ = {
            "params": [{epochs.param: t.lr} for t in trials],
            f"param_{epochs.param}": np.ma.array([t.lr for t in trials]),
            "mean_test_score": scores,
            "rank_test_score": ranks,
            "epochs": done,
        }

    @property
    def classes_(self) -> Any:
        """The classes of the fitted estimator."""
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.classes_

    def score(self, X: Any, y: Any = None) -> float:
        """Return the score of the best estimator on some data."""
        check_is_fitted(self, "best_estimator_")
        return float(self.scorer_(self.best_estimator_, X, y))

    def _best(self, name: str, X: Any) -> Any:
        if not self.refit:
            raise BadValueError(f"{name} needs the estimator fitted to all data: give refit=True")
        check_is_fitted(self, "best_estimator_")
        return getattr(self.best_estimator_, name)(X)

    @_has("predict")  # type: ignore[untyped-decorator]
    def predict(self, X: Any) -> Any:
        """Return the predictions of the best estimator."""
        return self._best("predict", X)

    @_has("predict_proba")  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the best estimator."""
        return self._best("predict_proba", X)

    @_has("predict_log_proba")  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Any:
        """Return their logarithms."""
        return self._best("predict_log_proba", X)

    @_has("decision_function")  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:
        """Return the decision values of the best estimator."""
        return self._best("decision_function", X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = self.estimator.__sklearn_tags__()
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags = inner.classifier_tags
        tags.regressor_tags = inner.regressor_tags
        tags.target_tags = inner.target_tags
        tags.input_tags.pairwise = inner.input_tags.pairwise
        tags.input_tags.sparse = inner.input_tags.sparse
        return tags


def _with_last_fit(found: LoopResult) -> LoopResult:
    """Return a result whose cost has the fit to all data."""
    last = RungCost(str(Phase.FINISH_ON_ALL), 1.0)
    return replace(found, cost=found.cost + 1.0, costs=(*found.costs, last))
