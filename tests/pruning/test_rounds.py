"""The ladder of learning-rate rewinding: checks P1 to P6 of closed forms."""

import itertools
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RUNGS = 6


def network(key: int = 0, sizes: tuple[int, ...] = (7, 13, 11, 3)) -> jp.Network:
    keys = jax.random.split(jax.random.key(key), len(sizes) - 1)
    params = {
        f"layer{number}": {"kernel": jax.random.normal(one, shape), "bias": jnp.full(shape[1], 0.1)}
        for number, (one, shape) in enumerate(zip(keys, itertools.pairwise(sizes), strict=True))
    }
    return jp.Network(_apply, params)


def _apply(params, state, images):
    values = images
    for name in sorted(params):
        values = jnp.tanh(values @ params[name]["kernel"] + params[name]["bias"])
    return values


def data(n: int = 40) -> dict:
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((n, 7)).astype(np.float32), "label": rng.integers(3, size=n).astype(np.int32)}


TX = optax.adamw(optax.cosine_decay_schedule(0.05, 4), weight_decay=0.1)


def train(network, mask, number, folder=None):
    tx = jp.optim.with_mask(TX, mask)
    folder = None if folder is None else folder / f"rung{number}"
    options = {"steps": 4, "batch_size": 8, "seed": number, "folder": folder}
    return jp.train.fit(network, jp.losses.cross_entropy, tx, data(), **options)


def climbed(score=None, rungs: int = RUNGS, fit=train, start=None) -> list:
    start = start or network()
    score = score or jp.scores.magnitude()
    return list(jp.pruning.ladder(start, score, [data()], jp.tree.prunable(start.params), schedule(rungs), fit))


def schedule(rungs: int = RUNGS) -> tuple[float, ...]:
    return jp.schedules.ladder(rungs)


def test_ladder_p1_prunes_a_fifth_of_what_is_left_to_within_one_weight():
    published = (0, 20, 36, 48.8, 59.04, 67.23, 73.79, 79.03, 83.22, 86.58, 89.26, 91.41, 93.13, 94.50, 95.60)
    np.testing.assert_allclose(jp.schedules.ladder(15), np.array(published) / 100, atol=5.1e-5)
    start = network()
    prunable = jp.tree.prunable(start.params)
    count = 7 * 13 + 13 * 11 + 11 * 3
    rungs = climbed()
    for rung, sparsity in zip(rungs, schedule(), strict=True):
        assert abs(jp.masks.sparsity(rung.mask, prunable) - sparsity) <= 0.5 / count + 1e-9
    left = count
    for (
        rung
    ) in climbed():  # torch rounds a fifth of the remaining: the counts never differ by more than a weight or two
        kept = sum(int(jnp.sum(mask)) for mask, flag in _pairs(rung.mask, prunable) if flag)
        assert abs(kept - left) <= 1
        left -= round(0.2 * left)


def _pairs(mask, prunable):
    return zip(jax.tree.leaves(mask), jax.tree.leaves(prunable), strict=True)


def test_ladder_p1_of_every_second_rung_has_a_share_of_its_own():
    np.testing.assert_allclose(jp.schedules.ladder(8, share=0.36), jp.schedules.ladder(15)[::2], rtol=1e-12)


@pytest.mark.parametrize("score", [jp.scores.magnitude(), jp.scores.random(jax.random.key(3)), None])
def test_ladder_p2_has_nested_masks(score):
    rungs = climbed(score or jp.scores.snip(jp.losses.cross_entropy))
    for before, after in itertools.pairwise(rungs):
        assert all(
            bool(jnp.all(~new | old))
            for new, old in zip(jax.tree.leaves(after.mask), jax.tree.leaves(before.mask), strict=True)
        )


