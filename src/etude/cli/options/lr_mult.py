"""Parses the texts of `--lr-mult` into multipliers."""

from __future__ import annotations

import re
from typing import Any

from etude.cli.options import choices
from etude.errors import BadValueError

_POLICY = re.compile(r"^\s*[a-z_]+\s*\(")


def rules(texts: list[str] | None) -> dict[str, Any] | str | None:
    """Return all `--lr-mult` options together: a table, a policy, or both.

    Raises:
        BadValueError: If a text is neither, or there are two texts of policies.

    >>> rules(["*[forget]=3", "decay(0.5)"])
    {'@policy': 'decay(0.5)', '*[forget]': 3}
    >>> rules(["mup(base_width=64)"])
    'mup(base_width=64)'
    """
    for text in texts or ():
        _check_rule(text)
    policies = [text for text in texts or () if _POLICY.match(text)]
    table = choices.pairs([text for text in texts or () if text not in policies], "--lr-mult")
    if len(policies) > 1:
        joined = " * ".join(policies)
        raise BadValueError(f"--lr-mult has several policies: join them in one, {joined!r}")
    if not table:
        return policies[0] if policies else None
    return {"@policy": policies[0], **table} if policies else table


def _check_rule(text: str) -> None:
    """Check that a text is SELECTOR=FACTOR with a valid factor."""
    if _POLICY.match(text):
        return
    selector, _, factor = text.partition("=")
    if not selector.strip() or not factor.strip():
        raise BadValueError(
            f"--lr-mult {text!r}: write SELECTOR=FACTOR, such as {selector.strip() or 'head'}=3, "
            "or a policy, such as decay(0.75)"
        )
    if factor.strip().isidentifier():
        raise BadValueError(
            f"--lr-mult {text!r}: {factor.strip()} is not a number: write {selector.strip()}=3, or "
            f"a schedule, such as \"{selector.strip()}=warmup('10%')\""
        )
