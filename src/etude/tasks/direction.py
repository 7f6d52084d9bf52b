"""Which way a metric is better, where its name says so."""

from __future__ import annotations

import re

from etude.errors import BadValueError

LARGER = frozenset(
    """
    accuracy acc auc auroc roc auprc ap map f1 fbeta r2 precision recall sensitivity specificity
    iou miou jaccard dice bleu rouge meteor chrf correlation corr pearson spearman kendall kappa
    mcc matthews psnr ssim ndcg mrr hits topk reward likelihood similarity explained
    """.split()  # noqa: SIM905  (a list of so many words is read more easily so)
)
"""Words of a name whose metric is better when larger."""

SMALLER = frozenset(
    """
    loss error err errors mae mse rmse rmsle msle mape smape nmse nrmse mspe perplexity ppl nll
    bce entropy logloss wer cer ece brier fid kid distance divergence kl hinge risk regret cost
    bpc bpd deviance residual
    """.split()  # noqa: SIM905  (a list of so many words is read more easily so)
)
"""Words of a name whose metric is better when smaller."""


def direction_of(name: str) -> bool | None:
    """Return whether a metric is better when larger, by the words of its name; None if they differ.

    >>> direction_of("val_accuracy"), direction_of("meanAbsoluteError"), direction_of("size")
    (True, False, None)
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced)}
    if words & {"negative", "neg", "inverse", "one", "minus", "complement"}:
        return None
    larger = bool(words & LARGER) or any(re.fullmatch(r"top\d+", word) for word in words)
    smaller = bool(words & SMALLER)
    return larger if larger != smaller else None


def unknown_direction(name: str) -> BadValueError:
    """Return the error for a metric of which nobody said which way it is better."""
    return BadValueError(
        f"metric {name!r}: is it better when larger or when smaller? Its name does not say. Give "
        "maximize=True if larger is better, as of an accuracy, or maximize=False if smaller is, "
        "as of an error: Task(..., metric=..., maximize=True), mean_metric(name, function, "
        "maximize=True), or tune(..., objective='metric', maximize=True)"
    )
