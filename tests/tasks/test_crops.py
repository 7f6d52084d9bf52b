import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from etude.tasks.images.crops import AREA, ASPECT, centre_crop, random_box, random_crop
from etude.tasks.loss.losses import symbol_cross_entropy

SIDES = st.integers(8, 600)


@given(width=SIDES, height=SIDES, seed=st.integers(0, 1000))
def test_a_box_lies_inside_and_keeps_its_ratio(width, height, seed):
    torch.manual_seed(seed)
    left, top, right, bottom = random_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    ratio = (right - left) / (bottom - top)
    assert ASPECT[0] * 0.999 <= ratio <= ASPECT[1] * 1.001


def test_boxes_spread_over_area_and_place():
    torch.manual_seed(0)
    boxes = np.array([random_box(400, 400) for _ in range(1000)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 400**2
    assert AREA[0] * 0.999 <= areas.min() < 0.12
    assert areas.max() > 0.9
    assert areas.mean() == pytest.approx(0.5, abs=0.06)
    centre = (boxes[:, 0] + boxes[:, 2]) / 2
    assert centre.mean() == pytest.approx(200, abs=10)


def test_an_image_too_narrow_for_any_draw_gives_its_centre():
    left, top, right, bottom = random_box(1000, 10)
    assert (bottom - top, (left + right) / 2) == (10, 500)
    assert (right - left) / (bottom - top) == pytest.approx(ASPECT[1])
    assert top == 0


def test_half_of_the_crops_are_mirrored():
    # Brightness rises to the right: a mirrored crop falls.
    image = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8), (128, 1)))
    torch.manual_seed(0)
    crops = [np.asarray(random_crop(image, 16)).astype(int) for _ in range(300)]
    assert all(crop.shape == (16, 16) for crop in crops)
    rising = np.mean([crop[0, -1] > crop[0, 0] for crop in crops])
    assert rising == pytest.approx(0.5, abs=0.08)


@given(width=st.integers(32, 300), height=st.integers(32, 300))
def test_the_centre_is_the_middle_and_not_stretched(width, height):
    across = np.arange(width)[None, :] + np.zeros((height, 1))
    image = Image.fromarray(across.astype(np.float32))
    crop = np.asarray(centre_crop(image, 14))
    assert crop.shape == (14, 14)
    assert crop.mean() == pytest.approx((width - 1) / 2, abs=0.6)
    slope = np.diff(crop[7])[3:-3].mean()
    assert slope == pytest.approx(min(width, height) * 7 / 8 / 14, rel=0.05)


@given(n=st.integers(1, 4), length=st.integers(1, 5), symbols=st.integers(2, 7))
def test_symbol_loss_is_torchs_cross_entropy_over_the_class_axis(n, length, symbols):
    scores = torch.randn(n, length, symbols)
    target = torch.randint(symbols, (n, length))
    expected = F.cross_entropy(scores.transpose(1, 2), target)
    torch.testing.assert_close(symbol_cross_entropy(scores, target), expected)
    flat = symbol_cross_entropy(torch.zeros_like(scores), target).item()
    assert flat == pytest.approx(math.log(symbols), rel=1e-5)
