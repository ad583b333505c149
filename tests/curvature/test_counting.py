"""What is counted of single operations, of whole programs, and beside what the compiler counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.curvature import blocks, counting, products, routes
from jaxprune.curvature.compiled import compile_only
from jaxprune.curvature.counting import BYTE, CONVOLUTION, GROUPED, SCALAR, TILE, count, count_only
from jaxprune.sites.operations import nonzero
from tests.curvature import networks

LOSS = jp.losses.cross_entropy


def shape(*extents):
    return jax.ShapeDtypeStruct(extents, "float32")


def counted(function, *arguments):
    return count(jax.make_jaxpr(function)(*arguments))


def moved(*shapes):
    return 4 * BYTE * sum(int(np.prod(each)) for each in shapes)


def conv(x, kernel, stride=1, padding="SAME", groups=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=groups
    )


def by_image(x, kernel, **options):
    """The gradient of a convolution by its input, from a cotangent."""
    made = jax.eval_shape(lambda x, w: conv(x, w, **options), x, kernel)
    return lambda kernel, d: jax.linear_transpose(lambda x: conv(x, kernel, **options), x)(d)[0], made


def by_kernel(x, kernel, **options):
    made = jax.eval_shape(lambda x, w: conv(x, w, **options), x, kernel)
    return lambda x, d: jax.linear_transpose(lambda w: conv(x, w, **options), kernel)(d)[0], made


def last(function, *arguments):
    """The last convolution of a function: its parameters, and the shapes of what goes in and comes out."""
    equations = jax.make_jaxpr(function)(*arguments).eqns
    found = [each for each in equations if each.primitive.name == "conv_general_dilated"][-1]
    return found.params, [each.aval for each in found.invars], [each.aval for each in found.outvars]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_nonzero_is_the_same_of_a_convolution_and_of_its_gradients(stride, padding):
    x, kernel = shape(2, 7, 6, 5), shape(3, 2, 5, 4)
    options = {"stride": stride, "padding": padding}
    # Every pair of an input and an output that meet is one multiplication of ones.
    meetings = conv(jnp.ones((1, 7, 6, 1)), jnp.ones((3, 2, 1, 1)), **options).sum()
    expected = 2 * 5 * 4 * int(meetings)
    assert nonzero(*last(lambda x, w: conv(x, w, **options), x, kernel)) == expected
    function, made = by_image(x, kernel, **options)
    assert nonzero(*last(function, kernel, made)) == expected
    function, made = by_kernel(x, kernel, **options)
    assert nonzero(*last(function, x, made)) == expected


def test_product_weighs_narrow_ones_as_much_as_a_tile():
    for rows, inner, columns in [(32, 64, 16), (32, 64, 4), (8, 64, 4), (3, 2, 4)]:
        weight = min(SCALAR, np.prod([max(1, TILE / extent) for extent in (rows, inner, columns)]))
        expected = rows * inner * columns * weight + moved((rows, inner), (inner, columns), (rows, columns))
        assert counted(jnp.matmul, shape(rows, inner), shape(inner, columns)).operations == pytest.approx(expected)
    batched = counted(jnp.matmul, shape(5, 32, 64), shape(5, 64, 16)).operations
    assert batched == pytest.approx(5 * counted(jnp.matmul, shape(32, 64), shape(64, 16)).operations)


def test_product_of_a_convolution_and_its_gradients():
    x, kernel = shape(4, 16, 16, 32), shape(2, 2, 32, 64)
    options = {"stride": 2, "padding": "VALID"}
    expected = CONVOLUTION * 4 * 8 * 8 * 64 * 4 * 32 + moved(x.shape, kernel.shape, (4, 8, 8, 64))
    assert counted(lambda x, w: conv(x, w, **options), x, kernel).operations == expected
    function, made = by_kernel(x, kernel, **options)
    assert counted(function, x, made).operations == pytest.approx(expected, rel=0.2)  # its result is transposed
    function, made = by_image(x, kernel, **options)
    assert counted(function, kernel, made).operations == pytest.approx(expected, rel=0.2)


def test_product_of_groups():
    x = shape(4, 16, 16, 32)
    for groups in (2, 32):
        wide = 32 // groups
        kernel = shape(3, 3, wide, 32)
        weight = max(1, TILE / wide) * max(1, TILE / (9 * wide))
        expected = GROUPED * weight * 4 * 16 * 16 * 32 * 9 * wide + moved(x.shape, kernel.shape, x.shape)
        got = counted(lambda x, w, g=groups: conv(x, w, groups=g), x, kernel).operations
        assert got == pytest.approx(expected)
    function, made = by_kernel(x, shape(3, 3, 16, 32), groups=2)
    params, needs, makes = last(function, x, made)
    together = counting.product("conv_general_dilated", params, needs, makes)
    assert together == GROUPED * 2**2 * 9 * 16 * 32 * 4 * 16 * 16


def test_count_multiplies_scans_by_their_length():
    x = shape(32, 32)

    def times(length):
        return counted(lambda x: lax.scan(lambda c, _: (c @ c, None), x, None, length=length)[0], x).operations

    assert times(7) == 7 * times(1) == 7 * counted(lambda x: x @ x, x).operations
    loop = counted(lambda x: lax.fori_loop(0, 7, lambda _, c: c @ c, x), x).operations
    assert loop == pytest.approx(times(7), rel=0.01)
    branches = counted(lambda x: lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x), x).operations
    assert branches == pytest.approx(times(1), rel=0.1)


def test_count_leaves_out_what_nothing_needs_what_is_repeated_and_what_does_nothing():
    x = shape(32, 32)
    once = counted(lambda x: x @ x, x)

    def unneeded(x):
        jnp.tanh(x @ x.T).sum()
        return x @ x

    def repeated(x):
        return jax.jit(lambda x: x @ x)(x), jax.checkpoint(lambda x: x @ x)(x).reshape(32, 32)

    def nothing(x):
        return ((x * 1) @ (x + jnp.zeros_like(x)) - 0.0).reshape(4, 8, 32)

    for function in (unneeded, repeated, nothing):
        assert counted(function, x).operations == once.operations
        assert counted(function, x).bytes == once.bytes == 4 * 32 * 32


def test_count_fuses_what_is_elementwise():
    x = shape(64, 64)
    # Three numbers each, read once and written once.
    chain = counted(lambda x: jnp.tanh(x * 2) + 1, x)
    assert chain.operations == 3 * 64 * 64 + moved((64, 64), (64, 64))
    assert chain.bytes == 4 * 64 * 64
    # The sum takes no memory for what it sums; the product does.
    assert counted(lambda x: jnp.sum(x * 2), x).bytes == 4
    assert counted(lambda x: (x * 2) @ jnp.ones((64, 1)), x).bytes >= 4 * 64 * 64


def test_count_takes_a_sum_one_by_one():
    def add(x, ways):
        total = jnp.zeros((64, 64))
        for place in range(8):
            total += x @ ways[place]
        return total

    assert counted(add, shape(64, 64), shape(8, 64, 64)).bytes <= 4 * 4 * 64 * 64


def test_count_only_remembers_by_shapes_and_takes_arrays_or_shapes():
    program = jax.jit(lambda x, times: jnp.tanh(x) * times, static_argnames="times")
    first = count_only(program, (np.ones((3, 4), "float32"),), {"times": 2})
    assert count_only(program, (shape(3, 4),), {"times": 2}) is first
    assert count_only(program, (shape(4, 4),), {"times": 2}) is not first
    assert first.bytes == 48


def test_count_only_counts_of_what_devices_keep_the_part_of_one():
    placement = jp.mesh.Placement(jp.mesh.make())
    weights, images = shape(32, 32), shape(16, 32)

    def kept(weights, images):  # what is known before it runs, and what is made of the images
        def of_part(whole, split, _):
            return (), (jnp.zeros((64, 64), split.dtype), split @ whole)

        return jp.mesh.each_shard(of_part, placement, weights, images)[1]

    assert jax.eval_shape(kept, weights, images)[0].shape == (8, 64, 64)
    assert count_only(jax.jit(kept), (weights, images), {}).results == 4 * (64 * 64 + 2 * 32)


def tasks(network, batch, matrix):
    request = blocks.request(network, LOSS, batch, matrix, "unit", None)
    found = [*routes.diagonal_tasks(request), *routes.product_tasks(request, request.network.params)]
    layers = blocks.request(network, LOSS, batch, matrix, "layer", None)
    found += routes.product_tasks(layers, network.params)
    return request, [task for task in found if task.route != routes.NOTHING]


@pytest.mark.parametrize("name", ["attention", "batch_norm"])
def test_count_only_agrees_with_the_compiler_within_a_factor_of_two(name):
    net = networks.build(name)
    request, found = tasks(net.network, net.batch, "ggn")
    arguments, options = (request.network, request.batch), {"loss": LOSS}
    units = [take(products._gradient, arguments, options) for take in (count_only, compile_only)]
    products_of_all = [
        [(1, found.operations, found.bytes) for found in (count_only(*program), compile_only(*program))]
        for program in (
            (each, (*arguments, request.network.params), options) for each in (products._hvp, products._ggnvp)
        )
    ]
    for (_, ours, our_bytes), (_, theirs, their_bytes) in [
        *products_of_all,
        *([task.cost(count_only), task.cost(compile_only)] for task in found),
    ]:
        assert 0.5 < ours / units[0].operations * units[1].operations / theirs < 2
        assert 0.5 < our_bytes / their_bytes < 2


def test_count_only_of_a_depthwise_network_is_no_cheaper_than_its_loops():
    params = {"deep": jnp.ones((3, 3, 1, 32)), "point": jnp.ones((1, 1, 32, 32)), "head": jnp.ones((32, 10))}

    def apply(p, _, x):
        x = jax.nn.relu(conv(jax.nn.relu(conv(x, p["deep"], groups=32)), p["point"]))
        return x.mean((1, 2)) @ p["head"]

    batch = {"image": np.ones((4, 16, 16, 32)), "label": np.zeros(4, int)}
    network = jp.Network(apply, params)
    program, arguments = products._gradient, (network, batch)
    loops = GROUPED * (TILE / 1) * (TILE / 9) * 4 * 16 * 16 * 9 * 32
    got = count_only(program, arguments, {"loss": LOSS})
    assert 2 * loops < got.operations < 3 * loops
    assert 0.5 < got.bytes / compile_only(program, arguments, {"loss": LOSS}).bytes < 2
