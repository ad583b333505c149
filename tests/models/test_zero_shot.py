import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune.models.zero_shot import zero_shot

IMAGES = np.random.default_rng(0).normal(size=(3, 8))


def tower():
    kernel = np.random.default_rng(2).normal(size=(8, 6))
    return jp.Network.from_linen(nn.Dense(6, use_bias=False), {"params": {"kernel": kernel}}, train={})


def test_zero_shot_outputs_are_scaled_cosines():
    network, images = tower(), IMAGES
    text = np.random.default_rng(1).normal(size=(4, 6)) * 7
    found = jax.jit(lambda network, images: network(images))(zero_shot(network, text, 50.0), images)
    for row, embedding in zip(found, jax.jit(network.apply)(network.params, {}, images), strict=True):
        cosines = [embedding @ t / np.linalg.norm(embedding) / np.linalg.norm(t) for t in text]
        np.testing.assert_allclose(row, 50 * np.array(cosines), rtol=1e-5)


def test_zero_shot_keeps_text_as_state_and_is_trained_through():
    network, images = tower(), IMAGES
    made = zero_shot(network, np.eye(6)[:5])
    assert jp.tree.names(made.params) == jp.tree.names(network.params)
    assert made.state["text"].shape == (5, 6)
    outputs, state = jax.jit(made.train_apply)(made.params, made.state, images, {})
    np.testing.assert_allclose(outputs, jax.jit(made.apply)(made.params, made.state, images), rtol=1e-6)
    assert jax.tree.structure(state) == jax.tree.structure(made.state)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(made.apply(params, made.state, images)[:, 0])))(made.params)
    # Lengthening an embedding changes nothing.
    np.testing.assert_allclose(np.sum(gradient["kernel"] * network.params["kernel"]), 0, atol=1e-9)
    assert np.all(gradient["kernel"])
    assert made.apply == zero_shot(network, np.eye(6)).apply


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        (np.ones(6), 100.0, r"text_features: expected \[classes, d\], .* but got the shape \(6,\)"),
        (np.ones((0, 6)), 100.0, r"text_features: expected \[classes, d\]"),
        (np.array([[1.0], [0.0]]), 100.0, r"text_features: expected a direction for each class, but row 1 is zero"),
        (np.array([[np.nan]]), 100.0, r"text_features: expected finite numbers"),
        (np.ones((2, 6)), 0.0, r"scale: expected a finite number above 0, but got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_zero_shot_refuses_bad_arguments_with_a_remedy(text, scale, message):
    with pytest.raises(ValueError, match=message):
        zero_shot(jp.Network(lambda params, state, images: images, {}), text, scale)


def test_zero_shot_refuses_text_of_another_width():
    network, images = tower(), IMAGES
    with pytest.raises(ValueError, match=r"text_features: expected \[classes, 6\], as this network embeds, but got"):
        jax.eval_shape(zero_shot(network, np.eye(5)), images)


def test_zero_shot_takes_text_features_in_a_file(tmp_path):
    features, embeddings = np.array([[2.0, 0.0], [3.0, 4.0]], np.float32), np.array([[0.3, 0.4]], np.float32)
    tower = jp.Network(lambda params, state, images: images, {})
    jp.tensor_files.write(tmp_path / "text.npz", {"features": features})
    found = jp.models.zero_shot(tower, tmp_path / "text.npz")
    np.testing.assert_array_equal(found(embeddings), jp.models.zero_shot(tower, features)(embeddings))
    jp.tensor_files.write(tmp_path / "two.npz", {"features": features, "more": features})
    with pytest.raises(ValueError, match=r"text_features: expected one tensor in .*, but it has 2: "):
        jp.models.zero_shot(tower, tmp_path / "two.npz")
