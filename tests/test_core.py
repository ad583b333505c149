"""Trees, networks, losses, schedules, the masked optimizer, sites."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune import check
from tests import cases

pytestmark = pytest.mark.usefixtures("same_rank")

# Trees.
TREE = {
    "block": {"conv": {"kernel": np.ones((3, 3, 1, 2)), "bias": np.ones(2)}, "w1": np.ones((2, 2))},
    "head": [np.ones((2, 3))],
}


def test_names_of_leaves_are_their_paths_in_tree_order():
    assert jp.tree.names(TREE) == ["block/conv/bias", "block/conv/kernel", "block/w1", "head/0"]
    assert jp.tree.names(np.ones(3)) == [""]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["block/conv/kernel", "block/w1"]),
        ({"exclude": "w1"}, ["block/conv/kernel"]),
        ({"include": "^head/"}, ["head/0"]),
        ({"include": "."}, ["block/conv/kernel", "block/w1", "head/0"]),
    ],
)
def test_prunable_leaves_match_the_patterns_and_have_two_axes(options, expected):
    flags = jp.tree.prunable(TREE, **options)
    assert [name for name, flag in zip(jp.tree.names(TREE), jax.tree.leaves(flags), strict=True) if flag] == expected
    assert all(type(flag) is bool for flag in jax.tree.leaves(flags))


@pytest.mark.parametrize("options", [{"include": "kernal"}, {"exclude": "."}, {"include": "bias"}])
def test_prunable_refuses_patterns_that_leave_nothing_to_prune(options):
    with pytest.raises(
        ValueError, match=r"include/exclude: .*matches no leaf of two or more axes.*block/conv/bias, block"
    ):
        jp.tree.prunable(TREE, **options)


def test_copied_copies_where_an_array_lies_and_compiles_nothing():
    seen = []

    def listen(event, duration, **_):
        seen.append(event)

    there = jax.device_put(jnp.ones((3, 7)), jax.devices()[1])
    here, numpy = jnp.asarray(np.ones((3, 7))), cases.aligned(2, np.float64)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        got = jp.tree.copied([here, there, numpy])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in seen if event.endswith("backend_compile_duration")]
    assert [leaf.devices() for leaf in got[:2]] == [here.devices(), there.devices()]
    assert [leaf.committed for leaf in got] == [False, True, False]
    for leaf in (here, there):
        leaf.delete()
    numpy[:] = 0
    assert all((np.asarray(leaf) == 1).all() for leaf in got)


class Reusing:
    """A loader that writes every batch into the memory of the last one."""

    def __init__(self, batches):
        self.batches, self.count = batches, len(batches)

    def __iter__(self):
        held = {name: np.empty_like(part) for name, part in self.batches[0].items()}
        for batch in self.batches:
            for name, part in batch.items():
                held[name][:] = part
            yield held


def test_batches_of_a_loader_that_reuses_its_memory_are_those_of_a_list():
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(6, 5)), "out": rng.normal(size=(5, 3))}
    net = jp.Network(lambda p, s, x: jax.nn.relu(x @ p["in"]) @ p["out"], params)
    given = [{"image": rng.normal(size=(4, 6)), "label": rng.integers(0, 3, 4)} for _ in range(3)]
    mask = {name: jnp.asarray(rng.random(leaf.shape) < 0.5) for name, leaf in params.items()}
    loss = jp.losses.cross_entropy
    asked = {
        "streamed": lambda batches: jp.scores.fisher(loss)(net, batches),
        "listed": lambda batches: jp.scores.surgeon_update(jp.losses.distillation())(net, batches, mask),
        "operator": lambda batches: jp.geometry.operator(net, loss, batches)(np.ones(45)),
        "rated": lambda batches: jp.structured.criteria.listed(batches)[0]["image"],
    }
    for ask in asked.values():
        want = ask(given)
        for batches in (Reusing(given), iter(Reusing(given))):
            jax.tree.map(np.testing.assert_array_equal, ask(batches), want)


def test_average_and_attacked_give_batches_arrays_of_their_own():
    given = [{"image": np.full((2, 3), number / 4), "label": np.full(2, number)} for number in range(3)]
    net, seen = jp.Network(lambda p, s, x: x @ p, np.eye(3)), []
    jp.curvature.average(lambda batch: seen.append(batch) or jnp.zeros(()), iter(Reusing(given)))
    attacked = jp.evaluate.attacks.attacked
    seen += attacked(net, jp.losses.cross_entropy, Reusing(given), lambda network, loss, batch: batch["image"])
    assert [int(one["label"][0]) for one in seen] == [0, 1, 2, 0, 1, 2]


def test_batches_that_are_not_listed_have_arrays_of_their_own():
    """They are read while the device still computes with those before."""
    given = [{"image": np.full((2, 3), number), "name": "a"} for number in range(3)]
    loader = jp.check.batches(Reusing([{"image": one["image"]} for one in given]))
    assert loader.count == 3
    for batches in (loader, loader, jp.check.each(Reusing([{"image": one["image"]} for one in given]))):
        read = list(batches)
        assert [int(one["image"].max()) for one in read] == [0, 1, 2]
        assert not any(np.shares_memory(read[0]["image"], one["image"]) for one in read[1:])
    assert jp.check.batches(given) is given
    assert next(jp.check.each(given)) is given[0]


def test_replace_changes_a_leaf_and_nothing_else():
    replaced = jp.tree.replace(TREE, "block/w1", "new")
    assert jp.tree.leaf(replaced, "block/w1") == "new"
    assert jp.tree.replace(replaced, "block/w1", TREE["block"]["w1"]) == TREE
    with pytest.raises(ValueError, match=r"path: no leaf is called 'w1'\. The leaves are: block/conv/bias"):
        jp.tree.replace(TREE, "w1", 0)


def test_tree_arithmetic_is_that_of_vectors():
    left, right = cases.vector(TREE, 0), cases.vector(TREE, 1)
    a, b = cases.flat(left), cases.flat(right)
    np.testing.assert_allclose(cases.flat(jp.tree.add(left, jp.tree.scale(3, right))), a + 3 * b, rtol=1e-15)
    np.testing.assert_allclose(jp.tree.dot(left, right), a @ b, rtol=1e-13)
    assert jp.tree.size(TREE) == a.size == 30


# Networks.
def test_network_is_a_pytree_of_parameters_and_state_only():
    case = cases.build("cnn")
    leaves = jax.tree.leaves(case.network)
    assert len(leaves) == len(jax.tree.leaves((case.network.params, case.network.state)))
    images = case.batch["image"]
    outputs = jax.jit(lambda network: network(images))(case.network)
    np.testing.assert_allclose(outputs, case.network(images), rtol=1e-12)


def test_from_linen_makes_networks_of_equal_modules_that_share_one_trace():
    @chex.assert_max_traces(1)
    def run(network, images):
        return network(images)

    jitted, images = jax.jit(run), np.ones((1, 4))
    for seed in range(3):
        module = nn.Dense(2, param_dtype=jnp.float64)
        variables = jax.jit(module.init)(jax.random.key(seed), images)
        jitted(jp.Network.from_linen(module, variables, {"train": True}), images)


def test_network_of_shapes_can_be_traced():
    case = cases.build("resnet")
    shapes = jax.eval_shape(lambda: case.network)
    images = jax.ShapeDtypeStruct(case.batch["image"].shape, np.float64)
    assert jax.eval_shape(lambda network, images: network(images), shapes, images).shape == (5, 3)


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=jnp.float64)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_from_linen_updates_the_state_in_training_and_not_in_evaluation():
    images = np.random.default_rng(0).normal(3, 2, (64, 2))
    variables = Norm().init(jax.random.key(0), images)
    network = jp.Network.from_linen(Norm(), variables, train={"train": True})
    assert list(network.state) == ["batch_stats"]
    outputs, state = network.train_apply(network.params, network.state, images, {"dropout": jax.random.key(1)})
    mean = state["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * images.mean(axis=0), rtol=1e-6)
    assert 0.3 < (outputs == 0).mean() < 0.7
    np.testing.assert_array_equal(network(images), Norm().apply(variables, images))
    assert jp.Network.from_linen(Norm(), variables).train_apply is None


# Losses.
OUTPUTS = np.random.default_rng(0).normal(size=(4, 3))
LABELS = np.array([0, 2, 1, 2])


def test_losses_are_those_of_optax():
    entropy = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(OUTPUTS), LABELS)
    squares = 2 * jnp.sum(optax.l2_loss(jnp.asarray(OUTPUTS), np.eye(3)[LABELS]), axis=-1)
    for batch in ({"label": LABELS}, {"label": np.eye(3)[LABELS]}):
        np.testing.assert_allclose(jp.losses.cross_entropy(jnp.asarray(OUTPUTS), batch), entropy, rtol=1e-12)
        np.testing.assert_allclose(jp.losses.squared_error(jnp.asarray(OUTPUTS), batch), squares, rtol=1e-12)


def test_mean_is_weighted():
    weight = np.array([1.0, 0.0, 2.5, 0.5])
    loss = jp.losses.cross_entropy
    got = jp.losses.mean(loss, jnp.asarray(OUTPUTS), {"label": LABELS, "weight": weight})
    np.testing.assert_allclose(
        got, np.average(loss(jnp.asarray(OUTPUTS), {"label": LABELS}), weights=weight), rtol=1e-12
    )
    assert jp.losses.mean(loss, jnp.asarray(OUTPUTS), {"label": LABELS, "weight": np.zeros(4)}) == 0


@pytest.mark.parametrize("loss", [jp.losses.cross_entropy, jp.losses.squared_error])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_mean_and_its_gradient_ignore_padding_with_bad_outputs(loss, bad):
    outputs = np.concatenate([OUTPUTS, np.full((1, 3), bad)])
    batch = {"label": np.append(LABELS, 0), "weight": np.array([1.0, 2.0, 1.0, 1.0, 0.0])}

    def mean(outputs, batch):
        return jp.losses.mean(loss, outputs, batch)

    value, gradient = jax.value_and_grad(mean)(outputs, batch)
    expected = jax.value_and_grad(mean)(OUTPUTS, {key: entry[:4] for key, entry in batch.items()})
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[:4], expected[1], rtol=1e-12)
    assert not gradient[4].any()


def test_mean_refuses_a_loss_that_averages_by_itself():
    with pytest.raises(ValueError, match=r"loss: expected one number for each example, shape \(4,\), but got \(\)"):
        jp.losses.mean(lambda outputs, batch: jnp.mean(outputs), jnp.asarray(OUTPUTS), {"label": LABELS})


# Schedules.
def test_schedules_are_their_formulas_and_end_at_the_target():
    assert jp.schedules.one_shot(0.3) == (0.3,)
    np.testing.assert_allclose(1 - np.array(jp.schedules.exponential(0.9, 4)), 0.1 ** (np.arange(1, 5) / 4), rtol=1e-12)
    expected = 0.8 + (0.2 - 0.8) * (1 - np.arange(1, 6) / 5) ** 3
    np.testing.assert_allclose(jp.schedules.cubic(0.8, 5, 0.2), expected, rtol=1e-12)
    for sparsity in (0.0, 0.123, 0.9, 0.9999):
        for schedule in (jp.schedules.exponential(sparsity, 100), jp.schedules.cubic(sparsity, 100)):
            assert len(schedule) == 100
            assert list(schedule) == sorted(schedule)
            assert schedule[-1] == sparsity


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jp.schedules.one_shot(1.0), r"sparsity: expected a fraction in \[0, 1\)"),
        (lambda: jp.schedules.exponential(0.5, 0), "rounds: expected an integer of 1 or more, but got 0"),
        (lambda: jp.schedules.exponential(0.5, True), "rounds: expected an integer of 1 or more, but got True"),
        (lambda: jp.schedules.cubic(0.5, 3, 0.6), "initial: expected at most the final sparsity 0.5, but got 0.6"),
    ],
)
def test_schedules_name_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The masked optimizer.
PARAMS = {"w": np.array([[1.0, -2.0], [3.0, 4.0]]), "b": np.array([0.5, -0.5])}
MASK = {"w": np.array([[True, False], [False, True]]), "b": np.array([True, True])}
TRANSFORMATIONS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.1, weight_decay=0.3),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "decay_last": optax.chain(optax.sgd(0.1), optax.add_decayed_weights(0.1)),
}
every_transformation = pytest.mark.parametrize("name", TRANSFORMATIONS)


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree)


def gradients(step):
    return cases.vector(PARAMS, step)


@every_transformation
def test_with_mask_keeps_pruned_weights_exactly_zero_from_the_first_step_on(name):
    tx, params = jp.optim.with_mask(TRANSFORMATIONS[name], arrays(MASK)), arrays(PARAMS)
    state = tx.init(params)
    for step in range(3):
        bad = jax.tree.map(lambda g, keep: jnp.where(keep, g, jnp.nan), gradients(step), arrays(MASK))
        updates, state = tx.update(bad, state, params)
        params = optax.apply_updates(params, updates)
        for keep, leaf in zip(jax.tree.leaves(MASK), jax.tree.leaves(params), strict=True):
            assert (leaf[~keep] == 0).all()
            assert jnp.isfinite(leaf).all()
            assert (leaf[keep] != 0).all()


@every_transformation
def test_with_mask_trains_kept_weights_as_if_the_pruned_did_not_exist(name):
    tx = TRANSFORMATIONS[name]
    dense = [
        leaf[keep] for keep, leaf in zip(jax.tree.leaves(MASK), map(jnp.asarray, jax.tree.leaves(PARAMS)), strict=True)
    ]
    masked, params = jp.optim.with_mask(tx, arrays(MASK)), arrays(PARAMS)
    state, dense_state = masked.init(params), tx.init(dense)
    for step in range(3):
        updates, state = masked.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
        kept = [g[keep] for keep, g in zip(jax.tree.leaves(MASK), jax.tree.leaves(gradients(step)), strict=True)]
        updates, dense_state = tx.update(kept, dense_state, dense)
        dense = optax.apply_updates(dense, updates)
        for keep, leaf, alone in zip(jax.tree.leaves(MASK), jax.tree.leaves(params), dense, strict=True):
            np.testing.assert_allclose(leaf[keep], alone, rtol=1e-12)


def train_step(tx):
    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step


def test_with_mask_serves_every_mask_by_one_compiled_step_that_holds_none():
    base = optax.adamw(0.1)
    first = jp.optim.with_mask(base, arrays(MASK))
    second = jp.optim.with_mask(base, jax.tree.map(jnp.logical_not, arrays(MASK)))
    assert first.update is second.update
    step = jax.jit(chex.assert_max_traces(train_step(first), 1))
    for tx in (first, second):
        params, state = step(arrays(PARAMS), tx.init(arrays(PARAMS)), gradients(0))
        for keep, leaf in zip(jax.tree.leaves(state.mask), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(leaf != 0, keep)
    program = jax.make_jaxpr(train_step(first))(arrays(PARAMS), first.init(arrays(PARAMS)), gradients(0))
    assert not [const for const in program.consts if np.size(const) > 1]
    booleans = [var for var in program.jaxpr.invars if var.aval.dtype == bool]
    assert [var.aval.shape for var in booleans] == [(2,), (2, 2)]


def test_with_mask_leaves_the_callers_mask_alive_though_a_step_donates_its_state():
    mask, params = arrays(MASK), arrays(PARAMS)
    tx = jp.optim.with_mask(optax.sgd(0.1), mask)
    jax.jit(train_step(tx), donate_argnums=1)(params, tx.init(params), gradients(0))
    np.testing.assert_array_equal(mask["w"], MASK["w"])


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"w": MASK["w"]}, ValueError, "mask: expected the structure of params"),
        (
            {"w": MASK["w"][:1], "b": MASK["b"]},
            ValueError,
            r"mask: at \['w'\] expected the shape \(2, 2\).*got \(1, 2\)",
        ),
        ({"w": MASK["w"] * 1.0, "b": MASK["b"]}, TypeError, r"mask: expected boolean leaves.*\['w'\] is float64"),
    ],
)
def test_with_mask_and_apply_name_a_mask_that_does_not_fit(mask, error, message):
    with pytest.raises(error, match=message):
        jp.optim.with_mask(optax.sgd(0.1), arrays(mask)).init(arrays(PARAMS))
    with pytest.raises(error, match=message):
        jp.masks.apply(arrays(mask), arrays(PARAMS))


def test_with_mask_refuses_an_update_without_parameters():
    tx = jp.optim.with_mask(optax.sgd(0.1), arrays(MASK))
    with pytest.raises(ValueError, match=r"params: expected the parameters, but got None\. Call tx\.update"):
        tx.update(gradients(0), tx.init(arrays(PARAMS)))


# Sites.
def tagged(params, state, images):
    @jax.checkpoint
    def block(x):
        return checkpoint_name(jnp.tanh(x), "inside remat")

    @jax.custom_jvp
    def double(x):
        return checkpoint_name(2 * x, "inside custom_jvp")

    double.defjvp(lambda primals, tangents: (double(*primals), 2 * tangents[0]))
    x = checkpoint_name(images * params, "first")
    x = jax.jit(lambda x: jax.jit(lambda x: checkpoint_name(x + 1, "inside jit"))(x) * 2)(x)
    return double(block(x))


IMAGES = np.array([[0.1, 0.2]])
BY_HAND = {
    "first": 3 * IMAGES,
    "inside jit": 3 * IMAGES + 1,
    "inside remat": np.tanh(2 * (3 * IMAGES + 1)),
    "inside custom_jvp": 2 * np.tanh(2 * (3 * IMAGES + 1)),
}


def test_tags_are_listed_in_the_order_of_the_program():
    network = jp.Network(tagged, jnp.asarray(3.0))
    assert jp.sites.tags(network, jax.ShapeDtypeStruct((1, 2), np.float64)) == list(BY_HAND)


@pytest.mark.parametrize("read", [jp.sites.read, jp.sites.read_jit])
def test_read_goes_through_nested_jit_remat_and_custom_derivatives(read):
    network = jp.Network(tagged, jnp.asarray(3.0))
    order = ("inside remat", "first", "inside custom_jvp", "inside jit")
    for site, value in zip(order, read(network, IMAGES, sites=order), strict=True):
        np.testing.assert_allclose(value, BY_HAND[site], rtol=1e-12)


def test_read_jit_gives_values_of_our_models_as_flax_computes_them():
    case = cases.build("vit")
    images = case.batch["image"]
    # Without jit every equation would compile by itself.
    features, keys = jp.sites.read_jit(case.network, images, sites=("features", "block0/keys"))
    head = case.network.params["head"]
    np.testing.assert_allclose(
        features @ head["kernel"] + head["bias"][None], jax.jit(case.network.__call__)(images), rtol=1e-12
    )
    assert keys.shape == (5, 5, 2, 2)


def test_read_can_be_differentiated():
    def total(params):
        return jnp.sum(jp.sites.read(jp.Network(tagged, params), IMAGES, ["inside jit"])[0])

    np.testing.assert_allclose(jax.grad(total)(3.0), IMAGES.sum(), rtol=1e-12)


def test_read_refuses_an_unknown_site_and_names_the_nearest():
    network = jp.Network(tagged, jnp.asarray(3.0))
    with pytest.raises(ValueError, match=r"sites: unknown value 'fist'\. Did you mean 'first'.*Known: first, inside"):
        jp.sites.read(network, IMAGES, ["fist"])


# Preconditions that only these functions meet.
@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: check.labels("y", np.array([0.0]), 2), TypeError, "y: expected integer class labels, but got float64"),
        (lambda: check.labels("y", np.array([0, 2]), 2), ValueError, r"y: expected labels in \[0, 2\), but found 2"),
        (lambda: check.labels("y", np.array([0, 2]), 3), ValueError, r"y: class 1 has no example \(1 of 3"),
        (lambda: check.writable("out", "/proc/nowhere"), ValueError, "out: cannot write in '/proc/nowhere'"),
    ],
)
def test_check_names_the_argument_and_the_remedy(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.usefixtures("unchecked")
def test_writable_refuses_what_is_no_path():
    with pytest.raises(TypeError, match="out: expected the path of a folder, but got 3"):
        check.writable("out", 3)  # pyright: ignore[reportArgumentType]


def test_mean_of_labels_outside_the_classes_is_never_a_number():
    outputs, batch = jnp.zeros((2, 3)), {"image": jnp.zeros((2, 3)), "label": jnp.array([0, 3])}
    for loss in (jp.losses.cross_entropy, jp.losses.squared_error):
        assert jnp.isnan(jp.losses.mean(loss, outputs, batch))
        # Where it is padding, a label may be anything.
        padded = {**batch, "weight": jnp.array([1.0, 0.0])}
        gradient = jax.grad(lambda values, padded=padded, loss=loss: jp.losses.mean(loss, values, padded))(outputs)
        assert jnp.all(jnp.isfinite(gradient))
    net = jp.Network(lambda params, state, images: images * params, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"scores: expected finite numbers"):
        jp.masks.unstructured(0.5)(jp.scores.snip(jp.losses.cross_entropy)(net, [batch]), True)
    with pytest.raises(ValueError, match=r"labels: expected labels in \[0, 3\), but found 3"):
        jp.evaluate.transfer.accuracy([batch])(net)


def test_accuracy_refuses_predictions_that_are_not_finite():
    net = jp.Network(lambda params, state, images: images / (params - params), jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="outputs: expected finite numbers"):
        jp.evaluate.transfer.accuracy([{"image": jnp.ones((2, 3)), "label": jnp.array([0, 0])}])(net)


def test_gradient_refuses_empty_batches_and_negative_weights():
    net = jp.Network(lambda params, state, images: images * params, jnp.ones((1, 3)))
    one = {"image": jnp.zeros((1, 3)), "label": jnp.zeros(1, int)}
    with pytest.raises(ValueError, match="batch: expected at least one example"):
        jp.curvature.gradient(net, jp.losses.cross_entropy, {name: value[:0] for name, value in one.items()})
    with pytest.raises(ValueError, match="batch: expected weights of 0 or more"):
        jp.curvature.gradient(net, jp.losses.cross_entropy, {**one, "weight": -jnp.ones(1)})


def test_names_of_two_leaves_that_are_one_is_an_error_of_whatever_uses_names():
    """A container whose own name has a slash in it stands beside nested ones that spell the same."""
    params = {"a/b": {"w": jnp.ones((3, 3))}, "a": {"b": {"w": 2 * jnp.ones((3, 3))}}}
    net = jp.Network(lambda p, s, x: x @ p["a/b"]["w"] @ p["a"]["b"]["w"], params)
    batch = {"image": jnp.ones((2, 3)), "label": jnp.zeros(2, int)}
    message = "tree: expected leaves of different names, but two are called 'a/b/w'"
    for call in (
        lambda: jp.tree.by_name(params),
        lambda: jp.tree.replace(params, "a/b/w", 0),
        lambda: jp.tree.prunable(params),
        lambda: jp.curvature.diagonal(net, jp.losses.cross_entropy, batch),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_prunable_names_an_exclude_that_leaves_nothing_out():
    params = {"body": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    for exclude in ("^head/", "bias"):
        with pytest.raises(ValueError, match=rf"exclude: .*exclude='{re.escape(exclude)}' matches no leaf"):
            jp.tree.prunable(params, exclude=exclude)


def test_mean_of_outputs_of_pixels_is_an_error():
    batch = {"image": jnp.ones((4, 4, 4, 2)), "label": jnp.zeros((4, 4, 4), int), "weight": jnp.array([1.0, 1, 0, 1])}
    with pytest.raises(
        ValueError, match=r"expected outputs of shape \[b, c\] with b = 4 images, but got \(4, 4, 4, 3\)"
    ):
        jp.losses.mean(lambda outputs, batch: outputs.mean((1, 2, 3)), jnp.ones((4, 4, 4, 3)), batch)


def test_from_linen_names_variables_without_params():
    with pytest.raises(ValueError, match=r"variables: expected what module\.init returned.*but got \['kernel'\]"):
        jp.Network.from_linen(nn.Dense(2), {"kernel": jnp.ones((3, 2))})


def test_unstructured_takes_infinite_scores_of_what_is_never_pruned():
    scores = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([jnp.inf])}
    mask = jp.masks.unstructured(0.5)(scores, {"kernel": True, "bias": False})
    assert mask["kernel"].tolist() == [[False, True]]
