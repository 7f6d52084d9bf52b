"""`EtudeSearch`: beside GridSearchCV, with the rate of an estimator by the folds of its cv."""

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV, ShuffleSplit, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from etude.errors import BadTypeError, BadValueError
from etude.interop.sklearn import EtudeSearch
from etude.randomness import OwnRandomness

X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)

MLP = MLPClassifier((8,), max_iter=24, tol=0, n_iter_no_change=99, random_state=0)
SGD = SGDClassifier("log_loss", learning_rate="constant", eta0=0.01, max_iter=24, tol=None)


def found(estimator, cv=2, budget=None, **more):
    return EtudeSearch(estimator, cv=cv, budget=budget, **more).fit(X, Y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_has_what_a_grid_search_has_and_the_best_is_the_estimators_own_fit():
    search = found(MLP, scoring="neg_log_loss")
    grid = GridSearchCV(MLP, {"learning_rate_init": [0.01]}, cv=2, scoring="neg_log_loss")
    grid.fit(X, Y)
    for name in vars(grid):
        if name.endswith("_") and name not in ("multimetric_",):
            assert hasattr(search, name), name
    assert set(search.best_params_) == {"learning_rate_init"}
    again = clone(MLP).set_params(**search.best_params_).fit(X, Y)
    assert np.array_equal(search.predict_proba(X), again.predict_proba(X))
    assert search.score(X, Y) == search.scorer_(again, X, Y)
    assert search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]
    assert search.cv_results_["rank_test_score"][search.best_index_] == 1
    assert search.classes_.tolist() == [0, 1, 2]
    assert is_classifier(search)
    assert search.best_score_ > -0.6
    assert search.result_.cost <= 7
    assert search.result_.folds == 2


def test_the_estimator_is_left_as_it_was_and_a_clone_finds_the_same():
    estimator = clone(SGD)
    one = found(estimator, scoring="neg_log_loss")
    assert estimator.get_params() == SGD.get_params()
    assert not hasattr(estimator, "coef_")
    two = clone(one).fit(X, Y)
    assert one.best_params_ == two.best_params_
    assert (
        one.cv_results_["mean_test_score"].tolist() == two.cv_results_["mean_test_score"].tolist()
    )


def test_a_single_split_is_finished_too():
    search = found(SGD, ShuffleSplit(1, random_state=0), 3.0, scoring="neg_log_loss")
    assert search.n_splits_ == 1
    assert search.result_.cost <= 3.0
    assert search.result_.chosen.record.status == "finished"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_labels_for_each_sample():
    labels = (X[:, :3] > 0).astype(int)
    search = EtudeSearch(clone(MLP).set_params(max_iter=8), cv=2, budget=4.0).fit(X, labels)
    assert search.predict(X).shape == labels.shape
    assert search.result_.chosen.record.status == "stopped"


def test_a_rate_at_which_an_estimator_overflows_diverges():
    class Overflows(SGDClassifier):
        def partial_fit(self, X, y, classes=None):
            if self.eta0 > 0.02:
                raise ValueError("Floating-point under-/overflow occurred at epoch #1.")
            return super().partial_fit(X, y, classes)

    search = EtudeSearch(Overflows(**SGD.get_params()), cv=2, around=0.01).fit(X, Y)
    broken = [t for t in search.result_.trials if t.record.status == "diverged"]
    assert broken
    assert all(t.lr > 0.02 and "Floating-point" in t.record.reason for t in broken)
    assert search.best_params_["eta0"] <= 0.02


def test_a_regressor_and_no_refit():
    y = X[:, 0] * 2 - X[:, 1]
    estimator = SGDRegressor(learning_rate="constant", max_iter=24, tol=None)
    search = EtudeSearch(estimator, cv=2, refit=False).fit(X, y)
    assert is_regressor(search)
    assert search.best_score_ > 0.8
    with pytest.raises(BadValueError, match="give refit=True"):
        search.predict(X)


def test_what_cannot_be_paused_starts_over_and_says_what_that_cost():
    sgd = clone(SGD).set_params(random_state=3)
    search = found(make_pipeline(StandardScaler(), sgd), scoring="neg_log_loss")
    assert set(search.best_params_) == {"sgdclassifier__eta0"}
    assert search.result_.repeated > 0
    assert "starts over" in search.result_.advice()
    assert search.result_.cost <= 7
    direct = cross_val_score(
        clone(search.estimator).set_params(**search.best_params_),
        X,
        Y,
        cv=StratifiedKFold(2),
        scoring="neg_log_loss",
    )
    # The same fits, of which the search has made the last pause and not the last epoch.
    assert search.best_score_ == pytest.approx(direct.mean(), abs=0.02)


def test_weights_of_samples_are_split_with_the_data():
    """With a weight of 0 a class is never seen: the same fit as without its samples."""
    seen = (Y != 2).astype(float)
    options = {"scoring": "neg_log_loss", "cv": ShuffleSplit(2, random_state=0)}
    search = EtudeSearch(SGD, budget=5.0, **options).fit(X, Y, sample_weight=seen)
    again = clone(SGD).set_params(random_state=None, **search.best_params_)
    with OwnRandomness(0):
        again.fit(X, Y, sample_weight=seen)
    assert np.array_equal(search.best_estimator_.coef_, again.coef_)
    assert not (search.predict(X) == 2).any()
    plain = EtudeSearch(SGD, budget=5.0, **options).fit(X, Y)
    assert plain.best_score_ > search.best_score_
    none = EtudeSearch(SGD, budget=5.0, **options).fit(X, Y, sample_weight=None)
    assert none.best_score_ == plain.best_score_


