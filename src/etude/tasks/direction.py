"""Whether a metric is better when larger or when smaller, judged by its name."""

from __future__ import annotations

import re

from etude.errors import BadValueError

LARGER = frozenset(
    """
    accuracy acc auc auroc roc auprc ap map f1 fbeta r2 precision recall sensitivity specificity
    iou miou jaccard dice bleu rouge meteor chrf correlation corr pearson spearman kendall kappa
    mcc matthews psnr ssim ndcg mrr hits topk reward likelihood similarity explained
    """.split()  # noqa: SIM905  (a list of so many words is easier to read like this)
)
"""Words in the names of metrics that are better when larger."""

SMALLER = frozenset(
    """
    loss error err errors mae mse rmse rmsle msle mape smape nmse nrmse mspe perplexity ppl nll
    bce entropy logloss wer cer ece brier fid kid distance divergence kl hinge risk regret cost
    bpc bpd deviance residual
    """.split()  # noqa: SIM905  (a list of so many words is easier to read like this)
)
"""Words in the names of metrics that are better when smaller."""

TURNS = frozenset(
    """
    negative neg inverse one 1 minus complement non no not anti without free false wrong incorrect
    failed missed drop gap change delta difference reduction improvement gain skill ratio
    relative
    """.split()  # noqa: SIM905
)
"""Words with which the other words of a name do not tell: an accuracy drop is better when small."""


def direction_of(name: str) -> bool | None:
    """Return whether a metric is better when larger, by the words in its name; None if unclear.

    >>> direction_of("val_accuracy"), direction_of("meanAbsoluteError"), direction_of("size")
    (True, False, None)
    >>> direction_of("accuracy_drop"), direction_of("error_reduction")
    (None, None)
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = {word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced)}
    if words & TURNS:
        return None
    larger = bool(words & LARGER) or any(re.fullmatch(r"top\d+", word) for word in words)
    smaller = bool(words & SMALLER)
    return larger if larger != smaller else None


def unknown_direction(name: str) -> BadValueError:
    """Return the error for a metric whose direction is unknown."""
    return BadValueError(
        f"metric {name!r}: its name does not tell whether larger or smaller is better. Give "
        "maximize=True if larger is better, as for an accuracy, or maximize=False if smaller is, "
        "as for an error: Task(..., metric=..., maximize=True), mean_metric(name, function, "
        "maximize=True), or tune(..., objective='metric', maximize=True)"
    )
