import sys

import pytest

from etude.errors import MissingExtraError
from etude.interop._peer import load
from etude.interop.torch import relative
from etude.interop.trainers.horizon import over
from etude.schedules import Clock, cosine


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("keras", r"keras cannot be imported .*: pip install 'etude\[keras\]'"),
        ("jax.numpy", r"jax cannot be imported .*: pip install 'etude\[jax\]'"),
        ("lightning.pytorch", "lightning cannot be imported .*: pip install lightning"),
        ("transformers", "transformers cannot be imported .*: pip install transformers"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(monkeypatch, module, message):
    for name in list(sys.modules):
        if name.partition(".")[0] == module.partition(".")[0]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    with pytest.raises(MissingExtraError, match=message):
        load(module)


def test_every_form_is_bound():
    clock = Clock(horizon=100)
    bound = over([relative({"*": "cosine()"}), cosine(5), None], clock)
    assert bound == [relative({"*": cosine(100)}), cosine(5), None]
