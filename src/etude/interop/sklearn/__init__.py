"""scikit-learn and skorch: `EtudeSearch`, the learning rate of an estimator by cross-validation."""

from etude.interop.sklearn.search import EtudeSearch

__all__ = ["EtudeSearch"]
