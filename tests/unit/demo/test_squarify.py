"""The treemap's layout: it fills its frame, without overlap, with the areas asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routilux_mp.demo.squarify import Rect, squarify

FRAME = Rect(3.0, 5.0, 400.0, 250.0)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60))
def test_areas_are_right_and_rectangles_do_not_overlap(weights):
    places = squarify(weights, FRAME)
    scale = FRAME.width * FRAME.height / sum(weights)
    for weight, place in zip(weights, places, strict=True):
        assert place.width * place.height == pytest.approx(weight * scale, rel=1e-6)
        assert place.x >= FRAME.x - 1e-6
        assert place.y >= FRAME.y - 1e-6
        assert place.x + place.width <= FRAME.x + FRAME.width + 1e-6
        assert place.y + place.height <= FRAME.y + FRAME.height + 1e-6
    for number, one in enumerate(places):
        for other in places[number + 1 :]:
            across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert across <= 1e-6 or down <= 1e-6, (one, other)


def test_equal_weights_are_nearly_square():
    for place in squarify([1] * 24, Rect(0, 0, 600, 400)):
        assert 0.5 <= place.width / place.height <= 2.0


def test_nothing_and_no_room():
    assert squarify([], FRAME) == []
    assert squarify([1, 2], Rect(0, 0, 0, 10)) == [Rect(0, 0, 0, 0)] * 2


def test_a_weight_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        squarify([1, 0], FRAME)
