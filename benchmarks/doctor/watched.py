"""`etude.watch` as a diagnoser: each case's own loop under the watch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

import etude
from benchmarks.doctor.case import Case
from benchmarks.doctor.causes import CAUSES
from benchmarks.doctor.diagnoser import Verdict


class Watched:
    """Findings of `etude.watch`; causes rank in the order in which they were found."""

    name = "etude watch"

    def diagnose(self, case: Case) -> Verdict:
        """Run a case under the watch."""
        opened: list[Any] = []

        @contextmanager
        def watcher(model: nn.Module, optimizer: Any) -> Iterator[None]:
            several = list(optimizer) if isinstance(optimizer, tuple) else optimizer
            with etude.watch(model, several) as watch:
                opened.append(watch)
                yield

        case.run(watcher)
        report = opened[0].report()
        findings = report.findings
        causes = tuple(dict.fromkeys(str(f.what) for f in findings if str(f.what) in CAUSES))
        return Verdict(
            causes,
            next((f.layer for f in findings if f.layer), "") or "",
            min((f.step for f in findings if f.step is not None), default=None),
            bool(findings),
            str(report),
        )
