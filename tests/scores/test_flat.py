"""Weights of score 0: those that see nothing, and those behind which nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

OWN = jp.losses.distillation()


def relu6(values):
    return jnp.clip(values, 0, 6)


def network(transposed=False):
    """Twelve inputs, the last of them unseen; eight units, of which one is always at 6 and one always at 0."""
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(12, 8)), draw.normal(size=(8, 3))
    bias = np.full(8, 2.0)
    bias[:2] = 60.0, -60.0
    params = {"first": first.T if transposed else first, "bias": bias, "second": second}

    def apply(params, state, images):
        kernel = params["first"].T if transposed else params["first"]
        return relu6(images @ kernel + params["bias"]) @ params["second"]

    images = np.abs(draw.normal(size=(16, 12)))
    images[:, -1] = 0
    return jp.Network(apply, jax.tree.map(jnp.asarray, params)), images


def oracle(weights, scores):
    """[inputs, units], a weight at a time."""
    found = scores.copy()
    for i, u in np.ndindex(*weights.shape):
        others = [scores[i, v] / weights[i, v] ** 2 for v in range(weights.shape[1]) if scores[i, v]]
        if scores[i, u] == 0 and others:
            found[i, u] = weights[i, u] ** 2 * np.median(others)
    return found


@pytest.mark.parametrize("transposed", [False, True])
def test_price_flat_is_the_median_of_other_units_at_the_same_input(transposed):
    net, images = network(transposed)
    score = jp.scores.diagonal_hessian(OWN)
    before, after = score(net, [{"image": images}]), jp.scores.price_flat(score)(net, [{"image": images}])
    turned = np.transpose if transposed else np.asarray
    weights, old, new = (turned(np.asarray(tree["first"])) for tree in (net.params, before, after))
    assert not old[:, :2].any(), "units at 6 and at 0 have no slope"
    assert old[:-1, 2:].all()
    np.testing.assert_allclose(new, oracle(weights, old), rtol=1e-12)
    np.testing.assert_array_equal(new[:, 2:], old[:, 2:])
    assert not new[-1].any(), "an input that is always 0 is unseen"
    assert new[:-1, :2].all()


def test_price_flat_leaves_what_may_go_for_nothing_and_no_more():
    net, images = network()
    score = jp.scores.price_flat(jp.scores.diagonal_hessian(OWN))(net, [{"image": images}])
    dense = net(images)
    kernel = net.params["first"]
    free = net.replace(params={**net.params, "first": jnp.where(score["first"] == 0, 0, kernel)})
    np.testing.assert_array_equal(free(images), dense)
    saturated = net.replace(params={**net.params, "first": kernel.at[:, 0].set(0), "bias": jnp.zeros(8)})
    assert np.abs(saturated(images) - dense).max() > 1, "what is flat is not free"


def test_price_flat_keeps_a_score_that_prices_everything_and_a_leaf_that_nobody_scored():
    net, images = network()
    batches, scope = [{"image": images}], {"first": False, "bias": False, "second": True}
    score = jp.scores.diagonal_hessian(OWN, scope=scope)
    found, priced = score(net, batches), jp.scores.price_flat(score)(net, batches)
    alive = np.asarray(found["second"]) != 0
    np.testing.assert_array_equal(np.asarray(priced["second"])[alive], np.asarray(found["second"])[alive])
    assert not np.asarray(priced["first"]).any()


def test_price_flat_does_not_let_a_flat_unit_go_first_where_others_are_negative():
    net = jp.Network(lambda p, s, x: x @ p, jnp.asarray([[1.0, 5.0], [1.0, 4.0]]))
    priced = jp.scores.price_flat(lambda *_: jnp.asarray([[-3.0, 0.0], [2.0, 0.0]]))(net, [{"image": jnp.ones((1, 2))}])
    np.testing.assert_array_equal(priced, [[-3, 0], [2, 32]])


def test_price_flat_takes_whole_numbers_and_names_scores_that_do_not_fit():
    net, batches = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.ones((2, 2))}), [{"image": jnp.ones((1, 2))}]
    whole = jp.scores.price_flat(lambda *_: {"w": np.array([[2, 0], [0, 0]])})(net, batches)
    np.testing.assert_array_equal(whole["w"], [[2, 2], [0, 0]])
    for wrong in ({"w": jnp.zeros((4, 4))}, {"q": jnp.zeros((2, 2))}):
        with pytest.raises(ValueError, match="scores: "):
            jp.scores.price_flat(lambda *_, wrong=wrong: wrong)(net, batches)


def test_price_flat_names_a_score_that_is_none(unchecked):
    with pytest.raises(TypeError, match="score: expected a function"):
        jp.scores.price_flat("diagonal")
    with pytest.raises(ValueError, match="batch"):
        jp.scores.price_flat(jp.scores.magnitude())(network()[0], [])
