"""Principal angles between subspaces: the extremes, chance, and the curvature of two tasks."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from tests import cases


def test_alignment_is_whole_in_any_basis_and_none_with_what_is_orthogonal():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 8)))[0].T
    mixed = rng.normal(size=(4, 4)) @ basis[:4]
    assert jp.geometry.alignment(basis[:4], mixed).overlap == pytest.approx(1, abs=1e-12)
    assert jp.geometry.alignment(basis[:4], basis[4:]).overlap == pytest.approx(0, abs=1e-12)
    assert jp.geometry.alignment(basis[:2], basis).overlap == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(jp.geometry.alignment(basis[:4], basis[4:]).angles, np.pi / 2, atol=1e-12)


def test_alignment_has_the_angles_turned_by_in_ascending_order():
    turned = np.array([0.3, 1.2])
    left = np.eye(4)[:2]
    right = np.cos(turned)[:, None] * left + np.sin(turned)[:, None] * np.eye(4)[2:]
    got = jp.geometry.alignment(left, right[::-1])
    np.testing.assert_allclose(got.angles, turned, atol=1e-12)
    assert got.overlap == pytest.approx(np.mean(np.cos(turned) ** 2), abs=1e-12)


@pytest.mark.parametrize(("k", "m"), [(5, 5), (2, 6)])
def test_alignment_of_random_subspaces_is_that_of_chance(k, m):
    rng = np.random.default_rng(0)
    found = [jp.geometry.alignment(rng.normal(size=(k, 40)), rng.normal(size=(m, 40))) for _ in range(300)]
    overlaps = [one.overlap for one in found]
    assert found[0].chance == max(k, m) / 40
    assert abs(np.mean(overlaps) - found[0].chance) < 4 * np.std(overlaps) / np.sqrt(300)


def test_alignment_of_the_top_curvature_is_whole_from_another_start():
    case = cases.build("resnet")
    operator = jp.geometry.operator(case.network, jp.losses.cross_entropy, [case.batch])
    one, other = (jp.geometry.eigenpairs(operator, key=jax.random.key(seed), count=3).vectors for seed in (0, 1))
    got = jp.geometry.alignment(one, other)
    assert got.overlap == pytest.approx(1, abs=1e-10)
    assert got.chance == 3 / operator.size


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.ones(3), np.eye(3), r"left: expected k vectors \[k, n\].*got the shape \(3,\)"),
        (np.eye(3), np.eye(4), r"right: expected vectors over the 3 weights of left, but got 4"),
        (np.eye(3), np.ones((2, 3)), r"right: expected linearly independent vectors, but 2 of them span only 1"),
        (np.full((1, 3), np.nan), np.eye(3), r"left: expected finite numbers"),
        (np.eye(3)[:0], np.eye(3), r"left: expected k vectors"),
    ],
)
def test_alignment_names_bad_input_with_its_remedy(left, right, message):
    with pytest.raises(ValueError, match=message):
        jp.geometry.alignment(left, right)
