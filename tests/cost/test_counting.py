"""Counted operations and parameters: published constants, hand formulas, brute force, products nested in every way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import cost

IMAGE = (2, 2, 3)  # twelve numbers
SQUARE = {"w": np.ones((12, 12))}
ONE = 12 * 12


def shapes(module, image_shape):
    """The network of a linen module, of shapes only: nothing is computed."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jp.Network.from_linen(module, jax.eval_shape(module.init, jax.random.key(0), image))


def flat(function, params=SQUARE):
    """A network ``function(w, x)`` on flattened images."""
    return jp.Network(lambda p, s, images: function(p["w"], images.reshape(len(images), -1)), params)


# That of ResNet-110 is in tests/structured/test_accounting.py.
@pytest.mark.parametrize(("depth", "macs"), [(32, 69_124_736), (44, 97_436_288), (56, 125_747_840)])
def test_macs_of_cifar_resnets_are_those_published(depth, macs):
    assert cost.macs(shapes(jp.models.resnet_cifar(depth), (32, 32, 3)), (32, 32, 3)) == macs


def test_macs_of_resnet_50_are_what_its_description_says():
    """Bottlenecks 1x1, 3x3, 1x1 with the stride in the 3x3 (v1.5), a projection in the first of every stage."""
    expected = 112 * 112 * 64 * 7 * 7 * 3 + 2048 * 1000
    size, entering = 56, 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            expected += size**2 * entering * width
            size //= stride
            expected += size**2 * (9 * width * width + width * 4 * width)
            expected += size**2 * entering * 4 * width if block == 0 else 0
            entering = 4 * width
    assert cost.macs(shapes(jp.models.resnet(50), (224, 224, 3)), (224, 224, 3)) == expected == 4_089_184_256


def test_macs_of_a_vit_are_its_kernels_and_its_attention():
    network = shapes(jp.models.vit(size="s", patch=16, image=224, classes=1000), (224, 224, 3))
    tokens, width, depth = 197, 384, 12
    attention = depth * 2 * tokens**2 * width
    kernels = 196 * 16 * 16 * 3 * width + depth * tokens * (4 + 8) * width**2 + width * 1000
    by_leaf, rest = cost.macs_by_leaf(network, (224, 224, 3))
    assert rest == attention
    assert sum(by_leaf.values()) == kernels
    assert cost.macs(network, (224, 224, 3)) == kernels + attention
    assert by_leaf["block0/mlp/hidden/kernel"] == tokens * width * 4 * width
    assert by_leaf["block0/mlp/hidden/bias"] == 0
    assert list(by_leaf) == jp.tree.names(network.params)


