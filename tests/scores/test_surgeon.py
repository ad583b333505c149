"""The optimal brain surgeon against refits, fresh inverses and dense solves, in float64."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxprune as jp
from jaxprune.scores import solving, surgeon
from tests import cases

pytestmark = pytest.mark.usefixtures("same_rank")

LOSS, SQUARED = jp.losses.cross_entropy, jp.losses.squared_error
# A kernel and a bias of each network; the kernel of the cnn has dead weights, those of both have zeros.
LEAVES = {"mlp": ("1/0", "1/1"), "cnn": ("conv2/kernel", "conv2/bias")}
every_leaf = pytest.mark.parametrize(("name", "path"), [(name, path) for name in LEAVES for path in LEAVES[name]])
every_form = pytest.mark.parametrize("form", ["obs", "greedy"])
every_partition = pytest.mark.parametrize("blocks", ["unit", "layer", 2, 3])


def close(got, expected, tolerance=1e-10):
    """Equal up to rounding, measured against the largest number there is."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    scale = max(1e-3, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * scale)


def only(case, path):
    return jp.tree.map_named(lambda name, _: name == path, case.network.params)


def scored(form, case, path, blocks, **options):
    score = jp.scores.block_hessian(LOSS, form=form, blocks=blocks, scope=only(case, path), **options)
    return np.asarray(jp.tree.leaf(score(case.network, [case.batch]), path)).ravel()


def damped_blocks(name, path, blocks, damping):
    """For every block where its weights stand in the leaf, its damped Gauss-Newton matrix, and which are dead."""
    where = cases.positions(cases.build(name).network.params, path)
    dense = cases.matrix(name, "ggn")[np.ix_(where.ravel(), where.ravel())]
    shift, numbers = damping * np.diag(dense).mean(), cases.block_numbers(where.shape, blocks).ravel()
    for number in range(numbers.max() + 1):
        inside = np.flatnonzero(numbers == number)
        matrix = dense[np.ix_(inside, inside)]
        yield inside, matrix + shift * np.eye(inside.size), ~matrix.any(axis=1)


def leaf_weights(name, path):
    return np.asarray(jp.tree.leaf(cases.build(name).network.params, path)).ravel()


def in_turn(matrix, weights):
    """The greedy surgeon by definition, with a fresh inverse of what is left at every step.

    Returns the order of deletion, the price of every step, and the weights after it.
    """
    weights, left, order, prices, after = weights.copy(), list(np.flatnonzero(weights)), [], [], []
    while left:
        inverse = np.linalg.inv(matrix[np.ix_(left, left)])
        costs = weights[left] ** 2 / (2 * np.diag(inverse))
        k = int(np.argmin(costs))
        weights[left] -= weights[left[k]] / inverse[k, k] * inverse[:, k]
        weights[left[k]] = 0
        order.append(left.pop(k))
        prices.append(costs[k])
        after.append(weights.copy())
    return order, prices, after


@every_leaf
@every_partition
def test_block_hessian_obs_price_is_read_off_the_damped_inverse_of_its_block(name, path, blocks):
    case, w = cases.build(name), leaf_weights(name, path)
    got, expected = scored("obs", case, path, blocks, matrix="ggn", damping=0.1), np.full(w.size, np.nan)
    for inside, matrix, dead in damped_blocks(name, path, blocks, 0.1):
        expected[inside] = np.where(dead, 0, w[inside] ** 2 / (2 * np.diag(np.linalg.inv(matrix))))
        # Re-adjusting the rest of the block never costs more than deleting alone.
        assert (got[inside] <= w[inside] ** 2 * np.diag(matrix) / 2 * (1 + 1e-10)).all()
    close(got, expected)


@every_leaf
@every_partition
def test_block_hessian_greedy_is_a_surgeon_that_inverts_anew_at_every_step(name, path, blocks):
    case, w = cases.build(name), leaf_weights(name, path)
    got = scored("greedy", case, path, blocks, matrix="ggn", damping=0.1)
    for inside, matrix, dead in damped_blocks(name, path, blocks, 0.1):
        order, prices, _ = in_turn(matrix, np.where(dead, 0, w[inside]))
        close(got[inside][order], np.maximum.accumulate(prices))
        assert (np.diff(got[inside][order], prepend=0) > 0).all()
        # What is zero or dead has gone before, at no cost.
        assert not np.delete(got[inside], order).any()


