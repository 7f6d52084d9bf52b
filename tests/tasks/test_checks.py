import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError
from etude.tasks import checks


@given(value=st.integers(-50, 50), least=st.integers(-20, 20), span=st.integers(0, 20))
def test_whole_accepts_exactly_its_interval(value, least, span):
    if least <= value <= least + span:
        assert checks.whole("n", value, least=least, most=least + span) == value
    else:
        with pytest.raises(BadValueError, match=rf"n={value} is .* from {least} to {least + span}"):
            checks.whole("n", value, least=least, most=least + span)


@given(value=st.floats(-2, 2) | st.integers(-2, 2))
def test_share_accepts_exactly_its_interval(value):
    if 0 <= value < 1:
        assert checks.share("s", value) == value
    else:
        with pytest.raises(BadValueError, match=r"s=.* at least 0 and below 1"):
            checks.share("s", value)
    if 0 < value < 1:
        assert checks.share("s", value, open_low=True) == value
    else:
        with pytest.raises(BadValueError, match=r"s=.* above 0 and below 1"):
            checks.share("s", value, open_low=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(BadValueError, match=r"s=(nan|-?inf) is out of bounds"):
        checks.share("s", value)


@pytest.mark.parametrize("check", [checks.whole, checks.share])
@pytest.mark.parametrize("value", [True, "1", None, [1]])
def test_what_is_no_number_is_refused(check, value):
    with pytest.raises(BadTypeError, match=r"x=.* is a \w+: give a (whole )?number"):
        check("x", value)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_flag_is_true_or_false(value):
    assert checks.flag("f", False) is False
    with pytest.raises(BadTypeError, match=r"f=.* give true or false"):
        checks.flag("f", value)