@pytest.mark.parametrize(
    ("groups", "strides", "dilation"), [(1, (1, 1), (1, 1)), (2, (2, 1), (1, 2)), (4, (2, 2), (2, 1))]
)
def test_macs_of_convolutions_are_the_pairs_of_output_and_weight(groups, strides, dilation):
    def convolve(kernel, images):
        return lax.conv_general_dilated(
            images,
            kernel,
            strides,
            "VALID",
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    kernel = np.ones((3, 2, 4 // groups, 8))
    pairs = jax.jacobian(convolve)(
        kernel, np.ones((1, 7, 6, 4))
    )  # an entry is the input that meets the weight, or zero
    network = jp.Network(lambda p, s, x: convolve(p["kernel"], x).reshape(len(x), -1), {"kernel": kernel})
    assert cost.macs(network, (7, 6, 4)) == np.count_nonzero(pairs)
    assert cost.macs_by_leaf(network, (7, 6, 4)) == ({"kernel": np.count_nonzero(pairs)}, 0)


def test_macs_count_products_with_padding():
    def apply(params, state, images):
        return lax.conv(images, params["w"], (1, 1), "SAME").reshape(len(images), -1)

    assert cost.macs(jp.Network(apply, {"w": np.ones((5, 4, 3, 3))}), (4, 6, 6)) == 6 * 6 * 5 * 9 * 4


def test_macs_by_leaf_counts_batched_products_once_for_every_member():
    def apply(params, state, images):
        heads = images.reshape(len(images), 2, 3, 2)
        return jnp.einsum("bhqd,bhkd->bhqk", heads, heads).reshape(len(images), -1) + params["b"]

    network = jp.Network(apply, {"b": np.ones(18)})
    assert cost.macs_by_leaf(network, IMAGE) == ({"b": 0}, 2 * 3 * 3 * 2)


@jax.custom_jvp
def _with_tangent(w, x):
    return x @ w


_with_tangent.defjvp(lambda primals, tangents: (_with_tangent(*primals), tangents[1] @ primals[0]))


@jax.custom_vjp
def _with_cotangent(w, x):
    return x @ w


_with_cotangent.defvjp(lambda w, x: (x @ w, (w, x)), lambda kept, g: (kept[1].T @ g, g @ kept[0].T))


def _scan(w, x):
    return lax.scan(lambda carry, _: (carry @ w, None), x, None, length=5)[0]


def _nested_scan(w, x):
    return lax.scan(lambda carry, _: (jax.jit(_scan)(w, carry), None), x, None, length=3)[0]


def _stacked(w, x):
    # Constants, a carry, slices and stacked outputs, of other shapes each.
    return lax.scan(lambda carry, scale: (carry @ w, scale * (carry @ w)), x[0], jnp.arange(2.0))[1].sum(
        0, keepdims=True
    )


def _passed_on(w, x):
    # The output is what the other carry was a turn before: the product counts, though its own carry is not returned.
    return lax.scan(lambda carry, _: ((carry[1], carry[0] @ w), None), (x, x), None, length=4)[0][0]


NESTED = {
    "jit": (lambda w, x: jax.jit(jnp.matmul)(x, w), 1),
    "remat": (lambda w, x: jax.checkpoint(jnp.matmul)(x, w), 1),
    "a rule for tangents": (_with_tangent, 1),
    "a rule for cotangents": (_with_cotangent, 1),
    "vmap": (lambda w, x: jax.vmap(lambda row: row @ w)(x), 1),
    "scan": (_scan, 5),
    "scan in a scan": (_nested_scan, 15),
    "scan that stacks": (_stacked, 4),
    "scan that passes on": (_passed_on, 4),
    "scan that never turns": (lambda w, x: lax.scan(lambda c, _: (c @ w, None), x @ w, None, length=0)[0], 1),
    "fori_loop": (lambda w, x: lax.fori_loop(0, 7, lambda _, y: y @ w, x), 7),
    "map": (lambda w, x: lax.map(lambda scale: scale * x @ w, jnp.arange(3.0)).sum(0), 3),
    "cond": (lambda w, x: lax.cond(x.sum() > 0, lambda y: y @ w @ w, lambda y: y @ w, x), 2),
    "switch": (lambda w, x: lax.switch(x.sum().astype(int), [lambda y: y, lambda y: y @ w, lambda y: y * 2], x), 1),
}


@pytest.mark.parametrize("name", NESTED)
def test_macs_count_products_wherever_they_are_nested(name):
    function, times = NESTED[name]
    assert cost.macs(flat(function), IMAGE) == times * ONE


def _dead_carry(w, x):
    return lax.scan(lambda carry, _: ((carry[0] + 1, carry[1] @ w), None), (x, x), None, length=4)[0][0]


def _dead_stack(w, x):
    return lax.scan(lambda carry, _: (carry + 1, carry @ w), x, None, length=4)[0]


DEAD = {
    "outside": lambda w, x: (x @ w, x)[1],
    "in jit": lambda w, x: jax.jit(lambda y: (y @ w, y))(x)[1],
    "in a carry": _dead_carry,
    "in what is stacked": _dead_stack,
    "in a branch": lambda w, x: lax.cond(x.sum() > 0, lambda y: (y @ w, y), lambda y: (y @ w @ w, 2 * y), x)[1],
    "in a while loop": lambda w, x: (lax.while_loop(lambda y: y.sum() < 1, lambda y: y @ w, x), x)[1],
}


@pytest.mark.parametrize("name", DEAD)
def test_macs_do_not_count_what_the_outputs_do_not_depend_on(name):
    assert cost.macs(flat(DEAD[name]), IMAGE) == 0


def test_macs_count_nothing_for_a_while_loop_without_products():
    halve = lambda y: lax.while_loop(lambda z: z.sum() > 1, lambda z: z / 2, y)  # noqa: E731
    assert cost.macs(flat(lambda w, x: halve(x) @ w), IMAGE) == ONE


@pytest.mark.parametrize("place", ["while", "jit", "scan"])
def test_macs_refuse_a_while_loop_with_products(place):
    loop = lambda w, x: lax.while_loop(lambda y: y.sum() < 1, lambda y: jax.jit(jnp.matmul)(y, w), x)  # noqa: E731
    around = {"while": loop, "jit": jax.jit(loop), "scan": lambda w, x: lax.map(lambda y: loop(w, y[None])[0], x)}
    with pytest.raises(ValueError, match=r"network\.apply: .* products in a while loop.*jax\.lax\.scan"):
        cost.macs(flat(around[place]), IMAGE)


def test_macs_refuse_what_cannot_be_looked_into():
    sizes = np.array([1])
    ragged = flat(lambda w, x: lax.ragged_dot(x, w[None], sizes))
    with pytest.raises(ValueError, match=r"network\.apply: .*depend on 'ragged_dot_general'"):
        cost.macs(ragged, IMAGE)
    outside = flat(lambda w, x: jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x))
    with pytest.raises(ValueError, match="depend on 'pure_callback'"):
        cost.macs_by_leaf(outside, IMAGE)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda w, x: jax.nn.relu(x @ w) @ w, 2),
        (_scan, 5),
        (lambda w, x: x @ (w - w.mean(0)), 1),
        (lambda w, x: x @ w @ np.ones((12, 12)), 1),
    ],
    ids=["tied", "in a loop", "standardised", "a constant"],
)
def test_macs_by_leaf_leaves_over_what_no_leaf_takes_alone(function, left):
    by_leaf, rest = cost.macs_by_leaf(flat(function), IMAGE)
    assert rest == left * ONE
    assert by_leaf["w"] + rest == cost.macs(flat(function), IMAGE)