def linear(units=2, inputs=6):
    """A linear network at the minimum of a weighted squared error, and the least squares problem behind it."""
    rng = np.random.default_rng(0)
    images, targets, weight = rng.normal(size=(20, inputs)), rng.normal(size=(20, units)), rng.random(20)
    images[:, 1] += 2 * images[:, 0]
    root = np.sqrt(weight / weight.sum())[:, None]
    solution = np.linalg.lstsq(root * images, root * targets, rcond=None)[0]
    network = jp.Network(lambda p, s, x: x @ p["kernel"], {"kernel": jnp.asarray(solution)})
    return network, {"image": images, "label": targets, "weight": weight}, (root * images, root * targets)


def refit(problem, solution, unit, columns, shift):
    """Least squares with some columns left, and ``shift / 2`` times the squared distance to the solution added.

    Returns the weights of the unit, and what leaving out the other columns costs.
    """
    images, targets = problem
    rows = np.concatenate([images, np.sqrt(shift / 2) * np.eye(images.shape[1])])
    aims = np.concatenate([targets[:, unit], np.sqrt(shift / 2) * solution[:, unit]])
    least = np.sum((rows @ solution[:, unit] - aims) ** 2)
    weights = np.zeros(images.shape[1])
    weights[columns] = np.linalg.lstsq(rows[:, columns], aims, rcond=None)[0]
    return weights, np.sum((rows @ weights - aims) ** 2) - least


@pytest.mark.parametrize("damping", [1e-12, 0.1])
@pytest.mark.parametrize("blocks", ["unit", "layer"])
def test_block_hessian_obs_price_is_what_deleting_and_solving_again_costs(blocks, damping):
    network, batch, problem = linear()
    solution = np.asarray(network.params["kernel"])
    shift = damping * 2 * np.mean(np.sum(problem[0] ** 2, axis=0))
    score = jp.scores.block_hessian(SQUARED, form="obs", blocks=blocks, damping=damping)
    got = score(network, [batch])["kernel"]
    others = [[i for i in range(6) if i != j] for j in range(6)]
    expected = [[refit(problem, solution, unit, columns, shift)[1] for unit in range(2)] for columns in others]
    close(got, np.array(expected))


@pytest.mark.parametrize("blocks", [5, 8])
def test_block_hessian_obs_price_of_few_examples_is_that_of_many_where_blocks_and_batches_are_unequal(blocks):
    network, batch, _ = linear(inputs=12)
    batches = [cases.take(batch, 0, 1), cases.take(batch, 1, 2)]
    score = jp.scores.block_hessian(SQUARED, form="obs", blocks=blocks, damping=0.1)
    got = np.asarray(score(network, batches)["kernel"])
    # Two examples of two columns each are fewer rows than a block has weights.
    images, weight = batch["image"][:2], batch["weight"][:2]
    assert abs(weight[0] - weight[1]) > 0.1
    hessian, weights = 2 * (images.T * weight / weight.sum()) @ images, np.asarray(network.params["kernel"])
    shift = 0.1 * np.diag(hessian).mean()
    for start in range(0, 12, blocks):
        run = slice(start, start + blocks)
        inverse = np.linalg.inv(hessian[run, run] + shift * np.eye(len(hessian[run])))
        close(got[run], weights[run] ** 2 / (2 * np.diag(inverse)[:, None]))


@pytest.mark.parametrize("damping", [1e-12, 0.1])
@pytest.mark.parametrize("blocks", ["unit", "layer"])
def test_surgeon_update_gives_the_weights_of_deleting_and_solving_again(blocks, damping):
    network, batch, problem = linear()
    solution = np.asarray(network.params["kernel"])
    shift = damping * 2 * np.mean(np.sum(problem[0] ** 2, axis=0))
    mask = np.random.default_rng(1).random((6, 2)) < 0.5
    update = jp.scores.surgeon_update(SQUARED, blocks=blocks, damping=damping)
    got = update(network, [batch], {"kernel": jnp.asarray(mask)})["kernel"]
    for unit in range(2):
        close(got[:, unit], refit(problem, solution, unit, np.flatnonzero(mask[:, unit]), shift)[0])


