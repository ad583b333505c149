"""What holds of the networks of NNX and of Equinox alike, held against the same network in linen."""

import copy
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from tests.libraries import models

LOSS = jp.losses.cross_entropy
pytestmark = pytest.mark.parametrize("library", models.LIBRARIES)


def close(got: Any, expected: Any, **options: Any) -> None:
    assert jp.tree.names(got) == jp.tree.names(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), **{"rtol": 1e-10, "atol": 1e-12, **options})


def same(got: Any, expected: Any) -> None:
    close(got, expected, rtol=0, atol=0)


def arrays(model: Any) -> list[np.ndarray]:
    """Everything in a model that has numbers, random streams included."""
    found = jax.tree.leaves(nnx.state(model) if isinstance(model, nnx.Module) else model)
    keys = [jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key) for leaf in found]
    plain = [jax.random.key_data(leaf) if key else leaf for leaf, key in zip(found, keys, strict=True)]
    return [np.array(leaf) for leaf in plain if eqx.is_array(leaf)]


def test_network_of_a_library_computes_what_linen_computes(library):
    linen, network = models.linen(), models.network(library)
    close(network(models.IMAGES), linen(models.IMAGES))
    batches = [models.DATA]
    close(jp.scores.snip(LOSS)(network, batches), models.as_in(library, jp.scores.snip(LOSS)(linen, batches)))


def test_fit_trains_as_with_linen(library):
    rngs = {"dropout": jax.random.key(0)}
    linen, network = models.linen(), models.network(library, rate=0.0)
    outputs, _ = jax.jit(linen.train_apply)(linen.params, linen.state, models.IMAGES, rngs)
    # Of the new statistics more below: the libraries share their meaning, and not the momentum.
    close(jax.jit(network.train_apply)(network.params, network.state, models.IMAGES, rngs)[0], outputs)


def test_recalibrate_finds_the_statistics_that_it_finds_of_linen(library):
    batches = [{"image": models.IMAGES[:3], "label": np.zeros(3)}, {"image": models.IMAGES[3:], "label": np.zeros(3)}]
    linen = jp.train.recalibrate(models.linen(), batches, jax.random.key(0))
    network = jp.train.recalibrate(models.network(library), batches, jax.random.key(0))
    close(network.state, models.translated(library, linen)[1])
    close(network(models.IMAGES), linen(models.IMAGES))


def test_curvature_is_exact_for_models_of_libraries(library):
    network = models.network(library)
    start, unravel = ravel_pytree(network.params)

    def value(flat):
        return jp.losses.mean(LOSS, network.apply(unravel(flat), network.state, models.IMAGES), models.DATA)

    hessian = np.asarray(jax.jit(jax.hessian(value))(start))
    vector = np.random.default_rng(2).normal(size=start.shape)
    diagonal = jp.curvature.diagonal(network, LOSS, models.DATA)
    product = jax.jit(jp.curvature.hvp, static_argnums=1)(network, LOSS, models.DATA, unravel(vector))
    np.testing.assert_allclose(ravel_pytree(diagonal)[0], np.diag(hessian), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ vector, rtol=1e-8, atol=1e-12)


def test_survey_proves_a_site_of_every_parameter(library):
    """A convolution of NNX and a mapped one of Equinox, each with BatchNorm, are seen through to the end."""
    found = jp.sites.survey(models.network(library), models.IMAGES)
    assert [line for line in str(found).splitlines() if "piecewise linear after it, independent examples" in line] == (
        str(found).splitlines()
    )
    assert len(str(found).splitlines()) == 9


def test_prunable_names_the_kernels(library):
    prunable = jp.tree.prunable(models.network(library).params)
    kernel = "kernel" if library == "nnx" else "weight"
    chosen = [name for name, flag in jp.tree.by_name(prunable).items() if flag]
    assert chosen == [f"conv/{kernel}", f"head/{kernel}", f"last/{kernel}"]


def test_network_of_an_equal_model_shares_one_trace(library):
    count = jax.jit(lambda network, images: network(images))
    train = jax.jit(lambda network, images, key: network.train_apply(network.params, network.state, images, key)[0])
    images = data(library)["image"]
    models.TRACES.clear()
    first, second, other = (models.wrapped(library, models.model(library, rate, seed)) for rate, seed in RATES)
    for network in (first, first.replace(), second):
        count(network, images)
    assert len(models.TRACES) == 1
    for network in (first, second):
        train(network, images, {"dropout": jax.random.key(0)})
    assert len(models.TRACES) == 2
    assert first.apply == second.apply
    assert hash(first.train_apply) == hash(second.train_apply)
    assert first.train_apply != other.train_apply


