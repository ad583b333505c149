import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxprune import tree
from jaxprune.models import efficientnet_lite, resized, resnet, resnet_cifar, swin_v2, vit
from jaxprune.models.efficientnet import EfficientNetLite, StageShape
from jaxprune.models.efficientnet_blocks import BlockShape
from jaxprune.models.resnet import ResNet, full_blocks
from jaxprune.models.resnet_blocks import Basic, Bottleneck, Layers, Stem

# One of every kind, small enough to run.
TINY = {
    "cifar": (resnet_cifar(8, classes=3, width=2), (8, 8, 3)),
    "basic": (resnet(18, classes=3, width=2), (32, 32, 3)),
    "bottleneck": (resnet(50, classes=3, width=2), (32, 32, 3)),
    "inverted": (
        EfficientNetLite(
            (BlockShape(1, 0, 0), BlockShape(2, 0, 8)), (StageShape(3, 3, 1), StageShape(4, 5, 2)), 3, 4, 6
        ),
        (8, 8, 3),
    ),
    "vit": (vit(patch=4, image=8, classes=3, width=8, heads=2, depth=2), (8, 8, 3)),
    "swin": (swin_v2(patch=2, window=2, depths=(2, 1), classes=3, width=4, heads=(1, 2)), (8, 8, 3)),
}
tiny = pytest.mark.parametrize("kind", TINY)


def shapes(module, image):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), jnp.float32))