def test_surgeon_update_of_each_mask_is_that_of_the_mask_alone():
    params = [cases.vector(jnp.zeros((6, 6)), seed) for seed in range(3)]
    network = jp.Network(lambda p, s, x: jnp.abs(x @ p[0]) @ p[1] @ p[2], params)
    batch = {"image": cases.vector(jnp.zeros((9, 6))), "label": np.zeros((9, 6))}
    masks = [[cases.vector(leaf, 10 * seed + k) < 0 for k, leaf in enumerate(params)] for seed in range(1, 4)]
    masks[1][2] = jnp.ones((6, 6), bool)  # a leaf that one mask leaves alone, and the others do not
    update = jp.scores.surgeon_update(SQUARED, damping=0.1)
    found = update.each(network, [batch], masks)
    for mask, one in zip(masks, found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, update(network, [batch], mask))
    assert found[1][2] is params[2]
    assert found[0][2] is not params[2]
    with pytest.raises(ValueError, match=r"masks\[1\]"):
        update.each(network, [batch], [masks[0], masks[0][:2]])


def test_surgeon_update_of_each_mask_solves_only_what_the_mask_prunes(unchecked):
    def loss(values, batch):  # not convex in the second output
        return values[:, 0] ** 2 - 0.1 * values[:, 1] ** 2 + 0 * batch["label"]

    params = {"a": jnp.asarray([[1.0, 2.0], [3.0, 1.0]]), "b": jnp.asarray([[1.0, 0.0], [0.0, 1.0]])}
    network = jp.Network(lambda p, s, x: (x @ p["a"]) @ p["b"], params)
    batch = {"image": cases.vector(jnp.zeros((9, 2))), "label": np.zeros(9)}
    keeps = {name: jnp.ones((2, 2), bool) for name in params}
    # The second unit of both has no definite block, but where nothing of it is kept.
    pruned = {name: {**keeps, name: jnp.asarray([[True, False], [False, False]])} for name in params}
    update = jp.scores.surgeon_update(loss, damping=0.01)
    for name in params:
        update(network, [batch], pruned[name])
    each = update.each(network, [batch], [pruned["a"], pruned["b"]])
    for name, found in zip(pruned, each, strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, update(network, [batch], pruned[name]))
    with pytest.raises(TypeError, match="masks: expected a list of masks, but got a dict"):
        update.each(network, [batch], keeps)


def test_block_hessian_greedy_prices_add_up_to_what_the_refits_cost():
    network, batch, problem = linear(units=1)
    solution = np.asarray(network.params["kernel"])
    shift = 0.1 * 2 * np.mean(np.sum(problem[0] ** 2, axis=0))
    got = jp.scores.block_hessian(SQUARED, form="greedy", damping=0.1)(network, [batch])["kernel"][:, 0]
    order = np.argsort(got)
    totals = [refit(problem, solution, 0, np.sort(order[k:]), shift)[1] for k in range(1, 7)]
    close(got[order], np.maximum.accumulate(np.diff(totals, prepend=0)))


def test_surgeon_update_for_a_greedy_mask_is_deleting_in_turn():
    network, batch, problem = linear()
    score = jp.scores.block_hessian(SQUARED, form="greedy", damping=0.1)
    update = jp.scores.surgeon_update(SQUARED, damping=0.1)
    got = np.asarray(score(network, [batch])["kernel"])
    matrix = 2 * problem[0].T @ problem[0]
    matrix += 0.1 * np.mean(np.diag(matrix)) * np.eye(6)
    histories = [in_turn(matrix, np.asarray(network.params["kernel"][:, unit])) for unit in range(2)]
    for count in range(1, 7):
        mask = np.stack([got[:, unit] > np.sort(got[:, unit])[count - 1] for unit in range(2)], axis=1)
        updated = update(network, [batch], {"kernel": jnp.asarray(mask)})["kernel"]
        close(updated, np.stack([after[count - 1] for _, _, after in histories], axis=1))


