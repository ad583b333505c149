"""Classes of indices against what every choice of living indices may be, by trying them all."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.structured.discovery.indices import STAYS, Indices, close


def test_close_says_that_a_product_with_a_factor_that_stays_is_the_other():
    indices = Indices()
    outer, inner = indices.fresh(2), indices.fresh(3)
    merged = indices.merge([outer, inner])
    indices.fix(outer, "because")
    classes = close(indices)
    assert (classes.label[merged].reshape(2, 3) == classes.label[inner]).all()
    assert classes.of(outer) == set()


def test_close_takes_apart_what_was_merged():
    indices = Indices()
    axes = [indices.fresh(2), indices.fresh(3), indices.fresh(2)]
    parts = indices.split(indices.merge(axes), (2, 3, 2))
    classes = close(indices)
    for one, part in zip(axes, parts, strict=True):
        assert (classes.label[one] == classes.label[part]).all()
    assert len(classes.of(np.concatenate(axes))) == 7


def test_close_fixes_the_other_factor_of_a_product_that_is_one_of_its_factors():
    indices = Indices()
    group = indices.fresh(2)
    channels = indices.fresh(6)
    outer, inner = indices.split(channels, (2, 3))
    indices.join(channels, np.repeat(group, 3))
    indices.join(outer, group)
    classes = close(indices)
    assert (classes.of(inner), len(classes.of(channels))) == (set(), 2)
    assert (classes.label[outer] == classes.label[group]).all()


def test_close_makes_one_class_of_products_that_contain_each_other():
    indices = Indices()
    one, two, three, four = indices.fresh(4)
    indices.product(np.array([one]), np.array([two]), np.array([three]))
    indices.product(np.array([two]), np.array([one]), np.array([four]))
    classes = close(indices)
    assert classes.label[one] == classes.label[two]
    assert classes.of(np.array([three, four])) == set()


@st.composite
def relations(draw):
    count = draw(st.integers(3, 7))
    node = st.integers(0, count)
    triple = st.tuples(node, node, node)
    return count, draw(st.lists(st.tuples(node, node), max_size=4)), draw(st.lists(triple, max_size=5))


@given(relations())
@settings(max_examples=200, deadline=None)
def test_close_lets_only_such_indices_live_as_may(relation):
    count, pairs, triples = relation
    indices = Indices()
    indices.fresh(count)
    for left, right in pairs:
        indices.join(np.array([left]), np.array([right]))
    for merged, outer, inner in triples:
        indices.product(np.array([merged]), np.array([outer]), np.array([inner]))
    classes = close(indices)
    atoms = sorted(classes.of(np.arange(count + 1)))
    for gone in itertools.chain.from_iterable(itertools.combinations(atoms, size) for size in range(len(atoms) + 1)):
        alive = [not set(gone) & set(classes.atoms(int(label))) for label in classes.label]
        assert alive[STAYS]
        assert all(alive[left] == alive[right] for left, right in pairs)
        assert all(alive[merged] == (alive[outer] and alive[inner]) for merged, outer, inner in triples)


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2), (2, 3, 2)])
def test_merge_and_split_know_what_stays(lengths):
    indices = Indices()
    axes = [indices.fresh(length) for length in lengths[:-1]] + [np.full(lengths[-1], STAYS)]
    parts = indices.split(indices.merge(axes), lengths)
    classes = close(indices)
    for one, part in zip(axes, parts, strict=True):
        assert (classes.label[one] == classes.label[part]).all()
