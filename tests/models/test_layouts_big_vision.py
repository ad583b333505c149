"""Transformers of big_vision: against one built of Flax's own attention, under the names that its files have."""

import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxprune as jp
from jaxprune.models import layouts_big_vision, mapping, resized, vit
from jaxprune.models.positions import sines

ROOT = Path(__file__).parents[2]
WIDTH, HEADS, DEPTH, PATCH, IMAGE, CLASSES = 48, 3, 2, 4, 16, 5
NAMES = {
    "modern": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
    "old": ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
}
LAYOUTS = {"modern": layouts_big_vision.big_vision_vit, "old": layouts_big_vision.augreg_vit}
KINDS = [("modern", "mean"), ("modern", "token"), ("old", "token")]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weights = script("golden_weights")


class Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))


class Units(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="Dense_1")(nn.gelu(nn.Dense(4 * WIDTH, name="Dense_0")(x)))


class Layer(nn.Module):
    names: tuple

    @nn.compact
    def __call__(self, x):
        norm1, attention, norm2, mlp = self.names
        y = nn.LayerNorm(name=norm1)(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name=attention)(y, y, sow_weights=True)
        return x + Units(name=mlp)(nn.LayerNorm(name=norm2)(x))


class Encoder(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        x = Positions(name="posembed_input")(x) if self.kind == "old" else x
        for number in range(DEPTH):
            x = Layer(NAMES[self.kind], name=f"encoderblock_{number}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class Reference(nn.Module):
    """The positions are added before the class token comes, but in the first files after."""

    kind: str
    pool: str

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(WIDTH, (PATCH, PATCH), strides=PATCH, padding="VALID", name="embedding")(images)
        x = x.reshape(x.shape[0], -1, WIDTH)
        if self.kind == "modern":
            x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        if self.pool == "token":
            token = self.param("cls", nn.initializers.zeros, (1, 1, WIDTH))
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, WIDTH)), x], axis=1)
        x = Encoder(self.kind, name="Transformer")(x)
        x = x[:, 0] if self.pool == "token" else x.mean(1)
        self.sow("intermediates", "features", x)
        return nn.Dense(CLASSES, name="head")(x)


def ours(pool, image=IMAGE, **changed):
    options = {"width": WIDTH, "heads": HEADS, "depth": DEPTH, "activation": "gelu_tanh", "pool": pool} | changed
    return vit(patch=PATCH, image=image, classes=CLASSES, **options)


def like(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.image, module.image, 3), jnp.float32))


def tensors_of(kind, pool):
    images = jnp.zeros((1, IMAGE, IMAGE, 3), jnp.float32)
    shapes = jax.eval_shape(Reference(kind, pool).init, jax.random.key(0), images)["params"]
    return weights.filled({name: leaf.shape for name, leaf in flatten_dict(shapes, sep="/").items()})


@partial(jax.jit, static_argnames=("kind", "pool"))
def reference(kind, pool, tensors, images):
    """Outputs, features and the last attention's probabilities, in float64."""
    variables = {"params": unflatten_dict(tensors, sep="/")}
    outputs, seen = Reference(kind, pool).apply(variables, images, mutable="intermediates")
    layer = seen["intermediates"]["Transformer"][f"encoderblock_{DEPTH - 1}"][NAMES[kind][1]]
    return outputs, seen["intermediates"]["features"][0], layer["attention_weights"][0]


@jax.jit
def answers(network, images):
    return network(images), *jp.sites.read(network, images, ("features", f"block{DEPTH - 1}/attention"))


@pytest.mark.parametrize(("kind", "pool"), KINDS)
def test_layouts_big_vision_answers_are_those_of_flaxs_own_attention(kind, pool):
    module, tensors, images = ours(pool), tensors_of(kind, pool), weights.images(IMAGE).astype(np.float64)
    layout = LAYOUTS[kind](module)
    assert {name: value.shape for name, value in tensors.items()} == mapping.shapes(layout, like(module))
    params = mapping.read(layout, layouts_big_vision.prepare(tensors), like(module))["params"]
    expected = reference(kind, pool, tensors, images)
    for found, one in zip(answers(module.network(params, {}), images), expected, strict=True):
        assert np.max(np.abs(found - one)) <= 1e-12 * np.max(np.abs(one))


