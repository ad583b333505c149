"""CLIP's residual networks: against their definition, and as shapes from which filters and blocks can be removed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import tree
from jaxprune.models.clip_resnet import AttentionPool, Bottleneck, ClipResNet, clip_resnet, resized, shrunk
from jaxprune.models.resnet_blocks import Layers
from tests.structured import networks

TINY = clip_resnet(64, 5, 4, (1, 1, 1, 3))
IMAGE = (64, 64, 3)


def shapes(module=TINY):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), np.float32))


def randomised():
    """(params, state) in float64, none at its initial value."""
    variables = networks.random_weights(shapes(), seed=0)
    return variables.pop("params"), variables


def images(count=3):
    return np.random.default_rng(1).normal(size=(count, *IMAGE))


def test_clip_resnet_has_the_published_number_of_parameters():
    # The whole of RN50 has 102,007,137, its text tower 63,690,241.
    module = clip_resnet()
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    assert tree.size(variables["params"]) == 38_316_896
    assert variables["params"]["pool"]["position"].shape == (50, 2048)
    assert variables["params"]["head"]["kernel"].shape == (2048, 1024)


def test_attention_pool_equals_its_definition():
    module, x = AttentionPool(3), np.random.default_rng(0).normal(size=(2, 2, 3, 6))
    template = jax.eval_shape(module.init, jax.random.key(0), x)
    params = networks.random_weights(template, seed=1)["params"]
    found = jax.jit(module.apply)({"params": params}, x)
    for image, mixed in zip(x, found, strict=True):
        positions = image.reshape(6, 6)
        tokens = np.stack([positions.mean(0), *positions]) + params["position"]
        query, key, value = (
            tokens @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "key", "value")
        )
        for head in (slice(0, 3), slice(3, 6)):
            weights = np.exp(key[:, head] @ query[0, head] / np.sqrt(3))
            np.testing.assert_allclose(mixed[head], weights / weights.sum() @ value[:, head], rtol=1e-10)


def test_bottleneck_strides_are_means():
    # With 1x1 kernels at the middle of the 3x3 one, and norms that do nothing, a block is these two lines.
    block, x = (
        Bottleneck(4, (2, 2), 2, "block", Layers(False, False)),
        np.random.default_rng(0).normal(size=(1, 4, 6, 3)),
    )
    template = jax.eval_shape(block.init, jax.random.key(0), x)
    params = networks.random_weights(template["params"], seed=2)
    stats = tree.map_named(lambda name, leaf: np.full(leaf.shape, 1.0 * name.endswith("var")), template["batch_stats"])
    params = tree.map_named(
        lambda name, leaf: np.full(leaf.shape, np.sqrt(1 + 1e-5)) if name.endswith("scale") else leaf, params
    )
    params = tree.map_named(lambda name, leaf: np.zeros(leaf.shape) if name.endswith("bias") else leaf, params)
    params["conv2"]["kernel"] = np.where(np.arange(9).reshape(3, 3, 1, 1) == 4, params["conv2"]["kernel"], 0)

    def mean(values):
        return values.reshape(1, 2, 2, 3, 2, -1).mean((2, 4))

    kernel = {
        name: params[name]["kernel"][1 if name == "conv2" else 0, 1 if name == "conv2" else 0]
        for name in ("conv1", "conv2", "conv3", "projection")
    }
    units = np.maximum(np.maximum(x @ kernel["conv1"], 0) @ kernel["conv2"], 0)
    expected = np.maximum(mean(units) @ kernel["conv3"] + mean(x) @ kernel["projection"], 0)
    found = jax.jit(block.apply)({"params": params, "batch_stats": stats}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_clip_resnet_tags_every_value_by_its_place():
    network = TINY.network(*randomised())
    sites = jp.sites.tags(network, images(2))
    values = jax.eval_shape(lambda network, batch: jp.sites.read(network, batch, sites), network, images(2))
    found = dict(zip(sites, (value.shape for value in values), strict=True))
    assert found["stage1/block0"] == (2, 16, 16, 16)
    # The second units still have the resolution of the block's input.
    assert found["stage2/block0/units2"] == (2, 16, 16, 8)
    assert found["stage2/block0/branch"] == (2, 8, 8, 32)
    assert found["pool/attention"] == (2, 2, 1, 5)
    assert found["pool/heads"] == (2, 2, 64)
    assert found["features"] == (2, 128)
    assert len(found) == 4 * 6 + 3


def test_described_reads_what_describe_wrote_whatever_was_removed():
    assert isinstance(TINY, jp.structured.Specification)
    for seed in range(4):
        left = TINY.without(networks.random_gates(TINY.groups(), seed))
        assert left != TINY
        again = ClipResNet.described(json.loads(json.dumps(left.describe())))
        assert again == left
        assert hash(again) == hash(left)
    assert TINY.depths == (1, 1, 1, 3)
    assert list(TINY.describe()) == ["family", "classes", "width", "image", "blocks"]


def test_groups_have_leaves_of_the_network_as_members():
    variables = shapes()
    params = variables.pop("params")
    leaves = tree.by_name(params) | tree.by_name(variables)
    for group in TINY.groups():
        for member in group.members:
            if member.axis is None:
                assert any(leaf.startswith(f"{member.leaf}/") for leaf in leaves)
            else:
                assert leaves[member.leaf].shape[member.axis] == group.size


def test_clip_resnet_computes_when_smaller_what_it_computed_gated():
    params, state = randomised()
    gates = networks.random_gates(TINY.groups(), seed=3)
    off = jp.structured.gated(TINY.network(params, state), TINY.groups(), gates)
    left, fewer, rest = jp.structured.remove(TINY, params, state, gates)
    assert tree.size(fewer) < tree.size(params)
    expected = networks.evaluate(off, images())
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(networks.evaluate(left.network(fewer, rest), images()), expected, rtol=1e-9)


def test_clip_resnet_survives_the_disk_when_compacted(tmp_path):
    left, params, state = jp.structured.remove(TINY, *randomised(), networks.random_gates(TINY.groups(), 5))
    jp.structured.save(tmp_path, left, params, state, IMAGE)
    found, network = jp.structured.load(tmp_path, ClipResNet.described)
    assert found == left
    jax.tree.map(np.testing.assert_array_equal, (network.params, network.state), (params, state))


def test_clip_resnet_changes_every_statistic_in_training():
    params, state = randomised()
    _, updated = jax.jit(lambda v, x: TINY.apply(v, x, train=True, mutable=["batch_stats"]))(
        {"params": params, **state}, images()
    )
    for before, after in zip(*map(jax.tree.leaves, (state, updated)), strict=True):
        assert np.all(before != after)


def test_clip_resnet_without_a_projection_answers_its_features():
    params, state = randomised()
    (features,) = jp.sites.read_jit(TINY.network(params, state), images(), sites=("features",))
    headless = TINY.clone(classes=0)
    params = {name: part for name, part in params.items() if name != "head"}
    assert tree.names(shapes(headless)["params"]) == tree.names(params)
    np.testing.assert_allclose(networks.evaluate(headless.network(params, state), images()), features, rtol=1e-12)


@pytest.mark.parametrize("image", [32, 64, 160])
def test_resized_resamples_positions_as_those_of_a_transformer(image):
    # The same grid of two by two in both, with one token before it; the transformer's is compared with PyTorch's.
    params, _ = randomised()
    larger, changed = resized(TINY, params, image)
    transformer = jp.models.vit(patch=32, image=64, width=128, heads=2, depth=1)
    _, expected = jp.models.resized(transformer, {"position": params["pool"]["position"]}, image, "timm")
    np.testing.assert_array_equal(changed["pool"]["position"], expected["position"])
    assert larger == TINY.clone(image=image)
    batch = jax.ShapeDtypeStruct((2, image, image, 3), np.float32)
    assert jax.eval_shape(larger.network(changed, randomised()[1]), batch).shape == (2, 5)


def test_resized_refuses_a_size_that_no_pool_halves():
    with pytest.raises(ValueError, match=r"image: expected a multiple of 32 pixels, but got 100. Take 128"):
        resized(TINY, randomised()[0], 100)


def test_shrunk_leaves_out_what_is_left_over():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(shrunk(x, 2)[0, :, :, 0], [[3.0, 5.0]])
    assert shrunk(x, 1) is x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": 97}, r"image: expected a multiple of 32 pixels, but got 97. Take 128"),
        ({"image": 0}, r"image: expected a whole number of 1 or more, but got 0"),
        ({"width": 5}, r"width: expected an even number, but got 5. Take 6"),
        ({"classes": -1}, r"classes: expected a whole number of 0 or more, but got -1"),
        ({"depths": (1, 1)}, r"depths: expected four stages, but got \(1, 1\)"),
        ({"depths": (1, 1, 0, 1)}, r"depths\[2\]: expected a whole number of 1 or more, but got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_clip_resnet_refuses_bad_arguments_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        clip_resnet(**options)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 32, 32, 3), (1, 64, 96, 3)])
def test_clip_resnet_refuses_bad_images_with_a_remedy(shape):
    with pytest.raises(ValueError, match=r"images: expected \[b, 64, 64, c\], but got the shape"):
        TINY.init(jax.random.key(0), jnp.ones(shape))
