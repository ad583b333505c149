"""Members that are parts and repetitions of an axis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.groups import Member, members_of


@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_members_of_says_what_a_member_is(size, each, outer, offset, gap):
    stride = size * each + gap
    member = Member("leaf", 0, each, False, offset, outer, stride)
    places = member.places(size)
    found = members_of("leaf", 0, places, offset + outer * stride)
    assert len(found) == 1
    np.testing.assert_array_equal(found[0].places(size), places)
    assert found[0].indices is None


@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_members_of_says_any_places(size, count, seed):
    places = np.sort(np.random.default_rng(seed).permutation(size * count + 3)[: size * count].reshape(size, count))
    found = members_of("leaf", 1, places, size * count + 3, reads=True)
    together = np.sort(np.concatenate([member.places(size) for member in found], axis=1))
    np.testing.assert_array_equal(together, places)
    units = found[0].unit_of(size, size * count + 3)
    assert all(set(np.flatnonzero(units == unit)) <= set(places[unit]) for unit in range(size))


@pytest.mark.parametrize(
    ("places", "length", "said"),
    [
        ([[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]], 12, [(0, 2, 3, None)]),
        ([[4, 10], [5, 11], [6, 12]], 20, [(4, 1, 2, 6)]),
        ([[0, 7, 10], [1, 8, 11]], 20, [(0, 1, 2, 7), (10, 1, 1, 20)]),
        ([[0], [1], [2]], 3, [(0, 1, 1, None)]),
        ([[0], [1], [2]], 8, [(0, 1, 1, 8)]),
    ],
    ids=["fused", "flattened", "several parts", "whole", "a part"],
)
def test_members_of_is_short(places, length, said):
    found = members_of("leaf", 0, np.array(places), length)
    assert [(one.offset, one.each, one.outer, one.stride) for one in found] == said
    assert found[0].is_whole() == (said == [(0, 1, 1, None)])
