import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.utils.class_weight import compute_sample_weight

import jaxprune as jp
from jaxprune.evaluate import heads, transfer

RNG = np.random.default_rng(0)
MAKERS = [heads.ridge(0.5), heads.logistic(0.5), heads.nearest_mean(), heads.nearest_neighbours(3)]


def problem(classes: int = 4, n: int = 60, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    # Classes of very unequal size, so that the balance shows.
    labels = np.sort(np.concatenate([np.arange(classes), RNG.integers(classes, size=n - classes) ** 2 // classes]))
    features = RNG.standard_normal((n, 5)) + np.eye(classes, 5)[labels]
    return features.astype(dtype), labels.astype(np.int32)


def apply(params, state, images):
    hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["first"])
    checkpoint_name(images, "pixels")
    return checkpoint_name(hidden, "features") @ params["second"] + state["shift"]


def network(seed: int = 0, dtype: type = np.float32) -> jp.Network:
    rng = np.random.default_rng(seed)
    params = {"first": rng.standard_normal((12, 5)), "second": rng.standard_normal((5, 3))}
    params = {name: jnp.asarray(value, dtype) for name, value in params.items()}
    return jp.Network(apply, params, {"shift": jnp.zeros(3, dtype)})


def pictures(n: int = 10, dtype: type = np.float32) -> dict[str, np.ndarray]:
    images = np.random.default_rng(1).random((n, 2, 2, 3)).astype(dtype)
    return {"image": images, "label": (np.arange(n) % 3).astype(np.int32)}


def test_ridge_is_sklearns_weighted_ridge_with_a_penalised_bias():
    x, y = problem()
    augmented = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    oracle = Ridge(0.7, fit_intercept=False, solver="cholesky")
    oracle.fit(augmented, np.eye(4)[y], sample_weight=compute_sample_weight("balanced", y))
    with jax.enable_x64(True):
        outputs = heads.ridge(0.7)(x, y, 4)(jnp.asarray(x))
    np.testing.assert_allclose(outputs, oracle.predict(augmented), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_is_sklearns_balanced_logistic_regression(classes):
    x, y = problem(classes)
    oracle = LogisticRegression(C=1 / 0.3, class_weight="balanced", max_iter=10_000, tol=1e-8).fit(x, y)
    with jax.enable_x64(True):
        head = heads.logistic(0.3)(x, y, classes)
        outputs = head(jnp.asarray(x))
        shares = jax.nn.softmax(outputs)
    assert outputs.shape == (len(x), classes)
    np.testing.assert_allclose(shares, oracle.predict_proba(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(np.argmax(outputs, axis=1), oracle.predict(x))


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_stands_at_the_minimum_it_states(classes):
    x, y = problem(classes)
    balance = jnp.asarray(compute_sample_weight("balanced", y))
    with jax.enable_x64(True):
        head = heads.logistic(0.3)(x, y, classes)

        def objective(params):
            losses = jp.losses.cross_entropy(head.apply(params, {}, jnp.asarray(x)), {"label": jnp.asarray(y)})
            kernel = params["kernel"]
            # Of two classes the first has weights 0: one vector alone is penalised.
            return jnp.sum(jnp.asarray(balance) * losses) + 0.3 * jnp.sum(kernel**2) / 2

        slope = jax.grad(objective)(head.params)
    kernel, bias = np.asarray(slope["kernel"]), np.asarray(slope["bias"])
    np.testing.assert_allclose(kernel[:, 1:] if classes == 2 else kernel, 0, atol=1e-4)
    np.testing.assert_allclose(bias, 0, atol=1e-4)


def test_nearest_mean_is_sklearns_nearest_centroid():
    x, y = problem()
    with jax.enable_x64(True):
        outputs = heads.nearest_mean()(x, y, 4)(jnp.asarray(x))
    oracle = NearestCentroid().fit(x, y)
    distances = np.sum((x[:, None] - oracle.centroids_[None]) ** 2, axis=-1)
    # A distance of zero is a difference of two squares, and rounds as these do.
    np.testing.assert_allclose(outputs, -distances, rtol=1e-10, atol=1e-14 * np.max(x**2))
    np.testing.assert_array_equal(np.argmax(outputs, axis=1), oracle.predict(x))


@pytest.mark.parametrize("k", [1, 5, 60])
def test_nearest_neighbours_vote_as_sklearns(k):
    x, y = problem()
    others = RNG.standard_normal((40, 5))
    with jax.enable_x64(True):
        shares = heads.nearest_neighbours(k)(x, y, 4)(jnp.asarray(others))
    np.testing.assert_allclose(shares, KNeighborsClassifier(k).fit(x, y).predict_proba(others), atol=1e-10)


@pytest.mark.parametrize("make", MAKERS)
def test_heads_have_the_type_of_their_features_and_forget_their_order(make):
    x, y = problem(dtype=np.float32)
    head, order = make(x, y, 4), RNG.permutation(len(x))
    assert {leaf.dtype for leaf in jax.tree.leaves(head.params)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(make(x[order], y[order], 4)(x), head(x), atol=2e-5)
    assert make(x[order], y[order], 4).apply == head.apply


@pytest.mark.parametrize("make", MAKERS)
def test_with_head_is_the_head_of_the_features(make):
    net, data = network(), pictures()
    features = transfer.features(net, [data])
    head = make(features, data["label"], 3)
    np.testing.assert_allclose(transfer.with_head(net, head)(data["image"]), head(features), rtol=1e-5, atol=1e-5)


def test_with_head_freezes_the_head_and_lets_gradients_through():
    net, data = network(), pictures()
    headed = transfer.with_head(net, heads.ridge()(transfer.features(net, [data]), data["label"], 3))
    assert headed.params is net.params
    assert jp.tree.names(headed.state) == ["head/bias", "head/kernel", "network/shift"]
    slope = jp.curvature.gradient(headed, jp.losses.squared_error, data)
    assert jp.tree.names(slope) == ["first", "second"]
    assert np.any(np.asarray(slope["first"]) != 0)
    np.testing.assert_array_equal(slope["second"], 0)  # the replaced classifier
    tuned = jp.train.fit(headed, jp.losses.squared_error, optax.sgd(0.01), data, steps=2, batch_size=5, seed=0)
    jax.tree.map(np.testing.assert_array_equal, tuned.state, headed.state)
    assert np.any(np.asarray(tuned.params["first"] != net.params["first"]))


def test_with_head_makes_networks_that_compare_equal_and_compile_once():
    data, traces = pictures(), []

    @jax.jit
    def outputs(net, images):
        traces.append(1)
        return net(images)

    for seed in range(3):
        net = network(seed)
        features = transfer.features(net, [data])
        headed = transfer.with_head(net, heads.ridge()(features, data["label"], 3))
        other = transfer.with_head(network(seed + 7), heads.ridge(9.0)(features, data["label"], 3))
        assert headed.apply == other.apply
        assert hash(headed.apply) == hash(other.apply)
        outputs(headed, data["image"])
    assert len(traces) == 1
    nearest = transfer.with_head(net, heads.nearest_mean()(features, data["label"], 3))
    assert nearest.apply != headed.apply


@pytest.mark.parametrize("size", [1, 3, 4, 10, 16])
def test_features_are_those_of_the_examples_that_count_in_order(size):
    net, data = network(), pictures()
    expected = np.maximum(data["image"].reshape(10, -1) @ np.asarray(net.params["first"]), 0)
    np.testing.assert_allclose(transfer.features(net, jp.data.Batches(data, size)), expected, rtol=1e-5, atol=1e-6)
    weight = (np.arange(10) % 2).astype(np.float32)
    some = transfer.features(net, jp.data.Batches({**data, "weight": weight}, size))
    np.testing.assert_allclose(some, expected[1::2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 10, 16])
def test_accuracy_counts_every_example_of_positive_weight_once(size):
    outputs = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1]]
    data = {"image": outputs, "label": np.array([0, 1, 2, 0, 1, 0, 1, 2], np.int32)}
    net = jp.Network(lambda params, state, images: images, {})
    got = transfer.accuracy(jp.data.Batches(data, size))(net)
    assert got == {"accuracy": 0.625, "standard_error": pytest.approx(np.sqrt(0.625 * 0.375 / 8)), "n": 8.0}
    weight = np.array([1, 1, 1, 1, 0, 0, 1, 1], np.float32)
    some = transfer.correct(net, jp.data.Batches({**data, "weight": weight}, size))
    assert some.tolist() == [True, True, True, True, False, False]


def test_correct_takes_the_first_of_equal_outputs():
    net = jp.Network(lambda params, state, images: images, {})
    batch = {"image": np.zeros((2, 3), np.float32), "label": np.array([0, 2])}
    assert transfer.correct(net, [batch]).tolist() == [True, False]


def test_mean_loss_is_the_same_for_every_batch_size():
    data = pictures(dtype=np.float64)
    weighted = {**data, "weight": np.linspace(0.0, 2.0, 10)}
    with jax.enable_x64(True):
        net = network(dtype=np.float64)
        values = jp.losses.cross_entropy(net(data["image"]), data)
        expected = np.average(values, weights=weighted["weight"])
        for size in (1, 3, 4, 10, 16):
            got = transfer.mean_loss(jp.losses.cross_entropy, jp.data.Batches(weighted, size))(net)
            np.testing.assert_allclose(got["loss"], expected, rtol=1e-12)


@pytest.mark.parametrize("make", MAKERS)
def test_heads_refuse_features_that_are_not_a_table(make):
    with pytest.raises(
        ValueError, match=r"features: expected \[n, d\] for 4 labels, but got \(4, 2, 2\). Average over"
    ):
        make(np.ones((4, 2, 2)), np.array([0, 1, 0, 1]), 2)
    with pytest.raises(ValueError, match=r"features: expected \[n, d\] for 4 labels, but got \(3, 2\)"):
        make(np.ones((3, 2)), np.array([0, 1, 0, 1]), 2)


@pytest.mark.parametrize("make", MAKERS)
def test_heads_refuse_an_empty_class(make):
    with pytest.raises(ValueError, match=r"labels: class 1 has no example \(1 of 3 classes are empty\)"):
        make(np.ones((4, 2)), np.array([0, 2, 0, 2]), 3)
    with pytest.raises(ValueError, match=r"labels: expected labels in \[0, 2\), but found 2"):
        make(np.ones((3, 2)), np.array([0, 1, 2]), 2)


@pytest.mark.parametrize("make", MAKERS)
def test_heads_refuse_features_that_are_not_finite(make):
    x, y = problem()
    x[3, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"features: expected finite numbers, but the array holds 1 .* Inspect the network"
    ):
        make(x, y, 4)


@pytest.mark.parametrize("maker", [heads.ridge, heads.logistic])
@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_heads_refuse_a_penalty_that_is_not_positive(maker, penalty):
    with pytest.raises(ValueError, match="penalty: expected a finite number above 0, but got"):
        maker(penalty)


def test_nearest_neighbours_refuses_a_number_out_of_range():
    with pytest.raises(ValueError, match="k: expected a whole number of 1 or more, but got 0"):
        heads.nearest_neighbours(0)
    with pytest.raises(ValueError, match=r"k: expected at most the 3 examples .*, but got 4"):
        heads.nearest_neighbours(4)(np.ones((3, 2)), np.array([0, 1, 1]), 2)


def test_features_refuse_a_site_that_does_not_serve():
    net, data = network(), pictures()
    with pytest.raises(ValueError, match=r"sites: unknown value 'feature'. Did you mean 'features'"):
        transfer.features(net, [data], "feature")
    with pytest.raises(
        ValueError, match=r"site: expected a value \[b, d\], but 'pixels' is \(10, 2, 2, 3\). Choose another"
    ):
        transfer.features(net, [data], "pixels")
    head = heads.nearest_mean()(transfer.features(net, [data]), data["label"], 3)
    with pytest.raises(ValueError, match=r"sites: unknown value 'head'. .*Known: features, pixels"):
        transfer.with_head(net, head, "head")(data["image"])


@pytest.mark.parametrize("kind", [np.int32, jnp.bfloat16])
@pytest.mark.parametrize("maker", [heads.nearest_mean(), heads.ridge(1.0), heads.nearest_neighbours(2)])
def test_heads_on_features_of_whole_numbers_or_half_precision_are_those_of_the_same_numbers(maker, kind):
    features, labels = np.array([[0, 3], [1, 0], [5, 2], [4, 1]]), np.array([0, 0, 1, 1])
    head, expected = (maker(features.astype(one), labels, 2) for one in (kind, np.float64))
    for one, other in zip(jax.tree.leaves(head.params), jax.tree.leaves(expected.params), strict=True):
        assert jnp.promote_types(one.dtype, jnp.float32) == one.dtype
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("far", [0.0, 1e4])
def test_nearest_neighbours_looks_at_parts_of_the_bank_and_finds_those_of_the_whole(monkeypatch, k, far):
    monkeypatch.setattr(heads, "_POINTS", 7)
    x, y = problem(dtype=np.float32)
    x = (x + far).astype(np.float32)
    x[50] = x[3]  # of equals the first one votes
    asked = x[::3] + np.float32(0.125)
    found = heads.nearest_neighbours(k)(x, y, 4)(jnp.asarray(asked))
    wide = x.astype(np.float64)
    distances = np.sum((asked[:, None].astype(np.float64) - wide[None]) ** 2, axis=-1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    expected = np.stack([np.bincount(y[row], minlength=4) for row in nearest]) / k
    # Float32 may take another one where two are as near up to rounding.
    gaps = np.sort(distances, axis=1)
    clear = gaps[:, k] - gaps[:, k - 1] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_allclose(np.asarray(found)[clear], expected[clear], rtol=1e-6)


def test_nearest_neighbours_takes_memory_for_parts_of_the_bank_and_not_for_copies_of_it():
    bank, asked = np.ones((20_000, 64), np.float32), jnp.ones((50, 64), np.float32)
    labels = np.arange(len(bank)) % 2
    maker = heads.nearest_neighbours(5)
    maker(bank[:2000], labels[:2000], 2)  # what JAX takes once
    tracemalloc.start()
    head = maker(bank, labels, 2)
    fitting = tracemalloc.get_traced_memory()[1]  # of NumPy; that of JAX is the bank of the head alone
    tracemalloc.stop()
    assert fitting <= bank.nbytes / 2
    filled = heads._filled.lower(head.params["points"], bank[:1024], head.params["centre"], 0).compile()
    assert filled.memory_analysis().alias_size_in_bytes == bank.nbytes
    votes = jax.jit(head.apply).lower(head.params, head.state, asked).compile().memory_analysis()
    # The points of a part, and how near each is to every query.
    part = 4 * heads._POINTS * (64 + len(asked))
    assert votes.temp_size_in_bytes <= 1.5 * part <= bank.nbytes / 5


def test_ridge_adds_parts_up_to_the_normal_equations_of_the_whole(monkeypatch):
    x, y = problem()
    with jax.enable_x64(True):
        whole = heads.ridge(0.3)(x, y, 4)
        monkeypatch.setattr(heads, "_ROWS", 7)
        parts = heads.ridge(0.3)(x, y, 4)
        for one, other in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11)