def test_block_hessian_greedy_by_one_threshold_deletes_as_the_queue_of_the_paper():
    """The queue holds the next step of every block, and each time takes the cheapest."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 12)) @ rng.normal(size=(12, 12))
    network = jp.Network(lambda p, s, x: x @ p, jnp.asarray(rng.normal(size=(12, 8))))
    batch = {"image": images, "label": np.zeros((30, 8))}
    got = np.asarray(jp.scores.block_hessian(SQUARED, form="greedy", damping=1e-3)(network, [batch]))
    matrix = 2 * images.T @ images / 30
    matrix += 1e-3 * np.mean(np.diag(matrix)) * np.eye(12)
    steps = [in_turn(matrix, np.asarray(network.params[:, unit]))[:2] for unit in range(8)]
    # Prices that fall are what a running maximum is for.
    assert any((np.diff(prices) < 0).any() for _, prices in steps)
    queue = sorted((steps[unit][1][0], unit, 0) for unit in range(8))
    deleted = []
    while queue:
        _, unit, k = heapq.heappop(queue)
        deleted.append((steps[unit][0][k], unit))
        if k + 1 < 12:
            heapq.heappush(queue, (steps[unit][1][k + 1], unit, k + 1))
    assert [divmod(int(position), 8) for position in np.argsort(got.ravel())] == deleted


@every_leaf
@every_partition
def test_surgeon_update_solves_the_kept_part_of_every_block(name, path, blocks):
    case, w = cases.build(name), leaf_weights(name, path)
    kept = np.random.default_rng(2).random(w.size) < 0.5
    kept[0], kept[-1] = False, True
    shape = jp.tree.leaf(case.network.params, path).shape
    mask = jp.tree.replace(jp.masks.ones(case.network.params), path, jnp.asarray(kept.reshape(shape)))
    update = jp.scores.surgeon_update(LOSS, blocks=blocks, matrix="ggn", damping=0.1)
    got = update(case.network, [case.batch], mask)
    for other, before, after in zip(
        jp.tree.names(got), jax.tree.leaves(case.network.params), jax.tree.leaves(got), strict=True
    ):
        assert other == path or after is before
    expected = np.zeros(w.size)
    for inside, matrix, _ in damped_blocks(name, path, blocks, 0.1):
        stay, go = inside[kept[inside]], inside[~kept[inside]]
        among = kept[inside]
        change = np.linalg.solve(matrix[np.ix_(among, among)], matrix[np.ix_(among, ~among)] @ w[go])
        expected[stay] = w[stay] + change
    close(jp.tree.leaf(got, path).ravel(), expected)
    assert not jp.tree.leaf(got, path).ravel()[~kept].any()


def test_surgeon_update_keeps_blocks_from_disturbing_each_other():
    network, batch, _ = linear()
    mask = jnp.ones((6, 2), bool).at[3, 1].set(False)
    got = jp.scores.surgeon_update(SQUARED)(network, [batch], {"kernel": mask})["kernel"]
    np.testing.assert_array_equal(got[:, 0], network.params["kernel"][:, 0])
    assert (got[:, 1] != network.params["kernel"][:, 1]).all()


# Whole numbers make dead inputs, equal inputs and singular blocks.
IMAGES = st.one_of(
    hnp.arrays(np.float64, (5, 4), elements=st.sampled_from([-1.0, 0.0, 0.0, 1.0, 2.0])),
    hnp.arrays(np.float64, (5, 4), elements=st.floats(-10, 10, allow_subnormal=False)),
)
LINEAR = jp.Network(lambda p, s, x: x @ p, np.array([[0.5, -1.0], [2.0, 0.1], [-3.0, 0.0], [1.0, 1.0]]))


@given(IMAGES)
def test_block_hessian_price_lies_between_the_damping_and_the_damped_diagonal(images):
    images = np.where(np.abs(images) < 1e-150, 0.0, images)  # whose squares are 0, while the inputs are not
    batch = {"image": images, "label": np.zeros((5, 2))}
    alone = np.asarray(jp.scores.block_hessian(SQUARED, form="obs", damping=0.1)(LINEAR, [batch]))
    greedy = np.asarray(jp.scores.block_hessian(SQUARED, form="greedy", damping=0.1)(LINEAR, [batch]))
    diagonal = np.broadcast_to(2 * np.mean(images**2, axis=0)[:, None], (4, 2))
    shift, half, live = 0.1 * diagonal.mean(), LINEAR.params**2 / 2, diagonal > 0
    slack = 1e-10 * (half * (diagonal + shift)).max()
    assert (alone <= half * (diagonal + shift) + slack).all()
    assert (alone >= np.where(live, half * shift, 0) - slack).all()
    assert not alone[~live].any()
    assert not greedy[~live].any()
    # In the unit where nothing has gone before, the first to go is the cheapest alone.
    if live[:, 0].any():
        np.testing.assert_allclose(greedy[live[:, 0], 0].min(), alone[live[:, 0], 0].min(), rtol=1e-10)


@pytest.mark.parametrize("form", ["obs", "greedy", "quadratic"])
@pytest.mark.parametrize("blocks", ["unit", "layer", 2])
def test_block_hessian_of_a_leaf_that_the_loss_does_not_depend_on_is_zero(form, blocks):
    params = {"dead": jnp.ones((2, 2)), "w": jnp.array([[1.0, 2.0], [3.0, 5.0]])}
    network = jp.Network(lambda p, s, x: x @ p["w"] + 0 * jnp.sum(p["dead"]), params)
    batch = {"image": np.eye(2), "label": np.array([0, 1])}
    scores = jp.scores.block_hessian(LOSS, form=form, matrix="ggn", blocks=blocks, damping=0.1)(network, [batch])
    assert not scores["dead"].any()
    assert scores["w"].any()


def dead_input():
    case, scope = indefinite()
    image = case.batch["image"].copy()
    image[:, 0, 0] = 0
    return case, {**case.batch, "image": image}, scope


def test_scores_of_weights_of_an_input_that_is_always_zero_are_zero():
    case, batch, scope = dead_input()
    surgeons = [
        jp.scores.block_hessian(LOSS, form=form, matrix="ggn", blocks=blocks, scope=scope)
        for form in ("obs", "greedy")
        for blocks in ("unit", "layer", 3)
    ]
    quadratic = jp.scores.block_hessian(LOSS, form="quadratic", scope=scope)
    for score in (jp.scores.snip(LOSS), jp.scores.fisher(LOSS), quadratic, *surgeons):
        scores = score(case.network, [batch])[0]["w"]
        assert not scores[0].any()
        assert scores[1:].any()


def test_surgeon_update_neither_moves_dead_weights_nor_makes_up_for_them():
    case, batch, _ = dead_input()
    kept = jnp.ones((4, 5), bool).at[0, :2].set(False)
    mask = jp.tree.replace(jp.masks.ones(case.network.params), "0/w", kept)
    got = jp.scores.surgeon_update(LOSS, matrix="ggn")(case.network, [batch], mask)
    np.testing.assert_array_equal(got[0]["w"], jnp.where(kept, case.network.params[0]["w"], 0))


@given(
    hnp.arrays(np.float64, (2, 3, 7), elements=st.floats(-3, 3, allow_subnormal=False)), st.sampled_from([0.1, 1.0, 4])
)
def test_inverse_diagonal_from_factors_is_that_of_the_dense_inverse(factors, shift):
    dense = shift * np.eye(7)[None] + factors.mT @ factors
    expected = np.diagonal(np.linalg.inv(dense), axis1=1, axis2=2)
    np.testing.assert_allclose(surgeon.inverse_diagonal(jnp.asarray(factors), shift), expected, rtol=2e-12, atol=2e-12)


def indefinite():
    case = cases.build("mlp")
    return case, only(case, "0/w")


def half_mask(case, path):
    leaf = jp.tree.leaf(case.network.params, path)
    kept = jnp.asarray(np.random.default_rng(0).random(leaf.shape) < 0.7)
    return jp.tree.replace(jp.masks.ones(case.network.params), path, kept)


def surgeons(**options):
    """Everything that factors the blocks of one leaf, as functions of a damping."""
    case, scope = indefinite()
    mask = half_mask(case, "0/w")

    def scores(form):
        return lambda damping: jp.scores.block_hessian(LOSS, form=form, damping=damping, scope=scope, **options)(
            case.network, [case.batch]
        )

    def update(damping):
        return jp.scores.surgeon_update(LOSS, damping=damping, **options)(case.network, [case.batch], mask)

    return {"obs": scores("obs"), "greedy": scores("greedy"), "update": update}


@pytest.mark.parametrize("what", ["obs", "greedy", "update"])
def test_surgeon_refuses_an_indefinite_block_and_the_damping_it_names_suffices(what):
    with pytest.raises(
        ValueError, match=r"damping: a Hessian block of 0/w is not positive definite.*suffices"
    ) as error:
        surgeons()[what](1e-2)
    named = float(str(error.value).split("damping=")[2].split(" ")[0])
    got = surgeons()[what](named)[0]["w"]
    assert jnp.isfinite(got).all()
    assert what == "update" or ((got >= 0).all() and got.any())


@pytest.mark.parametrize("what", ["obs", "greedy", "update"])
def test_surgeon_takes_the_gauss_newton_matrix_where_the_hessian_is_indefinite(what):
    case, _ = indefinite()
    got = surgeons(matrix="ggn")[what](1e-2)[0]["w"]
    kept = half_mask(case, "0/w")[0]["w"] if what == "update" else case.network.params[0]["w"] != 0
    np.testing.assert_array_equal(got != 0, kept)


@every_form
def test_block_hessian_refuses_a_negative_mean_diagonal_with_the_remedy(form):
    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.ones((2, 1))})

    def concave(outputs, batch):
        return -jnp.sum(outputs**2, axis=-1)

    batch = {"image": np.ones((1, 2)), "label": np.zeros(1, int)}
    with pytest.raises(ValueError, match=r'no relative damping can help.*use matrix="ggn"'):
        jp.scores.block_hessian(concave, form=form)(network, [batch])


@every_form
def test_block_hessian_refuses_damping_that_rounding_swallows_and_names_enough(form):
    network = jp.Network(lambda p, s, x: x @ p, jnp.ones((4, 1)))
    batch = {"image": np.ones((1, 4)), "label": np.zeros((1, 1))}
    with pytest.raises(ValueError, match=r"damping: a Hessian block of  is not positive definite.*suffices") as error:
        jp.scores.block_hessian(SQUARED, form=form, damping=1e-20)(network, [batch])
    named = float(str(error.value).split("damping=")[2].split(" ")[0])
    assert named < 1e-12
    assert jnp.isfinite(jp.scores.block_hessian(SQUARED, form=form, damping=named)(network, [batch])).all()


@every_form
def test_block_hessian_names_images_that_are_not_finite(form):
    network, batch, _ = linear()
    batch = {**batch, "image": np.where(np.arange(6)[None] == 2, np.nan, batch["image"])}
    with pytest.raises(ValueError, match=r"batch: expected finite numbers.*Inspect the preprocessing"):
        jp.scores.block_hessian(SQUARED, form=form)(network, [batch])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jp.scores.surgeon_update(LOSS, damping=0.0), ValueError, "damping: expected a finite number above 0"),
        (lambda: jp.scores.surgeon_update(LOSS, matrix="fisher"), ValueError, "matrix: unknown value 'fisher'"),
        (
            lambda: jp.scores.surgeon_update(LOSS)(LINEAR, [], jnp.ones((4, 2))),
            TypeError,
            r"mask: expected boolean leaves \(True = kept\)",
        ),
        (
            lambda: jp.scores.surgeon_update(LOSS)(LINEAR, [], jnp.ones((2, 4), bool)),
            ValueError,
            r"mask: at  expected the shape \(4, 2\)",
        ),
        (
            lambda: jp.scores.surgeon_update(LOSS)(LINEAR, [], jnp.zeros((4, 2), bool)),
            ValueError,
            "batches: expected at least one batch",
        ),
        (
            lambda: jp.scores.surgeon_update(LOSS)(
                LINEAR.replace(params=np.full((4, 2), np.nan)), [], jnp.ones((4, 2), bool)
            ),
            ValueError,
            "network.params: expected finite numbers",
        ),
    ],
)
def test_surgeon_update_names_bad_arguments(unchecked, make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_surgeon_update_shares_one_program_for_leaves_of_one_shape_and_all_masks():
    params = [cases.vector(jnp.zeros((5, 5)), seed) for seed in range(3)]
    network = jp.Network(lambda p, s, x: x @ p[0] @ p[1] @ p[2], params)
    batch = {"image": cases.vector(jnp.zeros((9, 5))), "label": np.zeros((9, 5))}
    update = jp.scores.surgeon_update(SQUARED, matrix="ggn")

    def masks(seed):
        return [cases.vector(leaf, seed + k) < 0 for k, leaf in enumerate(params)]

    before = solving._each_block._cache_size()
    update(network, [batch], masks(0))
    assert solving._each_block._cache_size() == before + 1
    update(network, [batch], masks(10))
    jp.scores.surgeon_update(SQUARED, matrix="ggn", damping=0.3)(network, [batch], masks(20))
    assert solving._each_block._cache_size() == before + 1


@every_form
def test_block_hessian_solves_blocks_side_by_side_as_alone(form, monkeypatch):
    case = cases.build("mlp")
    options = {"blocks": 2, "matrix": "ggn", "damping": 0.1}
    alone = scored(form, case, "0/w", **options)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(solving, "_SIDE_BY_SIDE", 12)  # three blocks of 2 x 2 at once
    solving._each_block.clear_cache()
    close(scored(form, case, "0/w", **options), alone)
    solving._each_block.clear_cache()


def test_rounds_with_an_update_score_and_update_what_the_round_before_left():
    network, batch, problem = linear()
    update = jp.scores.surgeon_update(SQUARED, damping=1e-12)
    score = jp.scores.block_hessian(SQUARED, form="obs", damping=1e-12)
    seen = []

    def watched(network, batches):
        seen.append(network.params["kernel"])
        return score(network, batches)

    schedule = (0.25, 0.5, 0.75)
    rounds = list(jp.pruning.rounds(network, watched, [batch], {"kernel": True}, schedule, update=update))
    for before, after in zip(seen[1:], rounds[:-1], strict=True):
        np.testing.assert_array_equal(before, after.params["kernel"])
    for sparsity, (mask, params) in zip(schedule, rounds, strict=True):
        kept = np.asarray(mask["kernel"])
        assert (~kept).sum() == round(sparsity * 12)
        # On a quadratic, updates of updates are still the best there is.
        for unit in range(2):
            best = refit(problem, np.asarray(network.params["kernel"]), unit, np.flatnonzero(kept[:, unit]), 0.0)[0]
            close(params["kernel"][:, unit], best, tolerance=1e-9)
    with pytest.warns(UserWarning, match="prices one deletion"):
        last = jp.pruning.prune_and_update(network, score, [batch], {"kernel": True}, schedule, update)
    jax.tree.map(np.testing.assert_array_equal, last, rounds[-1])


def test_rounds_keep_pruned_weights_zero_whatever_an_update_returns():
    network, batch, _ = linear()

    def careless(network, batches, mask):
        return jax.tree.map(lambda leaf: leaf + 1, network.params)

    *_, (mask, params) = jp.pruning.rounds(
        network, jp.scores.magnitude(), [batch], {"kernel": True}, (0.5,), update=careless
    )
    np.testing.assert_array_equal(params["kernel"] != 0, mask["kernel"])


def test_deletion_costs_of_leaves_that_do_not_fit_together_are_those_of_each_alone(monkeypatch):
    net = jp.Network(lambda p, s, x: jnp.tanh(x @ p["a"]) @ p["b"] + p["c"][None], {
        "a": jnp.asarray(np.random.default_rng(0).standard_normal((4, 3))),
        "b": jnp.asarray(np.random.default_rng(1).standard_normal((3, 2))),
        "c": jnp.ones(2),
    })  # fmt: skip
    batch = {"image": jnp.asarray(np.random.default_rng(2).standard_normal((16, 4)))}
    score = jp.scores.block_hessian(jp.losses.distillation(), form="greedy")
    whole, sizes, real = score(net, [batch]), [], solving.sweep

    def narrow(*arguments, scope, **options):
        count = sum(jax.tree.leaves(scope))
        sizes.append(count)
        if count > 1:
            raise MemoryError("too much at once")
        return real(*arguments, scope=scope, **options)

    monkeypatch.setattr(solving, "sweep", narrow)
    found = score(net, [batch])
    assert max(sizes) > 1
    for one, other in zip(*map(jax.tree.leaves, (whole, found)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_deletion_costs_look_again_without_compiled_programs_once(monkeypatch):
    net = jp.Network(lambda p, s, x: x @ p, jnp.asarray(np.random.default_rng(0).standard_normal((4, 3))))
    batch = {"image": jnp.asarray(np.random.default_rng(1).standard_normal((16, 4)))}
    score = jp.scores.block_hessian(jp.losses.distillation(), form="greedy")
    whole, room, real = score(net, [batch]), [], solving.sweep

    def full(*arguments, **options):
        if not room:
            raise MemoryError("programs take it")
        return real(*arguments, **options)

    monkeypatch.setattr(solving, "sweep", full)
    monkeypatch.setattr(solving, "forget_programs", lambda: room.append(1))
    np.testing.assert_allclose(score(net, [batch]), whole, rtol=1e-12)
    assert room == [1]
    forgotten: list[int] = []
    monkeypatch.setattr(solving, "sweep", lambda *arguments, **options: (_ for _ in ()).throw(MemoryError("never")))
    monkeypatch.setattr(solving, "forget_programs", lambda: forgotten.append(1))
    with pytest.raises(MemoryError, match="never"):
        score(net, [batch])
    assert forgotten == [1]