@pytest.mark.parametrize(("kind", "pool"), KINDS)
def test_layouts_big_vision_writes_what_was_read_bit_for_bit(kind, pool):
    module, tensors = ours(pool), tensors_of(kind, pool)
    tensors |= {"cls": np.copysign(tensors["cls"] * (np.arange(WIDTH) > 3), -1.0)} if pool == "token" else {}
    layout = LAYOUTS[kind](module)
    written = mapping.write(layout, mapping.read(layout, tensors, like(module)))
    assert {name: value.tobytes() for name, value in written.items()} == {
        name: value.tobytes() for name, value in tensors.items()
    }


def test_write_adds_the_position_of_the_class_token_to_it():
    module, images = ours("token"), weights.images(IMAGE).astype(np.float64)
    params = mapping.read(LAYOUTS["old"](module), tensors_of("old", "token"), like(module))["params"]
    assert np.all(params["position"][0] != 0)
    written = mapping.write(LAYOUTS["modern"](module), {"params": params})
    expected = answers(module.network(params, {}), images)[0]
    found = reference("modern", "token", written, images)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # the sum is rounded to float32


def test_prepare_brings_files_of_a_time_between_to_todays_names():
    modern = tensors_of("modern", "token")
    token = weights.fill("position of the token", (1, 1, WIDTH))
    between = modern | {"cls": modern["cls"] - token}
    table = np.concatenate([token, between.pop("pos_embedding")], axis=1)
    made = layouts_big_vision.prepare(between | {"Transformer/pos_embedding": table})
    assert set(made) == set(modern)
    np.testing.assert_allclose(made["cls"], modern["cls"], atol=1e-7)
    np.testing.assert_array_equal(made["pos_embedding"], modern["pos_embedding"])
    # A mean over patches has no token among its positions, however many there are.
    mean = {"pos_embedding": np.zeros((1, 17, 2), np.float32)}
    assert layouts_big_vision.prepare(mean)["pos_embedding"].shape == (1, 17, 2)


def test_prepare_sines_makes_positions_where_a_file_has_none():
    tensors = tensors_of("modern", "mean")
    table = sines(4, WIDTH).astype(np.float32)[None]
    without = {name: value for name, value in tensors.items() if name != "pos_embedding"}
    assert set(layouts_big_vision.prepare(without)) == set(without)
    made = layouts_big_vision.prepare_sines(without, IMAGE)
    np.testing.assert_array_equal(made["pos_embedding"], table)
    kept = layouts_big_vision.prepare_sines(tensors, IMAGE)
    np.testing.assert_array_equal(kept["pos_embedding"], tensors["pos_embedding"])
    params = mapping.read(LAYOUTS["modern"](ours("mean")), made, like(ours("mean")))["params"]
    larger, params = resized(ours("mean"), params, 24, "sines")
    assert larger.image == 24
    np.testing.assert_array_equal(params["position"], sines(6, WIDTH).astype(np.float32))


MISTAKES = {
    "exact GELU": ({"activation": "gelu"}, lambda tensors: tensors),
    "LayerNorm epsilon": ({"norm_epsilon": 1e-5}, lambda tensors: tensors),
    "dimensions before heads": (
        {},
        lambda tensors: {
            name: value.reshape(WIDTH, 16, HEADS).swapaxes(1, 2) if name.endswith("query/kernel") else value
            for name, value in tensors.items()
        },
    ),
    "output transposed": (
        {},
        lambda tensors: {
            name: value.reshape(WIDTH, WIDTH).T.reshape(value.shape) if name.endswith("out/kernel") else value
            for name, value in tensors.items()
        },
    ),
}


@pytest.mark.parametrize("which", MISTAKES)
def test_layouts_big_vision_every_mistake_is_seen(which):
    changed, damage = MISTAKES[which]
    tensors, images = tensors_of("modern", "mean"), weights.images(IMAGE).astype(np.float64)
    module = ours("mean", **changed)
    params = mapping.read(LAYOUTS["modern"](module), damage(tensors), like(module))["params"]
    expected = reference("modern", "mean", tensors, images)[0]
    found = answers(module.network(params, {}), images)[0]
    assert np.max(np.abs(found - expected)) > 2e-5 * np.max(np.abs(expected))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("pre_logits/kernel", "another layer before its head"),
        ("MAPHead_0/probe", "pools by attention"),
    ],
)
def test_prepare_refuses_other_networks(name, what):
    with pytest.raises(ValueError, match=rf"weights: expected a plain vision transformer, but got .*{what}.*{name}"):
        layouts_big_vision.prepare({name: np.zeros(3)})
