"""Batches that say what a network answers to them, and trainings that learn from these answers alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.evaluate import transfer

pytestmark = pytest.mark.usefixtures("unchecked")


def apply(params, state, images):
    hidden = checkpoint_name(jnp.tanh(images @ params["w"]), "hidden")
    return checkpoint_name(hidden @ params["head"], "answers")


def network(seed=0):
    draw = np.random.default_rng(seed)
    params = {name: jnp.asarray(draw.normal(size=shape)) for name, shape in {"head": (5, 3), "w": (4, 5)}.items()}
    return jp.Network(apply, params)


def batches():
    draw = np.random.default_rng(9)
    first = {"image": draw.normal(size=(3, 4)), "label": np.array([0, 1, 2]), "weight": np.array([1.0, 2.0, 0.5])}
    return [first, {"image": draw.normal(size=(2, 4)), "name": np.array([4, 5])}]


def test_with_teacher_adds_the_outputs_and_keeps_all_else():
    given = batches()
    read = jp.data.with_teacher(iter(given), network())
    for batch, answer, again in zip(given, jp.data.with_teacher(given, network()), read, strict=True):
        assert "teacher" not in batch
        assert set(answer) == set(again) == {*batch, "teacher"}
        assert all(answer[name] is entry for name, entry in batch.items())
        # What is read once may lie in memory that is written again.
        assert all((again[name] == entry).all() and again[name] is not entry for name, entry in batch.items())
        np.testing.assert_array_equal(again["teacher"], answer["teacher"])
        w, head = (np.asarray(network().params[name]) for name in ("w", "head"))
        np.testing.assert_allclose(answer["teacher"], np.tanh(batch["image"] @ w) @ head, rtol=1e-12)


def test_with_teacher_at_a_tagged_value_adds_that_value_flat():
    def folded(params, state, images):
        hidden = checkpoint_name(jnp.tanh(images @ params["w"]).reshape(len(images), 5, 1), "hidden")
        return hidden[:, :, 0] @ params["head"]

    (answer,) = jp.data.with_teacher([batches()[0]], network().replace(apply=folded), at="hidden")
    np.testing.assert_allclose(answer["teacher"], np.tanh(answer["image"] @ network().params["w"]), rtol=1e-12)
    loss = jp.losses.distillation(at="hidden")
    own = network().replace(apply=folded)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jp.curvature.gradient(own, loss, answer)))
    (other,) = jp.data.with_teacher([batches()[0]], network(1), at="hidden")
    found = jp.curvature.gradient(own, loss, other)
    assert np.any(found["w"])
    assert not np.any(found["head"])


def test_with_teacher_does_not_read_what_does_not_count():
    (answer,) = jp.data.with_teacher(
        [{"image": np.array([[1.0] * 4, [np.nan] * 4]), "weight": np.array([1.0, 0.0])}], network()
    )
    assert np.isfinite(answer["teacher"]).all()


@pytest.mark.parametrize(
    ("given", "at", "error", "message"),
    [
        ([{"image": np.ones((1, 4)), "teacher": np.ones((1, 3))}], None, ValueError, "batches: expected none with a"),
        ({"image": np.ones((1, 4))}, None, TypeError, r"batches: expected a list .* Pass \[batch\]"),
        ([{"image": np.ones((1, 4))}], "hiden", ValueError, "at: unknown value 'hiden'. Did you mean 'hidden'"),
        ([{"image": np.full((1, 4), np.nan)}], None, ValueError, "batch"),
        ([{"image": np.ones((1, 4)), "label": np.ones(2, int)}], None, ValueError, "batch"),
    ],
)
def test_with_teacher_refuses_what_it_cannot_answer(given, at, error, message):
    with pytest.raises(error, match=message):
        jp.data.with_teacher(given, network(), at)


def fit(data, loss, **options):
    settings = {"steps": 40, "batch_size": 8, "seed": 0, **options}
    return jp.train.fit(network(1), loss, optax.adam(0.05), data, **settings)


def images():
    return {"image": np.random.default_rng(2).normal(size=(32, 4)).astype(np.float32)}


def unlabelled():
    return jp.data.with_teacher([images()], network())[0]


@pytest.mark.parametrize("loss", [jp.losses.distillation(), jp.losses.distillation("kl", 2)])
def test_distillation_trains_towards_the_teacher_without_labels(loss):
    data = unlabelled()
    measured = transfer.mean_loss(loss, [data])
    before, after = (measured(net)["loss"] for net in (network(1), fit(data, loss)))
    assert 0 <= after < 0.5 * before


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"augment": lambda batch, key: batch}, "augment: expected none where the data has a 'teacher'"),
        ({"teacher": None}, {}, "loss: expected one that has a gradient, for training"),
        ({"teacher": np.ones((32, 5))}, {}, r"batch: expected a teacher of shape \(1, 3\)"),
        ({"teacher": np.ones((31, 3))}, {}, "data"),
    ],
)
def test_fit_refuses_a_teacher_that_does_not_fit(change, options, message):
    data = {name: entry for name, entry in {**unlabelled(), **change}.items() if entry is not None}
    with pytest.raises(ValueError, match=message):
        fit(data, jp.losses.distillation(), **options)


def test_fit_refuses_a_teacher_of_integers_and_one_that_the_loss_does_not_read():
    with pytest.raises(TypeError, match="batch: expected a teacher of floating-point numbers, but got int"):
        fit({**unlabelled(), "teacher": np.ones((32, 3), int)}, jp.losses.distillation())
    with pytest.raises(ValueError, match="batch: it has a 'teacher', which a loss of the labels does not read"):
        fit({**unlabelled(), "label": np.zeros(32, int)}, jp.losses.cross_entropy)


def test_fit_at_a_value_inside_the_network_says_that_it_is_given_outputs_alone():
    with pytest.raises(ValueError, match="loss: the distance is taken at 'hidden' inside the network"):
        fit(jp.data.with_teacher([images()], network(), "hidden")[0], jp.losses.distillation(at="hidden"))
