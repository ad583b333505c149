"""Estimates from random signs: unbiased, with errors that are those of their definition, and never taken for exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxprune as jp
from jaxprune.curvature import blocks, estimates
from jaxprune.curvature.estimates import sketch_task
from tests.curvature import networks
from tests.curvature.networks import close, flat

KL = jp.losses.distillation("kl")
LOSSES = {"kl": KL, "squared": jp.losses.distillation(), "labels": jp.losses.cross_entropy, "own": networks.bumpy}


@pytest.mark.parametrize(
    ("name", "quantity"), [*((name, "diagonal") for name in LOSSES), ("kl", "unit"), ("own", "unit"), ("kl", "layer")]
)
def test_estimate_is_unbiased(name, quantity):
    net, loss = networks.build("attention"), LOSSES[name]
    asked = blocks.request(net.network, loss, net.batch, "ggn", "unit", None)

    @jax.jit
    def of_seeds(seeds):
        def one(seed):
            return {path: sums[0] for path, sums in sketch_task(asked, quantity, 2, seed).run().items()}

        return jax.lax.map(one, seeds)

    found = of_seeds(jnp.arange(400))
    weight = np.sum(net.batch["weight"])
    exact = getattr(jp.curvature.sweep(net.network, loss, [net.batch], (quantity,), matrix="ggn"), quantity)
    distances = []
    for path, leaf in jp.tree.by_name(exact).items():
        values = np.asarray(found[path]) / weight
        error = np.std(values, 0, ddof=1) / np.sqrt(len(values))
        distances.append((np.abs(values.mean(0) - leaf) / np.maximum(error, 1e-9 * np.abs(leaf).max())).ravel())
    distances = np.concatenate(distances)
    assert distances.max() < 4.5
    assert np.mean(distances < 2) > 0.85


def _linear(p, _, x):
    return x @ p["w"]


def linear(seed, examples, weight=None):
    """One output: a sign squared is 1, so that y_n = 2 weight_n x_n^2 is known."""
    network = jp.Network(_linear, {"w": jnp.asarray(networks.normal(0, 3, 1))})
    batch = {"image": networks.normal(seed, examples, 3)}
    return network, batch if weight is None else {**batch, "weight": weight}


def by_definition(batch):
    weight = np.asarray(batch.get("weight", np.ones(len(batch["image"]))), float)
    share, squares = weight / weight.sum(), 2 * np.asarray(batch["image"])[:, :, None] ** 2
    squares = np.where(weight[:, None, None] > 0, squares, 0)
    value = np.tensordot(share, squares, 1)
    spread = np.tensordot(share**2, (squares - value) ** 2, 1) / (1 - np.sum(share**2))
    y = share[:, None, None] * squares
    return value, np.sqrt(spread), y.sum(0) ** 2 / (y**2).sum(0)


@pytest.mark.parametrize("weight", [None, np.array([1.0, 0, 1, 1, 0, 1]), np.array([0.5, 0, 2, 1, 1, 3])])
def test_estimate_has_the_errors_of_its_definition(weight):
    network, batch = linear(1, 6, weight)
    if weight is not None:
        batch["image"][1] = np.nan if weight[1] == 0 else batch["image"][1]
    found = jp.curvature.estimate(network, jp.losses.distillation(), [batch])
    for got, expected in zip((found.value, found.error, found.effective), by_definition(batch), strict=True):
        close(got["w"], expected, 1e-12)
    assert found.examples == (6 if weight is None else int((weight > 0).sum()))


def test_estimate_does_not_depend_on_the_size_of_batches_or_of_tiles(monkeypatch):
    net = networks.build("convolutions")
    parts = [{name: entry[rows] for name, entry in net.batch.items()} for rows in (slice(0, 1), slice(1, None))]
    whole = jp.curvature.estimate(net.network, KL, [net.batch], seed=3)
    split = jp.curvature.estimate(net.network, KL, parts, seed=3)
    monkeypatch.setattr(estimates, "_TILE", 8)
    anew = net.network.replace(apply=lambda *arguments: net.network.apply(*arguments))  # traced with these tiles
    tiled = jp.curvature.estimate(anew, KL, [net.batch], seed=3)
    for other in (split, tiled):
        for name in ("value", "error", "effective"):
            close(flat(getattr(other, name)), flat(getattr(whole, name)), 1e-12)
    assert not np.allclose(flat(jp.curvature.estimate(net.network, KL, [net.batch], seed=4).value), flat(whole.value))


def test_estimate_does_not_depend_on_padding_between_the_examples():
    net = networks.build("convolutions")
    whole = jp.curvature.estimate(net.network, KL, [net.batch], seed=3)
    padded = {name: np.insert(np.asarray(entry), 1, 0, axis=0) for name, entry in net.batch.items() if name != "weight"}
    weight = np.insert(np.asarray(net.batch.get("weight", np.ones(len(padded["image"]) - 1))), 1, 0.0)
    found = jp.curvature.estimate(net.network, KL, [{**padded, "weight": weight}], seed=3)
    assert found.examples == whole.examples
    for name in ("value", "error", "effective"):
        close(flat(getattr(found, name)), flat(getattr(whole, name)), 1e-12)


def test_estimate_of_a_scope_leaves_the_rest_zero():
    net = networks.build("perceptron")
    scope = jp.tree.map_named(lambda name, _: name == "w2", net.network.params)
    found = jp.curvature.estimate(net.network, KL, [net.batch], scope=scope)
    for leaf in (found.value, found.error, found.effective):
        assert {name for name, one in jp.tree.by_name(leaf).items() if np.any(one)} == {"w2"}


def test_estimate_interval_holds_what_it_states():
    network = jp.Network(_linear, {"w": jnp.asarray(0.2 * networks.normal(2, 6, 40))})
    draw, held, intervals = np.random.default_rng(5), 0, 0
    pool = draw.normal(size=(5000, 6))
    exact = np.asarray(jp.curvature.diagonal(network, KL, {"image": pool}, scope={"w": True})["w"])
    for seed in range(60):
        batch = {"image": pool[draw.integers(0, 5000, 500)]}
        found = jp.curvature.estimate(network, KL, [batch], seed=seed)
        low, high = (end["w"] for end in found.interval())
        enough = ~found.few()["w"]
        held += np.sum((low <= exact) & (exact <= high) & enough)
        intervals += np.sum(enough)
    assert intervals > 3000, intervals
    assert 0.925 < held / intervals < 0.97


def test_estimate_says_that_it_is_one():
    network, batch = linear(1, 6)
    found = jp.curvature.estimate(network, jp.losses.distillation(), [batch], probes=3)
    assert not found.exact
    assert str(found).startswith("estimate of the diagonal of the hessian from 3 random probes")
    assert "reach 3 of 3 weights" in str(found)
    low, high = found.interval(0.9)
    value, error, effective = by_definition(batch)
    close(high["w"], value + stats.t.ppf(0.95, effective - 1) * error, 1e-10)
    close(low["w"] + high["w"], 2 * value, 1e-10)
    with pytest.raises(ValueError, match="confidence: expected a number between 0 and 1, but got 95"):
        found.interval(95)


@pytest.mark.parametrize("compile", [True, False])
def test_plan_of_an_estimate_is_not_exact_and_only_made_when_asked(compile):
    network = jp.Network(_linear, {"w": jnp.asarray(networks.normal(2, 6, 300))})
    arguments = (network, KL, {"image": networks.normal(3, 4, 6)})
    found = jp.curvature.plan(*arguments, "diagonal", probes=2, compile=compile)
    assert not found.exact
    assert "an estimate from 2 probes, not exact" in str(found)
    exact = jp.curvature.plan(*arguments, "diagonal", compile=compile)
    assert exact.exact
    assert exact.gradients > found.gradients > 0
    assert jp.curvature.plan(*arguments, "block_product", blocks="layer", probes=2, compile=compile).legs
    for options in ({"quantity": "block", "path": "w"}, {"quantity": "block_product", "blocks": 2}):
        with pytest.raises(ValueError, match="probes: expected a diagonal, or products of blocks"):
            jp.curvature.plan(*arguments, probes=2, **options)


def test_diagonal_hessian_of_probes_is_a_score_of_the_estimate():
    net = networks.build("perceptron")
    score = jp.scores.diagonal_hessian(KL, probes=2, seed=1)(net.network, [net.batch])
    found = jp.curvature.estimate(net.network, KL, [net.batch], seed=1)
    close(flat(score), flat(net.network.params) ** 2 * flat(found.value) / 2, 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 0}, "probes: expected a whole number of 1 or more"),
        ({"quantity": "gram"}, "quantity: unknown value 'gram'"),
        ({"matrix": "empirical_fisher"}, "matrix: unknown value 'empirical_fisher'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_estimate_names_bad_input(options, message):
    net = networks.build("perceptron")
    with pytest.raises(ValueError, match=message):
        jp.curvature.estimate(net.network, KL, [net.batch], **options)


def test_estimate_refuses_a_hessian_that_is_no_sum_over_signals():
    net = networks.build("attention")
    with pytest.raises(ValueError, match=r"scope: the hessian by attention/key/kernel is no sum.*distillation"):
        jp.curvature.estimate(net.network, jp.losses.cross_entropy, [net.batch])
    with pytest.raises(ValueError, match="batches: expected at least one batch"):
        jp.curvature.estimate(net.network, KL, [])
