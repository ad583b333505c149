"""What the field would use: moments of inputs, layerwise methods, empirical-Fisher blocks, iterated thresholding."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from experiments.methods import fisher_blocks, layerwise, moments, one_layer, quadratic, thresholding
from jaxprune.masks import allocations


class _Small(nn.Module):
    """Strides, both paddings, groups, a projection beside a branch, a normalisation, a dense head."""

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2, padding="SAME", name="first")(images))
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        y = nn.relu(nn.Conv(4, (2, 2), padding="VALID", feature_group_count=2, name="grouped")(x))
        x = y + nn.Conv(4, (2, 2), padding="VALID", use_bias=False, name="beside")(x)
        return nn.Dense(3, name="head")(jnp.mean(nn.relu(x), axis=(1, 2)))


@functools.cache
def small(seed=0):
    module, random = _Small(), np.random.default_rng(seed)
    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 7, 7, 2)))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.3 * random.standard_normal(leaf.shape)), variables)
    variables["batch_stats"]["norm"]["var"] = jnp.asarray(random.uniform(0.5, 2, 4))
    return jp.Network.from_linen(module, variables)


def images(count, seed=1, shape=(7, 7, 2)):
    random = np.random.default_rng(seed)
    # Correlated, as images are.
    base = random.standard_normal((count, 1, 1, shape[-1]))
    return {"image": jnp.asarray(random.standard_normal((count, *shape)) + base)}


def labelled(count, seed=1):
    return {**images(count, seed), "label": jnp.asarray(np.arange(count) % 3)}


def perceptron(seed=2):
    random = np.random.default_rng(seed)
    params = {"one": {"w": random.standard_normal((6, 5))}, "two": {"w": random.standard_normal((5, 3))}}

    def apply(params, state, inputs):
        return jnp.tanh(inputs @ params["one"]["w"]) @ params["two"]["w"]

    inputs = random.standard_normal((40, 6)) @ random.standard_normal((6, 6))
    return jp.Network(apply, jax.tree.map(jnp.asarray, params)), {"image": jnp.asarray(inputs)}


PADDING = {"first": "SAME", "grouped": "VALID", "beside": "VALID"}


def im2col(values, size, stride, padding):
    """[n, h, w, c] -> [n, positions, size * size * c], window by window, in the order of HWIO."""
    before = after = 0
    if padding == "SAME":
        extent = values.shape[1]
        whole = max((-(-extent // stride) - 1) * stride + size - extent, 0)
        before, after = whole // 2, whole - whole // 2
    padded = np.pad(values, ((0, 0), (before, after), (before, after), (0, 0)))
    steps = range(0, padded.shape[1] - size + 1, stride)
    windows = [padded[:, i : i + size, j : j + size].reshape(len(values), -1) for i in steps for j in steps]
    return np.stack(windows, axis=1)


def seen_by(network, batch):
    """What every kernel of the small network sees [n, t, d], by NumPy and the definitions."""
    params, given = network.params, np.asarray(batch["image"])
    after = network.module.apply(
        {"params": params, **network.state}, given, capture_intermediates=True, mutable=["intermediates"]
    )[1]["intermediates"]
    normed = np.asarray(after["norm"]["__call__"][0])
    last = np.maximum(np.asarray(after["grouped"]["__call__"][0]), 0) + np.asarray(after["beside"]["__call__"][0])
    last = np.maximum(last, 0)
    return {
        "first": im2col(given, 3, 2, "SAME"),
        "beside": im2col(normed, 2, 1, "VALID"),
        "grouped": [im2col(normed[..., part], 2, 1, "VALID") for part in (slice(0, 2), slice(2, 4))],
        "head": last.mean((1, 2))[:, None],
    }


def second_moments(seen, weight):
    groups = seen if isinstance(seen, list) else [seen]
    return np.stack([np.einsum("n,ntd,nte->de", weight, part, part) for part in groups]) / weight.sum()


def test_kernels_see_what_im2col_cuts_out():
    network, batch = small(), images(6)
    weight = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0])
    # In two batches, with padding that is not even finite, or whose squares are not.
    broken = batch["image"].at[1].set(jnp.nan).at[4].set(1e308)
    cut = [{"image": broken[:3], "weight": weight[:3]}, {"image": broken[3:], "weight": weight[3:]}]
    found = moments.kernels(network, cut, jp.tree.prunable(network.params))
    assert [list(found.layouts)[at] for at in (0, -1)] == ["first/kernel", "head/kernel"]
    measured = found.moments(network.params, tuple(found.layouts))
    for name, seen in seen_by(network, batch).items():
        np.testing.assert_allclose(measured[f"{name}/kernel"], second_moments(seen, weight), rtol=1e-10, atol=1e-12)


def test_kernels_of_half_precision_and_of_other_layouts():
    network, batch = perceptron()
    turned = jp.Network(lambda p, s, x: x.astype(p.dtype) @ p.T, network.params["one"]["w"].T.astype(jnp.bfloat16))
    found = moments.kernels(turned, [batch], True)
    inputs = np.asarray(batch["image"].astype(jnp.bfloat16), np.float64)
    assert found.layouts[""].index.shape == (1, 6, 5)
    measured = found.moments(turned.params, [""])[""][0]
    np.testing.assert_allclose(measured, inputs.T @ inputs / len(inputs), rtol=2e-2, atol=0.3)
    pruned = layerwise.wanda(turned, [batch], True, 0.4)
    assert pruned.params.dtype == jnp.bfloat16
    assert bool(jnp.all(jnp.where(pruned.mask, pruned.params == turned.params, pruned.params == 0)))


def error_of(weights, new, moment):
    return float(np.einsum("gdo,gde,geo->", new - weights, moment, new - weights))


def counts_by_leaf(mask):
    return {path: int((~np.asarray(leaf)).sum()) for path, leaf in jp.tree.by_name(mask).items()}


def check_round(network, prunable, sparsity, found):
    """Exact counts, pruned weights zero, everything out of scope untouched bit for bit."""
    size = sum(
        leaf.size for leaf, inside in zip(*map(jax.tree.leaves, (network.params, prunable)), strict=True) if inside
    )
    assert sum(counts_by_leaf(found.mask).values()) == round(sparsity * size)
    for old, new, kept, inside in zip(
        *map(jax.tree.leaves, (network.params, found.params, found.mask, prunable)), strict=True
    ):
        assert new.dtype == old.dtype
        assert new.shape == old.shape == kept.shape
        if inside:
            assert not np.asarray(new)[~np.asarray(kept)].any()
        else:
            assert bool(kept.all())
            assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


METHODS = {
    **{f"wanda, {one}": (layerwise.wanda, {"allocation": one}) for one in layerwise.ALLOCATIONS},
    **{f"sparsegpt, {one}": (layerwise.sparsegpt, {"allocation": one, "block": 3}) for one in layerwise.ALLOCATIONS},
    "woodfisher": (fisher_blocks.woodfisher, {"allocation": "uniform", "damping": 0.1}),
    "woodfisher, greedy": (fisher_blocks.woodfisher, {"form": "greedy", "rounds": 2}),
    "thresholding": (thresholding.thresholding, {"allocation": "uniform"}),
    "thresholding, ggn": (
        thresholding.thresholding,
        {"matrix": "ggn", "loss": jp.losses.distillation(), "stages": 2, "first_order": True},
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_prune_exactly_and_leave_the_rest(name):
    network, (method, options) = small(), METHODS[name]
    prunable = jp.tree.prunable(network.params, exclude="first")
    for sparsity in (0.37, 0.613):
        found = method(network, [labelled(6), labelled(6, 3)], prunable, sparsity, **options)
        check_round(network, prunable, sparsity, found)


def test_wanda_is_the_formula():
    network, batch = perceptron()
    batch = {"image": 0.2 * batch["image"]}  # hidden units that differ in size
    prunable = jax.tree.map(lambda _: True, network.params)
    found = layerwise.wanda(network, [batch], prunable, 0.5, sequential=False)
    first, inputs = np.asarray(network.params["one"]["w"]), np.asarray(batch["image"])
    hidden = np.tanh(inputs @ first)
    for name, seen in (("one", inputs), ("two", hidden)):
        weights = np.asarray(network.params[name]["w"])
        scores = np.abs(weights) * np.linalg.norm(seen, axis=0)[:, None]
        pruned = (~np.asarray(found.mask[name]["w"])).sum(axis=0)
        assert set(pruned.tolist()) <= {len(seen[0]) // 2, -(-len(seen[0]) // 2)}
        for unit, count in enumerate(pruned):
            assert set(np.flatnonzero(~np.asarray(found.mask[name]["w"][:, unit]))) == set(
                np.argsort(scores[:, unit])[:count]
            )
    # One after the other: the second layer sees what the pruned first one gives it.
    differ = 0
    for sparsity in (0.4, 0.6, 0.7, 0.8):
        after = layerwise.wanda(network, [batch], prunable, sparsity)
        hidden = np.tanh(inputs @ np.asarray(after.params["one"]["w"]))
        scores = np.abs(np.asarray(network.params["two"]["w"])) * np.linalg.norm(hidden, axis=0)[:, None]
        kept = np.asarray(after.mask["two"]["w"])
        assert all(scores[~kept[:, unit], unit].max() <= scores[kept[:, unit], unit].min() for unit in range(3))
        at_once = layerwise.wanda(network, [batch], prunable, sparsity, sequential=False)
        differ += bool(jnp.any(at_once.mask["two"]["w"] != after.mask["two"]["w"]))
    assert differ


def test_wanda_with_one_threshold_ranks_what_deleting_costs():
    network, batch = small(), images(6)
    prunable = jp.tree.prunable(network.params)
    costs, relative = {}, {}
    for name, seen in seen_by(network, batch).items():
        moment = second_moments(seen, np.ones(6))
        leaf = np.asarray(network.params[name]["kernel"])
        weights = leaf.reshape(-1, leaf.shape[-1])
        if len(moment) == 1:
            square = weights**2 * np.diag(moment[0])[:, None]
            energy = np.sum(weights * (moment[0] @ weights))
        else:  # the first half of the units belongs to the first group
            halves = [weights[:, :2], weights[:, 2:]]
            square = np.concatenate(
                [half**2 * np.diag(part)[:, None] for half, part in zip(halves, moment, strict=True)], 1
            )
            energy = sum(np.sum(half * (part @ half)) for half, part in zip(halves, moment, strict=True))
        costs[name], relative[name] = square, square / energy
    for allocation, scores in (("global", costs), ("relative", relative)):
        found = layerwise.wanda(network, [batch], prunable, 0.6, allocation=allocation)
        kept = {name: np.asarray(found.mask[name]["kernel"]).reshape(scores[name].shape) for name in scores}
        assert max(scores[name][~kept[name]].max() for name in scores) <= min(
            scores[name][kept[name]].min() for name in scores
        )


def published(weights, matrix, pruned, width):
    """SparseGPT as in the paper's listing: rows are units, the inverse's Cholesky factor, lazy updates in blocks."""
    weights = weights.copy()
    units, inputs = weights.shape
    inverse = np.linalg.cholesky(np.linalg.inv(matrix)).T
    counts = allocations.uniform([(units * min(width, inputs - i),) for i in range(0, inputs, width)], pruned)
    mask = np.ones((units, inputs), bool)
    for number, i in enumerate(range(0, inputs, width)):
        stop = min(i + width, inputs)
        scores = weights[:, i:stop] ** 2 / np.diag(inverse)[i:stop] ** 2
        threshold = np.sort(scores.ravel())[counts[number] - 1] if counts[number] else -1
        mask[:, i:stop] = scores > threshold
        errors = np.zeros((units, stop - i))
        for j in range(i, stop):
            errors[:, j - i] = (1 - mask[:, j]) * weights[:, j] / inverse[j, j]
            weights[:, j:stop] -= np.outer(errors[:, j - i], inverse[j, j:stop])
        weights[:, stop:] -= errors @ inverse[i:stop, stop:]
    return weights * mask, mask


@pytest.mark.parametrize("width", [1, 4, 128])
def test_prune_in_order_is_the_published_algorithm(width):
    random = np.random.default_rng(5)
    weights, inputs = (
        random.standard_normal((1, 11, 6)),
        random.standard_normal((50, 11)) @ random.standard_normal((11, 11)),
    )
    moment = (inputs.T @ inputs / 50)[None]
    kept, new = one_layer.prune_in_order(weights, moment, 40, damping=0.02, block=width)
    damped = moment[0] + 0.02 * np.diag(moment[0]).mean() * np.eye(11)
    expected, mask = published(weights[0].T, damped, 40, width)
    assert (~kept).sum() == 40
    np.testing.assert_array_equal(kept[0], mask.T)
    np.testing.assert_allclose(new[0], expected.T, rtol=1e-8, atol=1e-10)


def test_prune_in_order_is_the_surgeon_with_what_came_before_fixed():
    # Of one unit that loses its first input only, the others take over as least squares says.
    random = np.random.default_rng(6)
    inputs = random.standard_normal((30, 4)) @ random.standard_normal((4, 4))
    moment, weights = (inputs.T @ inputs / 30)[None], np.array([[[1e-3], [2.0], [3.0], [4.0]]])
    kept, new = one_layer.prune_in_order(weights, moment, 1, damping=1e-9, block=4)
    assert kept[0, :, 0].tolist() == [False, True, True, True]
    expected = np.linalg.lstsq(inputs[:, 1:], inputs @ weights[0, :, 0], rcond=None)[0]
    np.testing.assert_allclose(new[0, 1:, 0], expected, rtol=1e-6)


def test_sparsegpt_has_a_smaller_error_than_magnitude():
    network, batch = small(), images(30)
    prunable = jax.tree.map(lambda _: False, network.params)
    prunable["beside"]["kernel"] = True
    found = moments.kernels(network, [batch], prunable)
    moment = found.moments(network.params, ["beside/kernel"])["beside/kernel"]
    dense = found.weights("beside/kernel", network.params)
    errors = []
    mask = jp.masks.unstructured(0.6)(jp.scores.magnitude()(network, []), prunable)
    naive = jp.pruning.Round(mask, jp.masks.apply(mask, network.params))
    rounds = [
        layerwise.least_squares(
            network, [batch], layerwise.sparsegpt(network, [batch], prunable, 0.6).mask, damping=1e-6
        ),
        layerwise.sparsegpt(network, [batch], prunable, 0.6),
        layerwise.wanda(network, [batch], prunable, 0.6),
        naive,
    ]
    for one in rounds:
        errors.append(error_of(dense, found.weights("beside/kernel", one.params), moment))
    assert errors[0] < errors[1] < min(errors[2:])


def test_sparsegpt_prunes_inputs_that_are_always_zero_first():
    random = np.random.default_rng(7)
    inputs = random.standard_normal((20, 5))
    inputs[:, 2] = 0
    network = jp.Network(lambda p, s, x: x @ p, jnp.asarray(random.standard_normal((5, 4)) + 10 * np.eye(5)[:, 2:3]))
    batch = {"image": jnp.asarray(inputs)}
    found = layerwise.sparsegpt(network, [batch], True, 0.25)
    assert not bool(found.mask[2].any())
    less = layerwise.sparsegpt(network, [batch], True, 0.1)
    assert np.asarray(less.mask)[2].tolist() == [False, False, True, True]
    np.testing.assert_array_equal(less.params[2, 2:], network.params[2, 2:])


@pytest.mark.parametrize("sequential", [True, False])
def test_least_squares_is_lstsq_of_every_unit(sequential):
    network, batch = perceptron()
    random, damping = np.random.default_rng(8), 0.03
    mask = jax.tree.map(lambda leaf: jnp.asarray(random.uniform(size=leaf.shape) < 0.6), network.params)
    found = layerwise.least_squares(network, [batch], mask, damping=damping, sequential=sequential)
    dense = np.asarray(batch["image"])
    seen = dense
    for name in ("one", "two"):
        weights, kept, new = (np.asarray(each[name]["w"]) for each in (network.params, mask, found.params))
        target, count = dense @ weights, len(dense)
        ridge = np.sqrt(count * damping * np.mean(np.sum(seen**2, axis=0) / count))
        for unit in range(weights.shape[1]):
            at = np.flatnonzero(kept[:, unit])
            rows = np.concatenate([seen[:, at], ridge * np.eye(len(at))])
            values = np.concatenate([target[:, unit], ridge * weights[at, unit]])
            np.testing.assert_allclose(new[at, unit], np.linalg.lstsq(rows, values, rcond=None)[0], rtol=1e-8)
            assert not new[~kept[:, unit], unit].any()
        dense, seen = np.tanh(target), np.tanh(seen @ new) if sequential else np.tanh(target)


def test_least_squares_fits_what_keeps_everything_only_where_it_is_asked():
    network, batch = small(), images(30)
    scores, prunable = jp.scores.magnitude()(network, []), jp.tree.prunable(network.params, exclude="head")
    mask = jp.masks.unstructured(0.5)(scores, prunable)
    plain = layerwise.least_squares(network, [batch], mask)
    check_round(network, prunable, 0.5, plain)
    also = layerwise.least_squares(network, [batch], mask, damping=1e-4, refit=jp.tree.prunable(network.params))
    assert bool(jnp.any(also.params["head"]["kernel"] != network.params["head"]["kernel"]))

    def distance(one):
        return float(jnp.mean((network.replace(params=one.params)(batch["image"]) - network(batch["image"])) ** 2))

    assert distance(also) < distance(plain) < distance(jp.pruning.Round(mask, jp.masks.apply(mask, network.params)))
    ones = jp.masks.ones(network.params)
    assert layerwise.least_squares(network, [batch], ones).params is network.params


def fisher_rows(network, batch, paths):
    """The gradient of every example alone, over the root of their number."""

    def mean_loss(params, number):
        one = {key: value[number : number + 1] for key, value in batch.items()}
        return jp.losses.mean(jp.losses.cross_entropy, network.replace(params=params)(one["image"]), one)

    rows = []
    for number in range(len(batch["label"])):
        gradient = jp.tree.by_name(jax.grad(mean_loss)(network.params, number))
        rows.append(np.concatenate([np.asarray(gradient[path]).ravel() for path in paths]))
    return np.stack(rows) / np.sqrt(len(rows))


def test_woodfisher_is_the_surgeon_on_the_empirical_fisher_matrix():
    network, batch = perceptron()
    batch = {**batch, "label": jnp.asarray(np.arange(40) % 3)}
    prunable = jax.tree.map(lambda _: True, network.params)
    found = fisher_blocks.woodfisher(network, [batch], prunable, 0.5, blocks="layer", damping=0.1)
    for name in ("one", "two"):
        rows = fisher_rows(network, batch, [f"{name}/w"])
        fisher = rows.T @ rows
        damped = fisher + 0.1 * np.diag(fisher).mean() * np.eye(len(fisher))
        weights, kept = (np.asarray(each[name]["w"]).ravel() for each in (network.params, found.mask))
        costs = weights**2 / (2 * np.diag(np.linalg.inv(damped)))
        expected = np.zeros_like(weights)
        pull = fisher[np.ix_(kept, ~kept)] @ weights[~kept]
        expected[kept] = weights[kept] + np.linalg.solve(damped[np.ix_(kept, kept)], pull)
        np.testing.assert_allclose(np.asarray(found.params[name]["w"]).ravel(), expected, rtol=1e-7, atol=1e-10)
        assert costs[~kept].max() < costs[kept].max()


def model_of(seed, size=8, rows=12, kept=4, groups=None, mixing=0.2):
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, size)) @ (np.eye(size) + mixing * random.standard_normal((size, size)))
    counts = (kept,) if groups is None else (kept // 2, kept - kept // 2)
    return quadratic.Quadratic(
        random.standard_normal(size) + 0.5,
        0.1 * random.standard_normal(size),
        matrix / np.sqrt(rows),
        1e-3,
        groups or (size,),
        counts,
    )


def best_of_all(model, kept):
    """The least value over all supports of that size, and where it is."""
    size = len(model.point)
    matrix, best, where = model.rows.T @ model.rows + model.ridge * np.eye(size), np.inf, None
    for chosen in itertools.combinations(range(size), kept):
        at, gone = list(chosen), [i for i in range(size) if i not in chosen]
        if len(model.groups) > 1 and sum(i < model.groups[0] for i in at) != model.kept[0]:
            continue
        moved = np.zeros(size)
        moved[gone] = -model.point[gone]
        pull = -model.gradient[at] - matrix[np.ix_(at, gone)] @ moved[gone]
        moved[at] = np.linalg.solve(matrix[np.ix_(at, at)], pull)
        value = model.gradient @ moved + moved @ matrix @ moved / 2
        if value < best:
            best, where = value, np.where(np.isin(range(size), at), model.point + moved, 0)
    return best, where


@pytest.mark.parametrize("groups", [None, (3, 8)])
def test_sparse_minimum_is_the_best_of_all_supports(groups):
    reached = 0
    for seed in range(8):
        model = model_of(seed, rows=200, groups=groups, mixing=0.05)
        best, where = best_of_all(model, 4)
        found, kept, values = quadratic.sparse_minimum(model)
        assert kept.sum() == 4
        assert not found[~kept].any()
        assert values[-1] >= best - 1e-9
        if np.array_equal(kept, where != 0):
            np.testing.assert_allclose(found, where, rtol=1e-6, atol=1e-9)
            assert values[-1] == pytest.approx(best, rel=1e-9)
            reached += 1
    assert reached >= 7  # of 8: a support that no exchange tried makes better is all that is promised


def test_sparse_minimum_of_correlated_rows_is_near_the_best_and_never_beyond():
    near = 0
    for seed in range(8):
        model = model_of(seed)
        best, _ = best_of_all(model, 4)
        _, _, values = quadratic.sparse_minimum(model)
        assert np.all(np.diff(values) < 0)
        assert values[-1] >= best - 1e-9
        near += values[-1] - best <= 0.2 * (values[0] - best) + 1e-9
    assert near >= 6


def test_sparse_minimum_never_rises_and_beats_the_diagonal():
    model = model_of(3, size=60, rows=20, kept=12)
    found, kept, values = quadratic.sparse_minimum(model)
    assert np.all(np.diff(values) < 0)
    assert values[-1] < 0.9 * values[0]
    assert model.value(found) == values[-1]
    slope = model.slope(found)
    assert np.abs(slope[kept]).max() < 1e-8 * np.abs(slope).max()


def test_thresholding_solves_the_model_of_the_empirical_fisher_matrix():
    network, batch = perceptron()
    batch = {**batch, "label": jnp.asarray(np.arange(40) % 3)}
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 25), slice(25, 40))]
    prunable, paths = jax.tree.map(lambda _: True, network.params), ["one/w", "two/w"]
    rows = fisher_rows(network, batch, paths)
    matrix = rows.T @ rows
    ridge = 0.1 * np.diag(matrix).mean()
    damped, weights = (
        matrix + ridge * np.eye(45),
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(network.params)]),
    )
    for first_order in (False, True):
        found = thresholding.thresholding(network, halves, prunable, 0.6, damping=0.1, first_order=first_order)
        kept = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.mask)])
        gradient = rows.sum(axis=0) / np.sqrt(40) if first_order else np.zeros(45)
        moved = np.where(kept, 0, -weights)
        pull = -gradient[kept] - damped[np.ix_(kept, ~kept)] @ moved[~kept]
        moved[kept] = np.linalg.solve(damped[np.ix_(kept, kept)], pull)
        after = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.params)])
        np.testing.assert_allclose(after, weights + moved, rtol=1e-5, atol=1e-7)


def test_thresholding_of_a_distillation_is_taken_against_the_dense_network():
    network, batch = small(), images(20)
    prunable, loss = jp.tree.prunable(network.params), jp.losses.distillation()

    def distance(found):
        return float(jnp.mean((network.replace(params=found.params)(batch["image"]) - network(batch["image"])) ** 2))

    options = {"matrix": "ggn", "loss": loss, "first_order": True}
    once = thresholding.thresholding(network, [batch], prunable, 0.5, **options)
    often = thresholding.thresholding(network, [batch], prunable, 0.5, stages=4, **options)
    mask = jp.masks.unstructured(0.5)(jp.scores.diagonal_hessian(loss)(network, [batch]), prunable)
    naive = jp.pruning.Round(mask, jp.masks.apply(mask, network.params))
    assert distance(often) < distance(once) < distance(naive)


TIED = jp.Network(lambda p, s, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": np.eye(3)})
SCALED = jp.Network(lambda p, s, x: x @ (2 * p["w"]), {"w": np.eye(3)})
MIXED = jp.Network(lambda p, s, x: (x - jnp.mean(x, axis=0)) @ p["w"], {"w": np.eye(3)})
IDLE = jp.Network(lambda p, s, x: x, {"w": np.eye(3)})


@pytest.mark.parametrize(
    ("network", "why"),
    [(TIED, "w .it meets 2 operations .tied weights"), (SCALED, "w .it is scaled"), (IDLE, "do not depend on it")],
)
def test_kernels_refuses_by_name_what_has_no_inputs_of_its_own(network, why):
    with pytest.raises(ValueError, match=why):
        moments.kernels(network, [{"image": jnp.ones((4, 3))}], {"w": True})


def test_kernels_refuses_what_is_no_kernel_and_what_is_no_data():
    network, batch = small(), images(4)
    bias = jax.tree.map(lambda _: False, network.params)
    with pytest.raises(ValueError, match="nothing is pruned"):
        moments.kernels(network, [batch], bias)
    bias["first"]["bias"] = True
    with pytest.raises(ValueError, match=r"prunable: expected kernels .* first/bias .it enters by adding"):
        moments.kernels(network, [batch], bias)
    prunable = jp.tree.prunable(network.params)
    with pytest.raises(ValueError, match="batches: expected at least one batch"):
        layerwise.wanda(network, [], prunable, 0.5)
    with pytest.raises(TypeError, match="single one"):
        layerwise.wanda(network, batch, prunable, 0.5)
    with pytest.raises(ValueError, match="sum of the weights"):
        layerwise.wanda(network, [{**batch, "weight": jnp.zeros(4)}], prunable, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        layerwise.wanda(network, [{"image": batch["image"].at[0].set(jnp.nan)}], prunable, 0.5)


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        (layerwise.wanda, {"allocation": "erk"}, "allocation: unknown value 'erk'"),
        (layerwise.sparsegpt, {"damping": 0.0}, "damping: expected a finite number above 0"),
        (layerwise.sparsegpt, {"damping": 1e-30}, "damping: expected one that makes"),
        (layerwise.sparsegpt, {"block": 0}, "block: expected a whole number"),
        (fisher_blocks.woodfisher, {"form": "quadratic"}, "form: unknown value"),
        (fisher_blocks.woodfisher, {"allocation": "relative"}, "allocation: unknown value"),
        (fisher_blocks.woodfisher, {"loss": jp.losses.distillation()}, "loss: expected one that has a gradient"),
        (thresholding.thresholding, {"matrix": "hessian"}, "matrix: unknown value"),
        (thresholding.thresholding, {"loss": jp.losses.distillation()}, "loss: expected one that has a gradient"),
        (thresholding.thresholding, {"stages": 0}, "stages: expected a whole number"),
        (thresholding.thresholding, {"matrix": "ggn", "most": 1}, "most=1"),
    ],
)
def test_methods_refuse_bad_options(method, options, match):
    network, batch = small(), labelled(2)
    with pytest.raises(ValueError, match=match):
        method(network, [batch], jp.tree.prunable(network.params), 0.5, **options)


def test_methods_refuse_bad_sparsities_and_masks():
    network, batch = small(), labelled(4)
    prunable = jp.tree.prunable(network.params)
    for method in (layerwise.wanda, layerwise.sparsegpt, fisher_blocks.woodfisher, thresholding.thresholding):
        with pytest.raises(ValueError, match="expected a fraction"):
            method(network, [batch], prunable, 1.5)
    with pytest.raises(TypeError, match="mask: expected boolean leaves"):
        layerwise.least_squares(network, [batch], network.params)