def randomised(module, image):
    """Variables in float64, none at its initial value, variances positive."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        values = rng.normal(size=leaf.shape)
        return 0.5 + np.abs(values) if name.endswith("/var") else values / np.sqrt(max(1, np.prod(leaf.shape[:-1])))

    return jax.tree.map(jnp.asarray, tree.map_named(draw, shapes(module, image)))


def images(count, image):
    return np.random.default_rng(1).normal(size=(count, *image))


def tags(module, image, batch=2):
    """The shape of every tagged value, found in the program."""
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "name":
                found.append((equation.params["name"], equation.outvars[0].aval.shape))
            for inner in equation.params.values():
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    walk(inner)

    variables = shapes(module, image)
    walk(jax.make_jaxpr(module.apply)(variables, jax.ShapeDtypeStruct((batch, *image), jnp.float32)).jaxpr)
    assert len(dict(found)) == len(found)
    return dict(found)


# The published counts of CIFAR ResNets are without projections; these add two, 16 x 32 + 64 and 32 x 64 + 128.
PROJECTIONS = 576 + 2176


@pytest.mark.parametrize(
    ("module", "image", "count"),
    [
        (resnet_cifar(20), (32, 32, 3), 272_474),
        (resnet_cifar(32), (32, 32, 3), 464_154 + PROJECTIONS),
        (resnet_cifar(56), (32, 32, 3), 853_018 + PROJECTIONS),
        (resnet_cifar(110), (32, 32, 3), 1_727_962 + PROJECTIONS),
        (resnet(18), (224, 224, 3), 11_689_512),
        (resnet(34), (224, 224, 3), 21_797_672),
        (resnet(50), (224, 224, 3), 25_557_032),
        (resnet(101), (224, 224, 3), 44_549_160),
        (vit("ti"), (224, 224, 3), 5_717_416),
        (vit("s"), (224, 224, 3), 22_050_664),
        (vit("b"), (224, 224, 3), 86_567_656),
    ],
)
def test_models_have_the_published_number_of_parameters(module, image, count):
    assert tree.size(shapes(module, image)["params"]) == count


def test_resnet_cifar_20_has_22_kernels_and_65_leaves():
    names = tree.names(shapes(resnet_cifar(20), (32, 32, 3))["params"])
    assert len(names) == 65
    assert sum(name.endswith("/kernel") for name in names) == 22


@pytest.mark.parametrize("depth", [8, 20, 44])
def test_resnet_cifar_depth_counts_the_layers_without_the_shortcuts(depth):
    names = tree.names(shapes(resnet_cifar(depth), (8, 8, 1))["params"])
    assert sum(name.endswith("/kernel") and "projection" not in name for name in names) == depth


def test_models_give_parameters_readable_names():
    cifar = tree.names(shapes(*TINY["cifar"])["params"])
    assert {"stem/conv/kernel", "stem/norm/scale", "stage1_block0/conv1/kernel", "stage1_block0/norm2/bias"} <= set(
        cifar
    )
    assert [name for name in cifar if "projection/" in name] == [
        "stage2_block0/projection/kernel",
        "stage3_block0/projection/kernel",
    ]
    assert [name for name in cifar if "head" in name] == ["head/bias", "head/kernel"]
    block = [
        name for name in tree.names(shapes(*TINY["vit"])["params"]) if name.startswith("block0/") and "norm" not in name
    ]
    dense = ["attention/key", "attention/output", "attention/query", "attention/value", "mlp/hidden", "mlp/output"]
    assert block == [f"block0/{layer}/{leaf}" for layer in dense for leaf in ("bias", "kernel")]


def test_vit_kernels_but_the_embedding_have_two_axes():
    params = shapes(*TINY["vit"])["params"]
    kernels = {
        name: leaf.ndim
        for name, leaf in zip(tree.names(params), jax.tree.leaves(params), strict=True)
        if "kernel" in name
    }
    assert kernels.pop("embed/kernel") == 4
    assert set(kernels.values()) == {2}


def test_resnet_cifar_tags_the_values_of_basic_blocks():
    found = tags(*TINY["cifar"])
    assert found == {
        "stage1/block0/units1": (2, 8, 8, 2),
        "stage1/block0/branch": (2, 8, 8, 2),
        "stage1/block0": (2, 8, 8, 2),
        "stage2/block0/units1": (2, 4, 4, 4),
        "stage2/block0/branch": (2, 4, 4, 4),
        "stage2/block0": (2, 4, 4, 4),
        "stage3/block0/units1": (2, 2, 2, 8),
        "stage3/block0/branch": (2, 2, 2, 8),
        "stage3/block0": (2, 2, 2, 8),
        "features": (2, 8),
    }


def test_resnet_tags_the_values_of_bottlenecks():
    found = tags(*TINY["bottleneck"])
    assert len(found) == 4 * 16 + 1
    # The stride sits in the 3x3 convolution: the first units still have the full resolution.
    assert found["stage2/block0/units1"] == (2, 8, 8, 4)
    assert found["stage2/block0/units2"] == (2, 4, 4, 4)
    assert found["stage2/block0"] == (2, 4, 4, 16)
    assert found["features"] == (2, 64)


def test_efficientnet_lite_tags_every_value_by_its_place():
    module, image = TINY["inverted"]
    found = tags(module.clone(blocks=(*module.blocks, BlockShape(2, 1, 7))), image)
    assert found == {
        "stage1/block0/units": (2, 4, 4, 4),
        "stage1/block0": (2, 4, 4, 3),
        "stage2/block0/expanded": (2, 4, 4, 8),
        "stage2/block0/units": (2, 2, 2, 8),
        "stage2/block0": (2, 2, 2, 4),
        "stage2/block1/expanded": (2, 2, 2, 7),
        "stage2/block1/units": (2, 2, 2, 7),
        "stage2/block1/branch": (2, 2, 2, 4),
        "stage2/block1": (2, 2, 2, 4),
        "features": (2, 6),
    }


def test_vit_tags_every_value_by_its_place():
    found = tags(*TINY["vit"])
    block = {"": (2, 5, 8), "/keys": (2, 5, 2, 4), "/attention": (2, 2, 5, 5), "/units": (2, 5, 32)}
    block |= {"/heads": (2, 5, 2, 4), "/branch1": (2, 5, 8), "/branch2": (2, 5, 8)}
    expected = {f"block{index}{name}": shape for index in range(2) for name, shape in block.items()}
    assert found == expected | {"features": (2, 8)}


@tiny
def test_models_answer_a_batch_as_its_images_one_by_one(kind):
    module, image = TINY[kind]
    with jax.enable_x64(True):
        variables, batch = randomised(module, image), images(3, image)
        apply = jax.jit(module.apply)
        outputs = apply(variables, batch)
        assert outputs.dtype == jnp.float64
        assert outputs.shape == (3, 3)
        assert np.std(outputs) > 1e-3
        for output, single in zip(outputs, batch, strict=True):
            np.testing.assert_allclose(apply(variables, single[None])[0], output, rtol=1e-12, atol=1e-12)


ANY_SIZE = [
    ("cifar", (5, 7, 1)),
    ("cifar", (32, 32, 3)),
    ("basic", (40, 24, 4)),
    ("inverted", (5, 2, 1)),
    ("swin", (2, 13, 1)),
]


@pytest.mark.parametrize(("kind", "size"), ANY_SIZE)
def test_models_all_but_vit_take_any_image(kind, size):
    module, _ = TINY[kind]
    outputs = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], jnp.ones((2, *size)))
    assert outputs.shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (lambda **change: resnet_cifar(**{"depth": 20, **change}), {"width": 8}),
        (lambda **change: resnet(**{"depth": 50, **change}), {"classes": 10}),
        (lambda **change: efficientnet_lite(**{"size": "lite1", **change}), {"dropout": 0.1}),
        (lambda **change: vit(**{"size": "s", **change}), {"patch": 32}),
        (lambda **change: swin_v2(**{"depths": [2, 2], **change}), {"window": 4}),
        (lambda **change: resnet_cifar(**{"depth": 20, **change}), {"stem_stride": 2}),
    ],
)
def test_models_are_equal_for_equal_arguments(make, changed):
    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(**changed)


@pytest.mark.parametrize("large", [False, True])
def test_resnet_changes_every_statistic_in_training(large):
    module = ResNet(full_blocks((1, 1), 2, large), classes=3, width=2, bottleneck=large, large_images=large)
    variables, batch = randomised(module, (16, 16, 3)), images(4, (16, 16, 3))
    training = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))
    outputs, updated = training(variables, batch)
    assert outputs.shape == (4, 3)
    for before, after in zip(*map(jax.tree.leaves, (variables["batch_stats"], updated["batch_stats"])), strict=True):
        assert np.all(before != after)
    assert not np.allclose(outputs, jax.jit(module.apply)(variables, batch))


def test_stem_statistics_keep_nine_tenths_of_their_old_value():
    with jax.enable_x64(True):
        stem, training = (Stem(2, False, Layers(train, keras=False)) for train in (False, True))
        batch = images(4, (6, 6, 3))
        variables = jax.jit(stem.init)(jax.random.key(0), batch)
        _, updated = training.apply(variables, batch, capture_intermediates=True, mutable=True)
        convolved = np.asarray(updated["intermediates"]["conv"]["__call__"][0])
        moved = updated["batch_stats"]["norm"]
        np.testing.assert_allclose(moved["mean"], 0.1 * convolved.mean((0, 1, 2)), atol=1e-7)
        np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * convolved.var((0, 1, 2)), atol=1e-7)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_models_training_changes_nothing_in_transformers(kind):
    module, image = TINY[kind]
    variables, batch = randomised(module, image), images(2, image)
    assert list(variables) == ["params"]
    apply = jax.jit(module.apply, static_argnames="train")
    np.testing.assert_array_equal(apply(variables, batch, train=True), apply(variables, batch))


EVALUATION = Layers(train=False, keras=False)

STRIDED = {
    "stem": (Stem(1, True, EVALUATION), "conv", 7, 3),
    "small stem": (Stem(1, False, EVALUATION, 2), "conv", 3, 1),
    "conv1": (Basic(1, (1,), 2, "block", EVALUATION), "conv1", 3, 1),
    "projection": (Bottleneck(4, (1, 1), 2, "block", EVALUATION), "projection", 1, 0),
}


@pytest.mark.parametrize("layer", STRIDED)
@pytest.mark.parametrize("place", [(0, 0), (1, 0), (7, 7), (6, 7), (4, 1)])
def test_resnet_blocks_strided_convolutions_pad_the_same_on_every_side(layer, place):
    # out[i] = sum_k kernel[k] x[2 i + k - padding], so a single one at p shows kernel[p + padding - 2 i].
    block, name, size, padding = STRIDED[layer]
    impulse = np.zeros((1, 8, 8, 1))
    impulse[0, place[0], place[1], 0] = 1
    variables = jax.jit(block.init)(jax.random.key(0), impulse)
    _, seen = block.apply(variables, impulse, capture_intermediates=True, mutable=["intermediates"])
    out = seen["intermediates"][name]["__call__"][0][0, :, :, 0]
    kernel = np.asarray(variables["params"][name]["kernel"])[:, :, 0, 0]
    expected = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        row, column = place[0] + padding - 2 * i, place[1] + padding - 2 * j
        if 0 <= row < size and 0 <= column < size:
            expected[i, j] = kernel[row, column]
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 4), (3, 3)])
def test_resnet_cifar_stem_stride_divides_every_map(stride, side):
    module = resnet_cifar(8, classes=3, width=2, stem_stride=stride)
    found = tags(module, (8, 8, 3))
    assert found["stage1/block0"] == (2, side, side, 2)
    assert found["stage2/block0"] == (2, -(-side // 2), -(-side // 2), 4)
    # No weight depends on it.
    assert jax.tree.map(np.shape, shapes(module, (8, 8, 3))) == jax.tree.map(np.shape, shapes(*TINY["cifar"]))


def test_stem_max_pool_pads_the_same_on_every_side():
    # 16 pixels, 8 after the convolution, 4 after the pool, which takes the places 2 i - 1, 2 i and 2 i + 1.
    stem = Stem(1, True, EVALUATION)
    batch = images(1, (16, 16, 1))
    variables = jax.jit(stem.init)(jax.random.key(0), batch)
    out, seen = stem.apply(variables, batch, capture_intermediates=True, mutable=["intermediates"])
    before = np.maximum(seen["intermediates"]["norm"]["__call__"][0][0, :, :, 0], 0)
    padded = np.pad(before, 1, constant_values=-np.inf)
    expected = [[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(4)] for i in range(4)]
    np.testing.assert_array_equal(out[0, :, :, 0], expected)


def test_basic_without_a_change_of_shape_is_the_identity_plus_something():
    # With the last scale at zero what is left of a block is relu(x).
    with jax.enable_x64(True):
        block, x = Basic(3, (3,), 1, "block", EVALUATION), images(2, (4, 4, 3))
        params = tree.replace(jax.jit(block.init)(jax.random.key(0), x)["params"], "norm2/scale", jnp.zeros(3))
        stats = jax.jit(block.init)(jax.random.key(0), x)["batch_stats"]
        out = block.apply({"params": params, "batch_stats": stats}, x)
        np.testing.assert_array_equal(out, np.maximum(x, 0))


def oracle(params, batch, patch, heads):
    """A vision transformer in NumPy, image by image, head by head."""

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]

    def attention(layer, x):
        mixed, dim = [], x.shape[1] // heads
        for head in range(heads):
            q, k, v = (dense(layer[name], x)[:, head * dim : (head + 1) * dim] for name in ("query", "key", "value"))
            weights = np.exp(q @ k.T / np.sqrt(dim))
            mixed.append(weights / weights.sum(1, keepdims=True) @ v)
        return dense(layer["output"], np.concatenate(mixed, 1))

    def mlp(layer, x):
        hidden = dense(layer["hidden"], x)
        return dense(layer["output"], hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))))

    def forward(image):
        starts = [(i, j) for i in range(0, image.shape[0], patch) for j in range(0, image.shape[1], patch)]
        kernel = params["embed"]["kernel"].reshape(-1, params["embed"]["kernel"].shape[-1])
        patches = [image[i : i + patch, j : j + patch].ravel() @ kernel + params["embed"]["bias"] for i, j in starts]
        x = np.stack([params["class_token"], *patches]) + params["position"]
        for index in range(sum(name.startswith("block") for name in params)):
            block = params[f"block{index}"]
            x = x + attention(block["attention"], norm(block["norm1"], x))
            x = x + mlp(block["mlp"], norm(block["norm2"], x))
        return dense(params["head"], norm(params["norm"], x)[0])

    return np.stack([forward(image) for image in batch])


def test_vit_equals_its_definition():
    module, image = TINY["vit"]
    with jax.enable_x64(True):
        variables, batch = randomised(module, image), images(2, image)
        params = jax.tree.map(np.asarray, variables["params"])
        np.testing.assert_allclose(jax.jit(module.apply)(variables, batch), oracle(params, batch, 4, 2), rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet_cifar(21), r"depth: expected 6 n \+ 2 .* got 21.*Take 20 or 26"),
        (lambda: resnet_cifar(2), r"depth: .* got 2.*Take 8 or 14"),
        (lambda: resnet_cifar(8, stem_stride=0), r"stem_stride: expected a whole number of 1 or more, but got 0"),
        (lambda: resnet(20), r"depth: expected one of 18, 34, 50, 101, but got 20.*resnet_cifar"),
        (lambda: resnet(18, classes=-1), r"classes: expected a whole number of 0 or more, but got -1"),
        (lambda: vit("tiny"), r"size: unknown value 'tiny'. Did you mean 'ti'\?"),
        (lambda: vit(patch=15), r"patch: expected a divisor of image=224, but got 15. Resize the images to 225"),
        (lambda: vit(width=100), r"width: expected a multiple of heads=6, but got 100. Take 102"),
        (lambda: vit(heads=1.5), r"heads: expected a whole number of 1 or more, but got 1\.5"),
        (lambda: vit(depth=0), r"depth: expected a whole number of 1 or more, but got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_models_refuse_bad_arguments_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("cifar", (8, 8, 3), r"images: expected \[b, h, w, c\], but got the shape \(8, 8, 3\).*images\[None\]"),
        ("vit", (8, 8, 3), r"images: expected \[b, 8, 8, c\], but got the shape \(8, 8, 3\).*images\[None\]"),
        ("vit", (1, 12, 12, 3), r"images: expected \[b, 8, 8, c\], but got the shape \(1, 12, 12, 3\).*Resize"),
    ],
)
def test_models_refuse_bad_images_with_a_remedy(kind, shape, message):
    module, _ = TINY[kind]
    with pytest.raises(ValueError, match=message):
        jax.jit(module.init)(jax.random.key(0), jnp.ones(shape))


def test_resized_vit_is_the_same_function_of_equal_positions():
    module = vit(patch=8, image=32, classes=3, width=16, heads=2, depth=2)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    params = jax.jit(module.init)(jax.random.key(1), images)["params"]
    same, unchanged = resized(module, params, 32)
    assert same == module
    np.testing.assert_array_equal(unchanged["position"], params["position"])
    # Where all patches have one position, so have those of any other size; the class token keeps its own.
    token, place = params["position"][:1], params["position"][1:2]
    flat = {**params, "position": jnp.concatenate([token, jnp.repeat(place, 16, axis=0)])}
    larger, resampled = resized(module, flat, 64)
    np.testing.assert_allclose(resampled["position"][1:], jnp.repeat(place, 64, axis=0), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(resampled["position"][:1], token)
    assert larger.apply({"params": resampled}, jnp.ones((2, 64, 64, 3))).shape == (2, 3)


def test_resized_resamples_positions_row_by_row():
    module = vit(patch=8, image=32, classes=3, width=4, heads=1, depth=1)
    rows = jnp.repeat(jnp.arange(4.0), 4)[:, None] * jnp.ones(4)
    params = {"position": jnp.concatenate([jnp.zeros((1, 4)), rows])}
    _, resampled = resized(module, params, 64)
    grid = np.asarray(resampled["position"][1:]).reshape(8, 8, 4)
    np.testing.assert_allclose(np.ptp(grid, axis=1), 0, atol=1e-6)  # a row is constant
    # Inside, a cubic kernel keeps what is linear.
    np.testing.assert_allclose(np.diff(grid[3:5, 0, 0]), 0.5, atol=1e-6)
    with pytest.raises(ValueError, match=r"image: expected a multiple of the patch \(8\), but got 60. Take 64"):
        resized(module, params, 60)


@pytest.mark.usefixtures("unchecked")
def test_resized_takes_only_vision_transformers():
    for module in (resnet_cifar(8), swin_v2()):
        with pytest.raises(
            TypeError, match=f"module: expected a vision transformer, .* but got a {type(module).__name__}"
        ):
            resized(module, {}, 64)