RATES = ((0.5, 0), (0.5, 1), (0.25, 0))


def test_train_apply_draws_dropout_from_the_key(library):
    network = models.network(library)
    train = jax.jit(network.train_apply)
    draw = lambda seed: train(network.params, network.state, models.IMAGES, {"dropout": jax.random.key(seed)})[0]  # noqa: E731
    assert np.array_equal(draw(0), draw(0))
    assert not np.allclose(draw(0), draw(1))
    plain = models.network(library, rate=0.0)
    dense = plain.train_apply(plain.params, plain.state, models.IMAGES, {"dropout": jax.random.key(0)})[0]
    # No two examples have lost the same features: each draws for itself.
    assert len({tuple(row) for row in np.round(np.asarray(draw(0)) - np.asarray(dense), 9)}) > 3


def test_fit_goes_on_where_it_was(library, tmp_path):
    """Dropout, BatchNorm and a mask: killed after two steps and resumed, the bytes are those of an unbroken run."""

    def fitted(steps, folder):
        network = models.wrapped(library, models.model(library))
        mask = jp.masks.unstructured(0.5)(jp.scores.magnitude()(network, []), jp.tree.prunable(network.params))
        network = network.replace(params=jp.masks.apply(mask, network.params))
        tx = jp.optim.with_mask(ADAM, mask)
        return mask, jp.train.fit(network, LOSS, tx, data(library), steps=steps, batch_size=4, seed=0, folder=folder)

    fitted(2, tmp_path)
    mask, resumed = fitted(4, tmp_path)
    _, unbroken = fitted(4, None)
    same(resumed, unbroken)
    assert jp.masks.sparsity(mask, jp.tree.prunable(mask)) == 0.5
    for kept, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(resumed.params), strict=True):
        assert not np.any(np.asarray(leaf)[~np.asarray(kept)])
    start = models.wrapped(library, models.model(library))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start.state, resumed.state)
    assert all(jax.tree.leaves(moved))


ADAM = optax.adamw(1e-2)


def data(library):
    """Data of the type of a new model: NNX begins in float32, Equinox in what JAX computes in."""
    return {**models.DATA, "image": models.IMAGES.astype(np.float32 if library == "nnx" else np.float64)}


def test_network_never_changes_the_model_of_the_user(library):
    model = models.model(library)
    before, described = arrays(model), repr(model)
    network = models.wrapped(library, model)
    network(data(library)["image"])
    # The step gives up the buffers of the network, and not those of the model.
    network, _, _ = jp.train.step(
        network, ADAM.init(network.params), data(library), jax.random.key(0), loss=LOSS, update=ADAM.update
    )
    network.to_model()
    assert repr(model) == described
    for one, other in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_to_model_leads_back(library):
    network = models.network(library)
    model = network.to_model()
    again = models.wrapped(library, model)
    same((again.params, again.state), (network.params, network.state))
    assert (again.apply, again.train_apply) == (network.apply, network.train_apply)
    if library == "nnx":
        outputs = model(models.IMAGES)
    else:
        model, state = model
        images = np.moveaxis(models.IMAGES, -1, 1)
        outputs, _ = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(images, state)
    same(outputs, network(models.IMAGES))


def test_checkpoint_holds_the_network(library, tmp_path):
    network = models.network(library)
    jp.checkpoint.save(tmp_path, 3, network)
    step, found = jp.checkpoint.restore(tmp_path, jax.tree.map(lambda leaf: 0 * leaf, network))
    assert step == 3
    same(found, network)


def test_to_model_refuses_a_network_with_another_apply(library):
    network = models.network(library)
    changed = copy.copy(network).replace(apply=lambda params, state, images: images)
    with pytest.raises(ValueError, match=r"network: expected one that Network.from_nnx or from_equinox made, but"):
        changed.to_model()
    with pytest.raises(ValueError, match=r"network: expected one that Network.from_linen made"):
        _ = network.module