def test_ladder_p3_selects_globally_so_that_a_layer_of_small_weights_goes_first():
    start = network()
    params = {**start.params, "layer1": jax.tree.map(lambda leaf: leaf / 1000, start.params["layer1"])}
    rungs = climbed(fit=lambda net, mask, number: net, start=start.replace(params=params), rungs=4)
    kernels = np.concatenate([np.abs(params[name]["kernel"]).ravel() for name in sorted(params)])
    order = np.argsort(kernels, kind="stable")
    for rung in rungs:
        kept = np.concatenate([np.asarray(rung.mask[name]["kernel"]).ravel() for name in sorted(params)])
        pruned = order[: round(rung.sparsity * len(order))]
        np.testing.assert_array_equal(np.flatnonzero(~kept), np.sort(pruned))
        assert np.all(np.asarray(rung.mask["layer0"]["kernel"])) or not np.any(rung.mask["layer1"]["kernel"])


def test_rounds_warn_once_of_a_leaf_that_lost_its_last_weight():
    start = network()
    params = {**start.params, "layer1": jax.tree.map(lambda leaf: leaf / 1000, start.params["layer1"])}
    # Of 267 weights 143 are a thousandth of the others: all of them go in the second round.
    schedule, prunable = (0.3, 0.6, 0.7, 0.8), jp.tree.prunable(params)
    with pytest.warns(jp.masks.TiesWarning, match=r"^scores: no weight is left of layer1/kernel\.") as caught:
        masks = [
            part.mask
            for part in jp.pruning.rounds(start.replace(params=params), jp.scores.magnitude(), [], prunable, schedule)
        ]
    assert [bool(np.any(mask["layer1"]["kernel"])) for mask in masks] == [True, False, False, False]
    assert len(caught) == 1


def test_rounds_rank_scores_of_whole_numbers():
    net = jp.Network(_apply, {"w": jnp.ones((2, 2))})
    score = lambda network, batches: {"w": jnp.array([[1, 2], [3, 4]])}  # noqa: E731
    *_, last = jp.pruning.rounds(net, score, [], {"w": True}, (0.25, 0.5))
    np.testing.assert_array_equal(last.mask["w"], [[False, False], [True, True]])


def test_ladder_p4_keeps_pruned_weights_exactly_zero_through_training():
    for rung in climbed():
        values = jax.tree.map(lambda keep, leaf: jnp.where(keep, 0, leaf), rung.mask, rung.network.params)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(values))


def test_ladder_p4_refuses_training_that_revives_a_weight():
    def without_mask(net, mask, number):
        return net.replace(params=jax.tree.map(lambda leaf: leaf + 1, net.params))

    with pytest.raises(ValueError, match=r"train: expected a network whose pruned weights are zero, but \d+ of them"):
        climbed(fit=without_mask)


def test_ladder_refuses_training_without_a_network_and_scores_of_another_tree():
    with pytest.raises(TypeError, match="train: expected it to return the trained network, but got NoneType"):
        climbed(fit=lambda net, mask, number: None)
    with pytest.raises(ValueError, match="scores: expected"):
        climbed(score=lambda net, batches: net.params["layer0"], fit=lambda net, mask, number: net)


