"""Tune the learning rate of an estimator of scikit-learn by cross-validation."""

from sklearn.datasets import load_wine
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from etude.interop.sklearn import EtudeSearch

X, y = load_wine(return_X_y=True)
X = StandardScaler().fit_transform(X)
search = EtudeSearch(MLPClassifier((32,), max_iter=40), cv=3, scoring="neg_log_loss")

if __name__ == "__main__":
    search.fit(X, y)
    print(f"{search.best_params_}, score {search.best_score_:.3f}, {search.result_.cost:.2f} fits")
