"""Rounds with compensation against dense systems, and their control against optax, in float64."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.pruning import compensation, systems
from jaxprune.pruning.objective import objective
from tests.curvature.networks import close, normal

SIZES = {"first/kernel": (4, 5), "first/bias": (5,), "second/kernel": (5, 3)}


def apply(params: Any, state: Any, images: Any) -> Any:
    hidden = jax.nn.gelu(images @ params["first/kernel"] + params["first/bias"])
    return checkpoint_name(hidden, "features") @ params["second/kernel"] + state["shift"]


def linear(params: Any, state: Any, images: Any) -> Any:
    return images @ params["w"]


def tied(params: Any, state: Any, images: Any) -> Any:
    """Both layers are one leaf, which signals do not serve."""
    return jax.nn.gelu(images @ params["w"]) @ params["w"]


def network(seed: int = 0) -> jp.Network:
    params = {name: jnp.asarray(normal(seed + place, *shape)) for place, (name, shape) in enumerate(SIZES.items())}
    return jp.Network(apply, params, {"shift": jnp.ones(3)})


def images(seed: int, count: int, weight: Any = None) -> dict[str, Any]:
    batch = {"image": normal(seed, count, 4)}
    return batch if weight is None else {**batch, "weight": np.asarray(weight, float)}


PRUNABLE = {"first/kernel": True, "first/bias": False, "second/kernel": True}
GREEDY = jp.scores.block_hessian(jp.losses.distillation(), form="greedy")
MAGNITUDE = jp.scores.magnitude()


def flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def dense_system(run: Any, params: Any, batches: Any) -> np.ndarray:
    """The Gauss-Newton matrix of the mean squared distance, from a dense Jacobian."""
    vector, unravel = ravel_pytree(params)
    total, matrix = 0.0, 0.0
    for batch in batches:
        rows = np.asarray(jax.jacrev(lambda v, x=batch["image"]: run(unravel(v), x))(vector))
        weight = np.asarray(batch.get("weight", np.ones(len(rows))))
        total += weight.sum()
        matrix = matrix + 2 * np.einsum("n,nci,ncj->ij", weight, rows, rows)
    return np.asarray(matrix / total)


@pytest.mark.parametrize("memory", [10**9, 1])
@pytest.mark.parametrize("split", [False, True])
def test_system_is_the_gauss_newton_matrix_of_the_free_weights(memory, split):
    net = network()
    batches = [images(9, 6, [1, 0, 2, 1, 1, 1])]
    if split:
        batches = [{name: entry[rows] for name, entry in batches[0].items()} for rows in (slice(0, 2), slice(2, 6))]
    target = objective(net, jp.losses.distillation(), batches, held_out=[images(3, 2)])
    point = jax.tree.map(lambda leaf: leaf * 1.1, net.params)
    free = jax.tree.map(lambda leaf: jnp.abs(leaf) > 0.3, point)
    found = systems.system(target, point, free, memory)
    assert isinstance(found, systems.Written if memory > 1 else systems.Multiplied)
    chosen = np.flatnonzero(flat(free))
    expected = dense_system(lambda params, x: apply(params, net.state, x), point, batches)[np.ix_(chosen, chosen)]
    vector = normal(5, len(chosen))
    close(found.product(jnp.asarray(vector)), expected @ vector, 1e-12)
    if memory > 1:
        close(found.diagonal, np.diag(expected), 1e-12)
    gradient, damping = normal(6, len(chosen)), 0.1 * np.diag(expected).mean()
    *_, solved = systems.conjugate(found, jnp.asarray(gradient), damping)
    close(solved, -np.linalg.solve(expected + damping * np.eye(len(chosen)), gradient), 1e-9)


def test_system_of_leaves_that_signals_do_not_serve_goes_by_products():
    net = jp.Network(tied, {"w": jnp.asarray(normal(0, 4, 4))})
    batches = [images(1, 6)]
    target = objective(net, jp.losses.distillation(), batches, held_out=batches)
    free = {"w": jnp.ones((4, 4), bool)}
    found = systems.system(target, net.params, free, 10**9)
    assert isinstance(found, systems.Multiplied)
    expected = dense_system(lambda params, x: tied(params, {}, x), net.params, batches)
    vector = normal(5, 16)
    close(found.product(jnp.asarray(vector)), expected @ vector, 1e-12)
    # Two random signs of the trace: of its size, no more.
    assert 0.2 < float(found.diagonal.mean()) / np.diag(expected).mean() < 5


def test_surgeon_rounds_of_a_linear_network_solve_the_normal_equations():
    """The distance is quadratic there, so that one solution with little damping is all there is to gain."""
    net = jp.Network(linear, {"w": jnp.asarray(normal(0, 4, 2))})
    batches = [images(1, 12)]
    rounds = list(
        jp.pruning.surgeon_rounds(
            net, MAGNITUDE, batches, {"w": True}, (0.25, 0.5), held_out=batches, solutions=4, damping=1e-8
        )
    )
    x, target = batches[0]["image"], batches[0]["image"] @ np.asarray(net.params["w"])
    for found, sparsity in zip(rounds, (0.25, 0.5), strict=True):
        assert jp.masks.sparsity(found.mask, {"w": True}) == sparsity == found.sparsity
        for unit in range(2):
            kept = np.flatnonzero(np.asarray(found.mask["w"])[:, unit])
            expected = np.zeros(4)
            expected[kept] = np.linalg.lstsq(x[:, kept], target[:, unit], rcond=None)[0]
            close(found.params["w"][:, unit], expected, 1e-5)


@pytest.mark.parametrize("move", ["surgeon", "adam"])
def test_rounds_leave_what_may_not_move_as_it_is_bit_for_bit(move):
    net, batches, scope = network(), [images(1, 40)], {**PRUNABLE, "first/kernel": False}
    options: dict[str, Any] = {"scope": scope} | ({"gradients": [30, 30]} if move == "adam" else {})
    make = jp.pruning.surgeon_rounds if move == "surgeon" else jp.pruning.adam_rounds
    first, second = make(net, GREEDY, batches, PRUNABLE, (0.2, 0.5), **options)
    for found in (first, second):
        np.testing.assert_array_equal(found.params["first/bias"], net.params["first/bias"])
        kept = np.asarray(found.mask["first/kernel"])
        expected = np.where(kept, net.params["first/kernel"], 0)
        np.testing.assert_array_equal(found.params["first/kernel"], expected)
        assert not np.asarray(found.params["second/kernel"])[~np.asarray(found.mask["second/kernel"])].any()
        assert found.attempts[0].after < found.attempts[0].before
    assert not (flat(second.mask) & ~flat(first.mask)).any()
    assert jp.masks.sparsity(second.mask, PRUNABLE) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("move", ["surgeon", "adam"])
def test_rounds_go_on_as_though_they_had_not_been_interrupted(move):
    net, batches, schedule = network(), [images(1, 40)], (0.2, 0.4, 0.6)
    options: dict[str, Any] = {"gradients": [20, 20, 20]} if move == "adam" else {}
    make = jp.pruning.surgeon_rounds if move == "surgeon" else jp.pruning.adam_rounds
    whole = list(make(net, GREEDY, batches, PRUNABLE, schedule, **options))
    rest = list(make(net, GREEDY, batches, PRUNABLE, schedule, **options, after=whole[0]))
    assert [found.number for found in rest] == [1, 2]
    for one, other in zip(whole[1:], rest, strict=True):
        np.testing.assert_array_equal(flat(one.params), flat(other.params))
        np.testing.assert_array_equal(flat(one.mask), flat(other.mask))
        assert one.attempts == other.attempts
        assert str(one).startswith(f"round {one.number}: ")


def test_surgeon_rounds_do_not_depend_on_how_images_are_cut_into_batches():
    net, whole = network(), images(1, 24)
    padded = {"image": np.concatenate([whole["image"], np.full((3, 4), np.nan)]), "weight": np.r_[np.ones(24), 0, 0, 0]}
    parts = [{name: entry[rows] for name, entry in padded.items()} for rows in (slice(0, 10), slice(10, 27))]
    (one,) = jp.pruning.surgeon_rounds(net, GREEDY, [whole], PRUNABLE, (0.5,), solutions=1)
    (other,) = jp.pruning.surgeon_rounds(net, GREEDY, parts, PRUNABLE, (0.5,), solutions=1)
    np.testing.assert_array_equal(flat(one.mask), flat(other.mask))
    close(flat(one.params), flat(other.params), 1e-8)


@pytest.mark.parametrize("at", [None, "features"])
def test_surgeon_rounds_make_the_distance_to_the_dense_network_smaller(at):
    # Inputs of which two say what four do: others can stand in for what is pruned.
    mix = normal(7, 2, 4)
    net, batches, fresh = network(), [{"image": normal(1, 60, 2) @ mix}], normal(2, 200, 2) @ mix
    loss = jp.losses.distillation(at=at)
    score = jp.scores.block_hessian(loss, form="greedy")
    prunable = PRUNABLE if at is None else {**PRUNABLE, "second/kernel": False}
    (found,) = jp.pruning.surgeon_rounds(net, score, batches, prunable, (0.4,), objective=loss)
    before = net.replace(params=jp.masks.apply(found.mask, net.params))
    after = net.replace(params=found.params)

    def distance(other: jp.Network) -> float:
        if at is None:
            return float(jnp.mean((other(fresh) - net(fresh)) ** 2))
        read = [jp.sites.read(each, fresh, [at])[0] for each in (other, net)]
        return float(jnp.mean((read[0] - read[1]) ** 2))

    assert distance(after) < 0.3 * distance(before)


def test_surgeon_rounds_keep_the_last_good_point_where_no_step_helps(monkeypatch):
    net, worse = network(), itertools.count(1.0)
    monkeypatch.setattr(compensation.Objective, "value", lambda *_: next(worse))
    with pytest.warns(
        UserWarning, match=r"in round 0 no step made .* at relative damping 0\.1, 1, 10; the kept weights"
    ):
        (found,) = jp.pruning.surgeon_rounds(net, MAGNITUDE, [images(1, 20)], PRUNABLE, (0.5,))
    np.testing.assert_array_equal(flat(found.params), flat(jp.masks.apply(found.mask, net.params)))
    (attempt,) = found.attempts
    assert not attempt.accepted
    assert attempt.before == attempt.after == 1
    assert attempt.gradients > 3 * compensation.PRODUCT  # what was tried in vain was paid for


def test_surgeon_rounds_that_prune_nothing_move_nothing_and_say_nothing():
    net = network()
    (found,) = jp.pruning.surgeon_rounds(net, MAGNITUDE, [images(1, 20)], PRUNABLE, (0.0,))
    np.testing.assert_array_equal(flat(found.params), flat(net.params))


def test_surgeon_rounds_charge_what_they_did(monkeypatch):
    counted = {"product": 0, "value": 0}

    def counting(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            counted[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(systems.Written, "product", counting("product", systems.Written.product))
    monkeypatch.setattr(compensation.Objective, "value", counting("value", compensation.Objective.value))
    (found,) = jp.pruning.surgeon_rounds(network(), GREEDY, [images(1, 40)], PRUNABLE, (0.5,))
    solved = len(found.attempts) * (1 + compensation.DIAGONAL)
    assert found.gradients == pytest.approx(
        solved + compensation.PRODUCT * counted["product"] + compensation.VALUE * counted["value"]
    )


def test_adam_rounds_are_those_of_optax():
    net, batches, rate = network(), [images(1, 30)], 0.01
    held = [images(2, 10)]
    budget = 20 + compensation.VALUE * 21
    (found,) = jp.pruning.adam_rounds(
        net, MAGNITUDE, batches, PRUNABLE, (0.5,), gradients=[budget + 1e-9], rates=[rate], held_out=held
    )
    (attempt,) = found.attempts
    assert attempt.setting == rate
    assert attempt.gradients <= budget + 1
    dense = net(batches[0]["image"])
    tx = jp.optim.with_mask(optax.adam(optax.cosine_decay_schedule(rate, 20)), found.mask)
    params = jp.masks.apply(found.mask, net.params)
    state = tx.init(params)
    for _ in range(attempt.steps):
        gradient = jax.grad(lambda p: jnp.mean(jnp.sum((apply(p, net.state, batches[0]["image"]) - dense) ** 2, 1)))(
            params
        )
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    close(flat(found.params), flat(params), 1e-10)


def test_adam_rounds_choose_the_rate_by_the_images_held_out():
    (found,) = jp.pruning.adam_rounds(
        network(), MAGNITUDE, [images(1, 30)], PRUNABLE, (0.5,), gradients=[60], rates=[1e-7, 1e-2]
    )
    assert found.attempts[0].setting == 1e-2


BATCH = images(1, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": (0.5, 0.2)}, "schedule: expected one or more sparsities that do not decrease"),
        ({"schedule": (1.0,)}, "schedule: expected a fraction in"),
        ({"batches": []}, "batches: expected one or more batches, but got none"),
        ({"batches": [images(1, 3)]}, "batches: expected 4 or more images of weight above 0"),
        ({"batches": [{"image": np.full((8, 4), np.nan)}]}, "batch"),
        ({"held_out": []}, "held_out: expected one or more batches, but got none"),
        ({"objective": jp.losses.cross_entropy}, "expected the keys 'image', 'label'"),
        ({"objective": jp.losses.distillation(at="featurs")}, "featurs"),
        ({"scope": dict.fromkeys(SIZES, False)}, "scope: expected a leaf that may move, but got none"),
        ({"scope": {"first/kernel": True}}, "scope: expected one Python bool for every leaf"),
        ({"solutions": 0}, "solutions"),
        ({"steps": 0}, "steps"),
        ({"damping": 0.0}, "damping: expected a finite number above 0"),
    ],
)
def test_surgeon_rounds_name_bad_input_before_anything_is_computed(changes, message):
    def score(network: Any, batches: Any) -> Any:
        raise AssertionError

    given: dict[str, Any] = {"batches": [BATCH], "schedule": (0.5,)} | changes
    batches, schedule = given.pop("batches"), given.pop("schedule")
    with pytest.raises((ValueError, TypeError), match=message):
        jp.pruning.surgeon_rounds(network(), score, batches, PRUNABLE, schedule, **given)


def test_rounds_do_not_go_on_after_a_round_of_another_schedule():
    (found,) = jp.pruning.surgeon_rounds(network(), MAGNITUDE, [images(1, 20)], PRUNABLE, (0.5,))
    with pytest.raises(
        ValueError, match=r"after: expected a round of this schedule \(0\.4, 0\.6\), but got round 0 at"
    ):
        jp.pruning.surgeon_rounds(network(), MAGNITUDE, [images(1, 20)], PRUNABLE, (0.4, 0.6), after=found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": [1.0, 2.0]}, "gradients: expected a number of 0 or more for each of 1 rounds"),
        ({"gradients": [-1.0]}, "gradients: expected a number of 0 or more"),
        ({"rates": []}, "rates: expected one or more learning rates"),
        ({"rates": [0.0]}, "rates: expected a finite number above 0"),
    ],
)
def test_adam_rounds_name_bad_input(changes, message):
    options: dict[str, Any] = {"gradients": [10.0]} | changes
    with pytest.raises(ValueError, match=message):
        jp.pruning.adam_rounds(network(), MAGNITUDE, [BATCH], PRUNABLE, (0.5,), **options)