def test_ladder_p5_lets_weights_go_on_and_the_learning_rate_start_anew(tmp_path):
    seen = []

    def watched(net, mask, number):
        trained = train(net, mask, number, tmp_path)
        seen.append((net, trained))
        return trained

    rungs = climbed(fit=watched)
    for (_, end), (start, _), rung in zip(seen[:-1], seen[1:], rungs[1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, start.params, jp.masks.apply(rung.mask, end.params))
    # AdamW's first step has the length of the learning rate in every weight that lives (up to weight decay).
    first = jp.optim.with_mask(TX, rungs[-1].mask)
    gradient = jax.tree.map(jnp.ones_like, rungs[-1].network.params)
    start = seen[-1][0].params
    updates, _ = first.update(gradient, first.init(start), start)
    moved = np.asarray(updates["layer0"]["kernel"])[np.asarray(rungs[-1].mask["layer0"]["kernel"])]
    decayed = 0.05 * 0.1 * np.asarray(start["layer0"]["kernel"])[np.asarray(rungs[-1].mask["layer0"]["kernel"])]
    np.testing.assert_allclose(-moved - decayed, 0.05, rtol=1e-4)


def test_snip_p6_at_initialisation_ranks_by_weight_times_gradient():
    rng = np.random.default_rng(0)
    images, targets = rng.standard_normal((20, 6)).astype(np.float32), rng.standard_normal((20, 1)).astype(np.float32)
    weights = rng.standard_normal((6, 1)).astype(np.float32)
    net = jp.Network(lambda params, state, x: x @ params["kernel"], {"kernel": jnp.array(weights)})
    score = jp.scores.snip(jp.losses.squared_error)
    batch = {"image": images, "label": targets}
    (rung,) = jp.pruning.ladder(net, score, [batch], {"kernel": True}, (0.5,), lambda net, mask, number: net)
    closed = np.abs(weights * (2 / 20 * images.T @ (images @ weights - targets)))
    found = np.asarray(score(net, [batch])["kernel"])
    np.testing.assert_allclose(found / found.sum(), closed / closed.sum(), rtol=1e-4)
    assert set(np.flatnonzero(np.asarray(rung.mask["kernel"]))) == set(np.argsort(closed[:, 0])[3:])


def test_ladder_resumes_at_every_rung(tmp_path):
    whole = climbed()
    for killed in range(RUNGS):

        def dying(net, mask, number, killed=killed):
            if number == killed:
                raise KeyboardInterrupt
            return train(net, mask, number, tmp_path)

        with pytest.raises(KeyboardInterrupt):
            climbed(fit=dying)
    resumed = climbed(fit=partial(train, folder=tmp_path))
    for one, other in zip(whole, resumed, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.network.params, other.network.params)


def test_ladder_of_zeros_trains_as_often_without_pruning():
    start = network()
    prunable = jp.tree.prunable(start.params)
    rungs = list(jp.pruning.ladder(start, jp.scores.magnitude(), [], prunable, (0.0, 0.0, 0.0), train))
    assert [jp.masks.sparsity(rung.mask, prunable) for rung in rungs] == [0.0] * 3
    again = train(train(train(start, rungs[0].mask, 0), rungs[0].mask, 1), rungs[0].mask, 2)
    jax.tree.map(np.testing.assert_array_equal, again.params, rungs[-1].network.params)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [((), "schedule: expected one or more"), ((0.5, 0.2), "do not decrease"), ((0.5, 1.0), r"\[0, 1\)")],
)
def test_ladder_refuses_a_schedule_that_is_none_before_training(schedule, message):
    start = network()
    with pytest.raises(ValueError, match=message):
        jp.pruning.ladder(start, jp.scores.magnitude(), [], jp.tree.prunable(start.params), schedule, train)
    with pytest.raises(ValueError, match="rungs: expected an integer"):
        jp.schedules.ladder(0)
    with pytest.raises(ValueError, match="share: expected"):
        jp.schedules.ladder(3, share=1.0)


def test_rounds_warn_of_what_position_decides_in_a_late_round():
    """Of the weights of that round, not of all that were pruned before."""
    net = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.arange(1.0, 10_001.0).reshape(100, 100)})
    scores = iter([net.params, jax.tree.map(jnp.zeros_like, net.params)])
    found = jp.pruning.rounds(net, lambda network, batches: next(scores), [], {"w": True}, (0.9, 0.905))
    next(found)
    with pytest.warns(jp.masks.TiesWarning, match=r"position decided 50 of the 50 weights that were pruned \(100"):
        next(found)


def test_unstructured_refuses_whole_numbers_that_float32_does_not_have():
    scores = {"w": np.array([[2**24 + 1, 2**24, 3, 4]], np.int32)}
    with pytest.raises(ValueError, match=r"scores: expected whole numbers up to 2\^24.*w has larger ones"):
        jp.masks.unstructured(0.25)(scores, {"w": True})


@pytest.mark.parametrize("form", ["obs", "greedy"])
def test_rounds_warn_of_a_score_that_prices_one_deletion_and_an_update_of_many(form):
    net = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.array([[2.0], [1.0]])})
    batch, loss = {"image": jnp.array([[1.0, 3.0]])}, jp.losses.distillation()
    score = jp.scores.block_hessian(loss, form=form)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jp.pruning.rounds(net, score, [batch], {"w": True}, (0.5,), update=jp.scores.surgeon_update(loss))
        jp.pruning.rounds(net, score, [batch], {"w": True}, (0.5,))
    assert [str(one.message)[:40] for one in caught] == ['score: form="obs" prices one deletion wi'] * (form == "obs")