def test_a_pipeline_takes_weights_by_the_name_of_its_step():
    weights = np.where(Y == 2, 0.0, 1.0)
    search = EtudeSearch(make_pipeline(StandardScaler(), SGD), cv=2, budget=5.0)
    search.fit(X, Y, sgdclassifier__sample_weight=weights)
    assert not (search.predict(X) == 2).any()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"weights": np.ones(150)}, BadTypeError, r"weights= is no argument of SGDClassifier.fit"),
        ({"coef_init": np.ones((3, 4))}, BadTypeError, r"no argument of SGDClassifier.partial_fit"),
        ({"sample_weight": np.ones(9)}, ValueError, "inconsistent numbers of samples"),
    ],
)
def test_what_fit_does_not_take_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        EtudeSearch(SGD, cv=2).fit(X, Y, **given)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 3)
        )

    def forward(self, x):
        return self.layers(x)


def skorch_net(**more):
    skorch = pytest.importorskip("skorch")
    options = {"max_epochs": 12, "batch_size": 16, "verbose": 0}
    return skorch.NeuralNetClassifier(
        Net,
        criterion=torch.nn.CrossEntropyLoss,
        iterator_train__shuffle=True,
        **{**options, **more},
    )


def test_a_net_of_skorch_trains_as_in_its_own_fit_to_the_bit():
    from etude.interop.sklearn.epochs import epochs_of
    from etude.interop.sklearn.run import EpochDriver, FoldRun, Split
    from etude.trials.score import Goal
    from etude.tuning.loops.reports import RunReports

    x, rows = X.astype("float32"), np.arange(100)
    split = Split(x, Y, rows, rows)
    driver = EpochDriver(
        FoldRun(epochs_of(skorch_net()), split, lambda net, x, y: net.score(x, y), 0.1, 0)
    )
    reports = RunReports(12, 4, Goal("score", maximize=True))
    for until in (1, 3, 7, 12):
        reports.begin(until)
        driver.drive(reports)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = skorch_net(lr=0.1).fit(x[rows], Y[rows])
    mine, own = (n.module_.state_dict() for n in (driver.value, alone))
    assert all(torch.equal(mine[name], own[name]) for name in own)
    assert driver.value.history[:, "train_loss"] == alone.history[:, "train_loss"]


def test_the_rate_of_a_net_of_skorch():
    search = EtudeSearch(skorch_net(), cv=2, scoring="neg_log_loss").fit(X.astype("float32"), Y)
    assert set(search.best_params_) == {"lr"}
    assert search.result_.repeated == 0
    assert search.best_score_ > -0.7
    assert search.predict(X.astype("float32")).shape == Y.shape


def test_a_net_of_skorch_that_stops_early_is_finished():
    from skorch.callbacks import EarlyStopping

    stops = skorch_net(callbacks=[EarlyStopping("train_loss", patience=1, threshold=10.0)])
    search = EtudeSearch(stops, cv=ShuffleSplit(1, random_state=0), budget=1.5)
    search.fit(X.astype("float32"), Y)
    assert search.result_.chosen.record.status == "finished"
    assert search.result_.record.cost.steps < 12


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (KNeighborsClassifier(), {}, "has no rate among its parameters"),
        (SGDClassifier(), {}, "does not use eta0"),
        (MLPClassifier(solver="lbfgs"), {}, "has no learning rate"),
        (SGD, {"param": "lr"}, "param='lr' is no parameter of SGDClassifier"),
        (SGD, {"budget": 1.2}, "budget=1.2 is out of bounds"),
        (SGD, {"around": -1.0}, "around=-1.0 is out of bounds"),
        (SGD, {"around": 0}, "around=0 is out of bounds"),
        (SGD, {"around": -0.0}, "around=-0.0 is out of bounds"),
        (make_pipeline(SGD, MLP), {}, "has 2 rates"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(estimator, options, message):
    with pytest.raises(BadValueError, match=message):
        EtudeSearch(estimator, cv=2, **options).fit(X, Y)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_checks_of_scikit_learn():
    search = EtudeSearch(clone(SGD).set_params(max_iter=4), cv=2, budget=2.0)
    told = check_estimator(search, on_fail=None)
    failed = [r["check_name"] for r in told if r["status"] == "failed"]
    assert failed == []


def test_balanced_class_weights_which_partial_fit_refuses_are_fitted_anew():
    balanced = clone(SGD).set_params(class_weight="balanced", random_state=0)
    search = found(balanced, scoring="neg_log_loss")
    assert search.result_.repeated > 0
    assert search.best_estimator_.class_weight == "balanced"


def test_fits_that_break_before_their_first_score_have_none():
    X = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    y = X[:, 0].copy()
    y[11] = y[50] = 1e30  # its square overflows
    search = EtudeSearch(MLPRegressor(max_iter=10), cv=2, refit=False).fit(X, y)
    assert np.isnan(search.best_score_)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()
    assert search.result_.outcome == "nothing trains"
