"""A compiled stack gives the bits of its runs."""

from __future__ import annotations

from typing import Any

import pytest

from etude.engines import VmapEngine
from etude.engines.vmap.execution import Execution
from tests.engines.common import (
    BASE,
    assert_close,
    both,
    mlp,
    noisy,
    task,
)
from tests.engines.vmap.common import members, quiet


class TestCompiled:
    @pytest.mark.slow
    @pytest.mark.parametrize("model", [mlp, noisy])
    def test_a_compiled_member_is_a_run(self, model: Any) -> None:
        engine = VmapEngine(compile="always")
        ours, theirs = both(task(model), members(), engine)
        ((_, execution),) = engine._fitted.values()  # type: ignore[misc]
        assert execution.compiled or execution.reason
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_a_missing_compiler_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*_: Any) -> Any:
            raise RuntimeError("no compiler found")

        monkeypatch.setattr("etude.engines.vmap.execution.compiled", missing)
        engine = VmapEngine(compile="always")
        ours, theirs = both(task(noisy), members(), engine)  # by the traced graph
        ((_, execution),) = engine._fitted.values()  # type: ignore[misc]
        assert execution.reason == "not compiled: no compiler found"
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)

    def test_rows_that_idle_are_read_by_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A compiled stack keeps its size when a member leaves it."""
        monkeypatch.setattr(Execution, "is_compiled", lambda self, state: True)
        recipes = [BASE.replace(lr=1e30), *members(), BASE.replace(steps=9)]
        ours, theirs = both(task(noisy), recipes, quiet())
        assert ours[0].status == "diverged"
        for one, other in zip(ours[1:], theirs[1:], strict=True):
            assert_close(one, other)