def test_macs_by_leaf_gives_every_leaf_its_own_and_together_all():
    network = shapes(jp.models.resnet_cifar(8), (16, 16, 3))
    by_leaf, rest = cost.macs_by_leaf(network, (16, 16, 3))
    assert rest == 0
    assert sum(by_leaf.values()) == cost.macs(network, (16, 16, 3))
    leaves = jp.tree.by_name(network.params)
    for name, taken in by_leaf.items():
        # A weight meets every position of the image that its convolution makes: 16, 8 or 4 on a side; a head just one.
        positions = {1: (0,), 2: (1,), 4: (16**2, 8**2, 4**2)}[len(leaves[name].shape)]
        assert taken in [positions_of_one * np.prod(leaves[name].shape) for positions_of_one in positions]


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_macs_take_images_of_the_type_of_the_parameters(kind):
    def apply(params, state, images):
        return lax.conv(images, params["w"], (1, 1), "VALID").reshape(len(images), -1)  # refuses mixed types

    network = jp.Network(apply, {"w": jax.ShapeDtypeStruct((5, 2, 1, 1), kind)})
    assert cost.macs(network, (2, 3, 3)) == 3 * 3 * 5 * 2


def test_parameters_are_counted_and_the_state_where_asked():
    assert cost.parameters(shapes(jp.models.resnet(18), (224, 224, 3))) == 11_689_512
    network = jp.Network(
        lambda p, s, x: x, [{"w": np.ones((3, 3, 2, 4))}, np.ones(4), np.float64(1)], {"mean": np.ones(7)}
    )
    assert cost.parameters(network) == 72 + 4 + 1
    assert cost.parameters(network, state=True) == 72 + 4 + 1 + 7


def test_parameters_with_the_state_are_two_numbers_more_for_every_scale():
    network = shapes(jp.models.resnet_cifar(20), (32, 32, 3))
    scales = sum(leaf.size for name, leaf in jp.tree.by_name(network.params).items() if name.endswith("/scale"))
    assert scales > 0
    assert cost.parameters(network, state=True) - cost.parameters(network) == 2 * scales


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32, 3), (32, 0, 3), (32, 32, -3)])
def test_macs_name_a_shape_that_is_not_of_one_image(shape):
    with pytest.raises(ValueError, match=r"image_shape: expected \(h, w, c\).*images\.shape\[1:\]"):
        cost.macs(flat(lambda w, x: x @ w), shape)
