"""Where every parameter of a network enters: found, named, and followed to the bit, in float64."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from tests import cases
from tests.sites.oracle import compiled, normal

B = 3
VECTOR, TOKENS, IMAGE = (B, 4), (B, 3, 4), (B, 5, 6, 4)


def whole(shape, seed=0, most=4):
    """Small integers: sums and products of them are exact in every type."""
    return np.random.default_rng(seed).integers(1, most, shape) * 1.0


def flat(apply):
    return lambda params, state, images: jnp.reshape(apply(params, images), (B, -1))


def einsum(subscripts, last=lambda w: w):
    return flat(lambda p, x: jnp.einsum(subscripts, x, last(p["w"])))


def convolution(dimensions=("NHWC", "HWIO", "NHWC"), last=lambda w: w, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return flat(lambda p, x: jax.lax.conv_general_dilated(x, last(p["w"]), dimension_numbers=dimensions, **options))


def dense(last):
    return flat(lambda p, x: x @ last(p["w"]))


@jax.custom_jvp
def own_rule(x, w):
    return x @ w


own_rule.defjvp(lambda primals, tangents: (own_rule(*primals), tangents[0] @ primals[1] + primals[0] @ tangents[1]))


@jax.custom_vjp
def own_backward(x, w):
    return x @ w


own_backward.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, u: (u @ saved[1].T, saved[0].T @ u))

CONSTANT = whole((4, 6), 9)
# One leaf "w": what happens to it, the images, its shape, the kind, its units and where they are.
ONE = {
    "dense": (dense(lambda w: w), VECTOR, (4, 6), "dense", (1,), (1,)),
    "dense on tokens": (dense(lambda w: w), TOKENS, (4, 6), "dense", (1,), (2,)),
    "one output": (dense(lambda w: w), VECTOR, (4, 1), "dense", (1,), (1,)),
    "torch": (dense(lambda w: w.T), VECTOR, (6, 4), "dense", (0,), (1,)),
    "torch, contracted": (einsum("bi,oi->bo"), VECTOR, (6, 4), "dense", (0,), (1,)),
    "from the left": (flat(lambda p, x: (p["w"] @ x.T).T), VECTOR, (6, 4), "dense", (0,), (0,)),
    "float32": (dense(lambda w: w.astype(np.float32)), VECTOR, (4, 6), "dense", (1,), (1,)),
    "bfloat16 and back": (
        dense(lambda w: w.astype(jnp.bfloat16).astype(np.float32).T),
        VECTOR,
        (6, 4),
        "dense",
        (0,),
        (1,),
    ),
    "scaled": (dense(lambda w: 2 * w), VECTOR, (4, 6), "dense", (1,), (1,)),
    "negative": (dense(lambda w: -w / 2), VECTOR, (4, 6), "dense", (1,), (1,)),
    "masked": (dense(lambda w: w * (CONSTANT > 1)), VECTOR, (4, 6), "dense", (1,), (1,)),
    "scaled by column": (dense(lambda w: w * CONSTANT[0]), VECTOR, (4, 6), "dense", (1,), (1,)),
    "units merged": (dense(lambda w: w.reshape(4, 6)), VECTOR, (4, 2, 3), "dense", (1, 2), (1,)),
    "units merged, turned": (
        dense(lambda w: w.transpose(1, 2, 0).reshape(4, 6)),
        VECTOR,
        (3, 4, 2),
        "dense",
        (2, 0),
        (1,),
    ),
    "inputs merged": (dense(lambda w: w.reshape(4, 6)), VECTOR, (2, 2, 6), "dense", (2,), (1,)),
    "merged and split again": (
        einsum("bi,iho->bho", lambda w: w.reshape(24).reshape(4, 2, 3)),
        VECTOR,
        (4, 2, 3),
        "dense",
        (1, 2),
        (1, 2),
    ),
    "axes of one": (dense(lambda w: w[:, 0].reshape(1, 4, 6)[0]), VECTOR, (4, 1, 6), "dense", (2,), (1,)),
    "heads": (einsum("btd,dhk->bthk"), TOKENS, (4, 2, 3), "dense", (1, 2), (2, 3)),
    "heads back": (
        flat(lambda p, x: jnp.einsum("bthk,hkd->btd", x.reshape(B, 3, 2, 2), p["w"])),
        TOKENS,
        (2, 2, 5),
        "dense",
        (2,),
        (2,),
    ),
    "a matrix for each token": (einsum("bti,tio->bto"), TOKENS, (3, 4, 5), "dense", (0, 2), (0, 1)),
    "tokens mixed": (einsum("btd,ts->bds"), TOKENS, (3, 5), "dense", (1,), (2,)),
    "vmap": (flat(lambda p, x: jax.vmap(lambda row: row @ p["w"])(x)), VECTOR, (4, 6), "dense", (1,), (1,)),
    "jit": (flat(lambda p, x: jax.jit(jax.jit(jnp.matmul))(x, p["w"].T)), VECTOR, (6, 4), "dense", (0,), (1,)),
    "remat": (flat(lambda p, x: jax.checkpoint(jnp.matmul)(x, 2 * p["w"])), VECTOR, (4, 6), "dense", (1,), (1,)),
    "convolution": (convolution(), IMAGE, (3, 2, 4, 5), "convolution", (3,), (3,)),
    "strides": (convolution(window_strides=(2, 3)), IMAGE, (3, 3, 4, 5), "convolution", (3,), (3,)),
    "valid": (convolution(padding="VALID"), IMAGE, (3, 2, 4, 5), "convolution", (3,), (3,)),
    "explicit": (convolution(padding=[(2, 0), (1, 3)]), IMAGE, (2, 3, 4, 5), "convolution", (3,), (3,)),
    "dilated kernel": (convolution(rhs_dilation=(2, 1)), IMAGE, (2, 2, 4, 5), "convolution", (3,), (3,)),
    "dilated input": (
        convolution(lhs_dilation=(2, 2), padding=[(1, 1), (0, 1)]),
        IMAGE,
        (2, 2, 4, 5),
        "convolution",
        (3,),
        (3,),
    ),
    "groups": (convolution(feature_group_count=2), IMAGE, (3, 3, 2, 6), "convolution", (3,), (3,)),
    "depthwise": (convolution(feature_group_count=4), IMAGE, (3, 3, 1, 8), "convolution", (3,), (3,)),
    "groups merged": (
        convolution(feature_group_count=2, last=lambda w: w.reshape(3, 3, 2, 6)),
        IMAGE,
        (3, 3, 2, 2, 3),
        "convolution",
        (3, 4),
        (3,),
    ),
    "torch convolution": (
        flat(
            lambda p, x: jax.lax.conv_general_dilated(
                x.transpose(0, 3, 1, 2), p["w"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
            )
        ),
        IMAGE,
        (5, 4, 3, 3),
        "convolution",
        (0,),
        (1,),
    ),
    "convolution 1d": (
        convolution(("NWC", "WIO", "NWC"), window_strides=(2,), rhs_dilation=(2,)),
        TOKENS,
        (2, 4, 5),
        "convolution",
        (2,),
        (2,),
    ),
    "bfloat16 convolution": (
        convolution(last=lambda w: w.astype(jnp.bfloat16).astype(np.float64)),
        IMAGE,
        (3, 2, 4, 5),
        "convolution",
        (3,),
        (3,),
    ),
    "bias": (flat(lambda p, x: x + p["w"]), TOKENS, (4,), "add", (0,), (2,)),
    "bias first": (flat(lambda p, x: 2 * p["w"] + x), TOKENS, (4,), "add", (0,), (2,)),
    "subtracted": (flat(lambda p, x: x - p["w"]), TOKENS, (4,), "add", (0,), (2,)),
    "subtracted from": (flat(lambda p, x: p["w"] - x), TOKENS, (4,), "add", (0,), (2,)),
    "bias of channels": (flat(lambda p, x: x + p["w"][:, None]), TOKENS, (3,), "add", (0,), (1,)),
    "places": (flat(lambda p, x: x + p["w"]), TOKENS, (1, 3, 4), "add", (1, 2), (1, 2)),
    "a number": (flat(lambda p, x: x + p["w"]), TOKENS, (), "add", (), ()),
    "a number on a constant": (flat(lambda p, x: x + p["w"] * np.arange(4.0)), TOKENS, (), "add", (), ()),
    "scale": (flat(lambda p, x: x * p["w"]), TOKENS, (4,), "multiply", (0,), (2,)),
    "scale first": (flat(lambda p, x: -p["w"] * x), TOKENS, (4,), "multiply", (0,), (2,)),
    "numerator": (flat(lambda p, x: p["w"] / x), TOKENS, (4,), "multiply", (0,), (2,)),
    "temperature": (flat(lambda p, x: x * p["w"]), TOKENS, (), "multiply", (), ()),
    "scale of heads": (
        flat(lambda p, x: x.reshape(B, 3, 2, 2) * p["w"][:, None]),
        TOKENS,
        (2,),
        "multiply",
        (0,),
        (2,),
    ),
    "scale, merged": (flat(lambda p, x: x * p["w"].reshape(4)), TOKENS, (2, 2), "multiply", (0, 1), (2,)),
    "slope": (flat(lambda p, x: jnp.where(x > 2, x, p["w"] * x)), TOKENS, (4,), "multiply", (0,), (2,)),
}


@pytest.mark.parametrize("name", ONE)
def test_survey_finds_a_leaf_and_its_units_where_they_are_said_to_be(name):
    apply, images, shape, kind, units, outputs = ONE[name]
    images, leaf, delta = whole(images, 1), whole(shape, 2), whole(shape, 3)
    network = jp.Network(apply, {"w": leaf})
    found = jp.sites.survey(network, images)
    (site,) = found.sites.values()
    assert (found.unserved, site.path, site.kind, site.unit_axes, site.output_axes) == ({}, "w", kind, units, outputs)
    assert found.unit_axes("w", len(shape)) == tuple(sorted(units))

    # A unit: one index of the axes of units, and everything along the others.
    extents = [shape[axis] for axis in units]
    indices = list(itertools.product(*map(range, extents)))
    ones = np.zeros((len(indices), *shape))
    for at, index in enumerate(indices):
        ones[(at, *(index[units.index(axis)] if axis in units else slice(None) for axis in range(len(shape))))] = 1
    assert (ones.sum(axis=0) == 1).all()

    def every(leaf, delta, images):
        _, values = found.program.run([leaf, images], {}, keep=[site.output, *site.needs(found.program)])
        _, moved = found.program.run([leaf + delta, images], {}, keep=[site.output])
        linear = site.contribution(found.program, values)
        of_units = jax.vmap(linear)(ones * delta)
        return values[site.output], moved[site.output], linear(leaf), linear(delta), of_units

    z, moved, own, step, of_units = map(np.asarray, compiled(every, leaf, delta, images)(leaf, delta, images))
    np.testing.assert_allclose(np.float64(moved) - np.float64(z), np.float64(step), rtol=1e-12, atol=1e-12)
    if kind != "add":
        np.testing.assert_array_equal(own, z)
    rest = [axis for axis in range(1, of_units.ndim) if axis - 1 not in outputs]
    ordered = of_units.transpose(0, *(axis + 1 for axis in outputs), *rest)
    touched = (ordered.reshape(len(indices), len(indices), -1) != 0).any(axis=-1)
    np.testing.assert_array_equal(touched, np.eye(len(indices), dtype=bool))


class Everything(nn.Module):
    """Flax's own layers, one after another."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2, name="conv")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = nn.ConvTranspose(4, (2, 2), strides=(2, 2), name="up")(nn.relu(x))
        x = nn.remat(nn.Conv)(4, (3, 3), feature_group_count=2, padding="VALID", name="groups")(x)
        x = nn.Conv(8, (2, 2), feature_group_count=4, kernel_dilation=2, use_bias=False, name="depthwise")(x)
        x = nn.Dropout(0.5, deterministic=True)(nn.PReLU(name="prelu")(nn.GroupNorm(2, name="group")(x)))
        x = nn.jit(nn.Dense)(4, name="dense")(x.reshape(x.shape[0], -1, 8))
        x = x + self.param("places", nn.initializers.ones, (1, *x.shape[1:]))
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="layer")(x))
        x = nn.DenseGeneral((2, 3), name="general")(nn.RMSNorm(name="rms")(x))
        x = nn.DenseGeneral(3, axis=(-2, -1), name="back")(nn.gelu(x))
        return nn.Einsum((3, 3), "...i,io->...o", name="head")(x.mean(axis=1))


def everything():
    images = whole((B, 5, 6, 2), 1)
    shapes = jax.eval_shape(Everything().init, jax.random.key(0), images)
    leaves, structure = jax.tree.flatten(shapes)
    drawn = [0.5 + np.random.default_rng(at).random(leaf.shape) for at, leaf in enumerate(leaves)]
    return jp.Network.from_linen(Everything(), jax.tree.unflatten(structure, drawn)), images


KINDS = {"kernel": ("dense", "convolution"), "bias": ("add",), "scale": ("multiply",), "places": ("add",)}


def test_survey_finds_every_leaf_of_a_network_of_flax():
    network, images = everything()
    found = jp.sites.survey(network, images)
    assert (set(found.sites), found.unserved) == (set(jp.tree.names(network.params)), {})
    for path, site in found.sites.items():
        assert site.kind in KINDS.get(path.split("/")[-1], ("multiply",)), path
        if path.startswith("attention") and path.endswith("kernel"):
            assert site.unit_axes == ((2,) if "out" in path else (1, 2)), path
    assert found.sites["general/kernel"].unit_axes == (1, 2)
    assert found.sites["back/kernel"].unit_axes == (2,)
    assert found.outputs.shape == (B, 3)


@pytest.mark.parametrize("name", ["everything", *cases.NAMES])
def test_add_to_a_site_is_adding_to_its_leaf(name):
    network, images = (
        everything() if name == "everything" else (cases.build(name).network, cases.build(name).batch["image"])
    )
    found = jp.sites.survey(network, images)
    program, sites = found.program, list(found.sites.values())
    leaves, rest = jax.tree.leaves(network.params), jax.tree.leaves((network.state, images))
    paths = jp.tree.names(network.params)
    steps = [0.5 * normal(at, *np.shape(leaf)) for at, leaf in enumerate(leaves)]
    zeros = [np.zeros(program.avals[site.output].shape) for site in sites]

    def with_parts(leaves, parts):
        return program.run([*leaves, *rest], jp.sites.add_to(sites, parts))[0][0]

    plain = compiled(network.__call__, images)(images)
    np.testing.assert_array_equal(
        compiled(lambda leaves: program.run([*leaves, *rest], {})[0][0], leaves)(leaves), plain
    )
    # Parts that only the run knows: the compiler cannot drop them, and rounds what it merges in another order.
    run = compiled(with_parts, leaves, zeros)
    np.testing.assert_allclose(run(leaves, zeros), plain, rtol=1e-13, atol=1e-13)

    def by_parts(place, leaves, step):
        needs = [*sites[place].needs(program)]
        _, values = program.run([*leaves, *rest], {}, keep=needs)
        part = sites[place].contribution(program, values)(step)
        return with_parts(leaves, [part if at == place else zero for at, zero in enumerate(zeros)])

    chosen = [at for at, site in enumerate(sites) if at % max(1, len(sites) // 6) == 0]

    def every(leaves, steps):
        return [by_parts(at, leaves, steps[paths.index(sites[at].path)]) for at in chosen]

    for at, outputs in zip(chosen, compiled(every, leaves, steps)(leaves, steps), strict=True):
        leaf = paths.index(sites[at].path)
        changed = [
            value + step if place == leaf else value
            for place, (value, step) in enumerate(zip(leaves, steps, strict=True))
        ]
        expected = run(changed, zeros)
        # The softmax does not see what is added to every key.
        assert np.abs(expected - plain).max() > 1e-9 or sites[at].path.endswith("key/bias"), sites[at].path
        np.testing.assert_allclose(outputs, expected, rtol=1e-9, atol=1e-11, err_msg=sites[at].path)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_add_to_changes_no_bit_by_zeros(name):
    # Operation by operation: a compiler may merge them, and round otherwise.
    network, images = cases.build(name).network, cases.build(name).batch["image"]
    found = jp.sites.survey(network, images)
    sites = list(found.sites.values())
    assert len(sites) == len(jax.tree.leaves(network.params))
    parts = [jnp.zeros(found.program.avals[site.output].shape) for site in sites]
    (outputs,), _ = found.program.run(
        jax.tree.leaves((network.params, network.state, images)), jp.sites.add_to(sites, parts)
    )
    np.testing.assert_array_equal(outputs, network(images))
    (moved,), _ = found.program.run(
        jax.tree.leaves((network.params, network.state, images)), jp.sites.add_to(sites, [part + 1 for part in parts])
    )
    assert (moved != outputs).all()


def scanned(p, x):
    return jax.lax.scan(lambda value, w: (jnp.tanh(value @ w), None), x, p["w"])[0]


SQUARE = (4, 4)
UNSERVED = {
    "tied": (lambda p, x: jax.nn.relu(x @ p["w"]) @ p["w"], SQUARE, r"meets 2 operations \(tied"),
    "tied and turned": (lambda p, x: jax.nn.relu(x @ p["w"]) @ p["w"].T, (4, 6), r"meets 2 operations \(tied"),
    "tied through casts": (
        lambda p, x: x @ p["w"].astype(np.float32) + x @ p["w"].astype(jnp.bfloat16),
        SQUARE,
        "meets 2 operations",
    ),
    "squared": (lambda p, x: x @ (p["w"] * p["w"]), SQUARE, "meets 2 operations"),
    "standardised": (lambda p, x: x @ (p["w"] - p["w"].mean()), SQUARE, "meets 2 operations"),
    "penalised": (lambda p, x: x @ p["w"] + jnp.sum(p["w"] ** 2), SQUARE, "meets 2 operations"),
    "taken apart": (lambda p, x: jax.nn.relu(x @ p["w"][0]) @ p["w"][1], (2, 4, 4), "meets 2 operations"),
    "power": (lambda p, x: x @ p["w"] ** 2, SQUARE, "parameters or constants only, in integer_pow|square"),
    "reciprocal": (lambda p, x: x @ (2 / p["w"]), SQUARE, "parameters or constants only, in div"),
    "absolute": (lambda p, x: x @ jnp.abs(p["w"]), SQUARE, "parameters or constants only, in abs"),
    "no gradient": (lambda p, x: x @ jax.lax.stop_gradient(p["w"]), SQUARE, "^$"),
    "other weights": (lambda p, x: x @ (p["w"] @ p["v"]), SQUARE, "parameters or constants only, in dot_general"),
    "low rank": (lambda p, x: x @ (p["w"] + p["v"] @ p["v"]), SQUARE, "parameters or constants only, in add"),
    "scaled by weights": (lambda p, x: x @ (p["w"] * p["v"]), SQUARE, "meets 2 operations|constants only, in mul"),
    "scan": (scanned, (2, 4, 4), "enters through scan"),
    "scan over examples": (
        lambda p, x: jax.lax.scan(lambda _, row: (None, row @ p["w"]), None, x)[1],
        SQUARE,
        "enters through scan",
    ),
    "map": (lambda p, x: jax.lax.map(lambda row: row @ p["w"], x), SQUARE, "enters through scan"),
    "while": (
        lambda p, x: (
            x + jax.lax.while_loop(lambda v: v[0] < 2, lambda v: (v[0] + 1, v[1] @ p["w"]), (0, CONSTANT.T))[1][:3]
        ),
        SQUARE,
        "constants only, in while",
    ),
    "cond": (
        lambda p, x: jax.lax.cond(x.sum() > 0, lambda x: x @ p["w"], lambda x: x, x),
        SQUARE,
        "enters through cond",
    ),
    "custom_jvp": (lambda p, x: own_rule(x, p["w"]), SQUARE, "enters through custom_jvp_call"),
    "custom_vjp": (lambda p, x: own_backward(x, p["w"]), SQUARE, "enters through custom_vjp_call"),
    "custom_jvp in jit": (jax.jit(lambda p, x: own_rule(x, 2 * p["w"])), SQUARE, "enters through custom_jvp_call"),
    "copied": (
        lambda p, x: jnp.einsum("bi,bio->bo", x, jnp.broadcast_to(p["w"], (B, 4, 4))),
        SQUARE,
        "enters through dot_general, which is not",
    ),
    "repeated": (lambda p, x: x @ jnp.repeat(p["w"], 2, axis=0), (2, 4), "only, in reshape|in gather"),
    "denominator": (lambda p, x: x / p["w"], (4,), "enters through div, which is not"),
    "largest": (lambda p, x: jnp.maximum(x, p["w"]), (4,), "enters through max, which is not"),
    "token": (lambda p, x: jnp.concatenate([x, p["w"]], axis=1), (B, 2), "enters through concatenate"),
    "kernel for images": (
        lambda p, x: jax.lax.conv_general_dilated(p["w"], x[:, :, None], (1,), "VALID")[:, :, 0],
        (B, 4, 1),
        "enters through conv_general_dilated",
    ),
    "complex": (lambda p, x: jnp.real(x @ (p["w"] + 0j)), SQUARE, "constants only, in convert_element_type"),
    "empty": (lambda p, x: x + x[:, :0] @ p["w"].reshape(4, 0).T, (0, 4), "only, in reshape"),
    "output": (lambda p, x: p["w"], (B, 2), "it is an output itself"),
    "output, cast": (lambda p, x: 2 * p["w"].astype(np.float32), (B, 2), "it is an output itself"),
    "unused": (lambda p, x: x, SQUARE, "^$"),
    "used for nothing": (lambda p, x: (x @ p["w"], x)[1], SQUARE, "^$"),
    "used for a shape": (lambda p, x: x + p["w"].shape[0], SQUARE, "^$"),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_survey_names_a_leaf_that_does_not_enter_by_one_linear_operation(name):
    apply, shape, reason = UNSERVED[name]
    params = {"w": whole(shape), "v": whole(SQUARE), "served": whole((4,))}
    network = jp.Network(lambda p, state, x: apply(p, x * p["served"]), params)
    found = jp.sites.survey(network, whole(VECTOR))
    assert set(found.unserved) == {"w", "v"} | ({"served"} if name.startswith("output") else set())
    assert re.search(reason, found.unserved["w"]), found.unserved["w"]
    # What is not served needs no site, and disturbs none.
    if not name.startswith("output"):
        assert found.sites["served"].kind == "multiply"
    assert found.unit_axes("w", len(shape)) == (len(shape) - 1,)
    assert found.unit_axes("w", 0) == ()


def test_survey_names_kernels_in_a_loop_that_has_no_gradient():
    def apply(params, state, images):
        return jax.lax.while_loop(lambda v: v[0] < 2, lambda v: (v[0] + 1, v[1] @ params["w"]), (0, images))[1]

    found = jp.sites.survey(jp.Network(apply, {"w": whole(SQUARE)}), whole(VECTOR))
    assert not found.sites
    assert found.unserved["w"].startswith("it enters through while")


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"w": np.ones((4, 3)), "n": np.arange(3)}, TypeError, r"network.params: .*real.*\['n'\] is int64.*state"),
        ({"w": np.ones((4, 3), complex)}, TypeError, r"network.params: .*\['w'\] is complex128.*imaginary"),
        ({"w": np.ones((4, 3)), "n": np.array(True)}, TypeError, r"\['n'\] is bool"),
    ],
)
def test_survey_refuses_leaves_that_are_not_real_numbers(params, error, message):
    with pytest.raises(error, match=message):
        jp.sites.survey(jp.Network(lambda p, s, x: jnp.real(x @ p["w"]), params), whole(VECTOR))


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (lambda z: z[:, 0], ValueError, r"network.apply: .*\[b, c\] with b = 3 images, but got \(3,\)"),
        (lambda z: z[:, None], ValueError, r"but got \(3, 1, 6\)"),
        (lambda z: z.T, ValueError, r"b = 3 images, but got \(6, 3\)"),
        (lambda z: z.sum(), ValueError, r"but got \(\)"),
        (lambda z: (z, z), ValueError, "expected one array of outputs"),
        (lambda z: {"logits": z}, ValueError, "expected one array of outputs"),
        (lambda z: z.argmax(axis=1, keepdims=True), TypeError, "real floating-point outputs, but got int"),
        (lambda z: z + 0j, TypeError, "real floating-point outputs, but got complex"),
    ],
)
def test_survey_refuses_outputs_of_another_shape_or_type(last, error, message):
    with pytest.raises(error, match=message):
        jp.sites.survey(jp.Network(lambda p, s, x: last(x @ p["w"]), {"w": whole((4, 6))}), whole(VECTOR))


def test_survey_is_made_once_for_every_shape_and_type():
    network = jp.Network(lambda p, s, x: x @ p["w"] * s["scale"], {"w": whole((4, 6))}, {"scale": whole((6,))})
    first = jp.sites.survey(network, whole(VECTOR))
    again = network.replace(params={"w": whole((4, 6), 7)}, state={"scale": whole((6,), 8)})
    assert jp.sites.survey(again, whole(VECTOR, 5)) is first
    assert jp.sites.survey(jax.eval_shape(lambda: again), jax.ShapeDtypeStruct(VECTOR, np.float64)) is first

    other = jp.sites.survey(network, whole((7, 4)))
    assert other is not first
    (site,) = other.sites.values()
    assert (other.outputs.shape, other.program.avals[site.output].shape) == ((7, 6), (7, 6))
    single = jp.sites.survey(network.replace(params={"w": np.ones((4, 6), np.float32)}), whole(VECTOR))
    assert single is not first
    wider = jp.sites.survey(network.replace(params={"w": whole((4, 1))}, state={"scale": whole(())}), whole(VECTOR))
    assert wider.outputs.shape == (B, 1)
    assert jp.sites.survey(network, whole(VECTOR)) is first


def test_survey_is_shared_by_equal_networks_of_flax():
    def made():
        shapes = jax.eval_shape(nn.Dense(2).init, jax.random.key(0), whole(VECTOR))
        return jp.Network.from_linen(nn.Dense(2), shapes)

    assert jp.sites.survey(made(), whole(VECTOR)) is jp.sites.survey(made(), whole(VECTOR))


def test_survey_holds_the_precision_that_it_was_made_with():
    """On accelerators a product without a precision of its own is rounded to fewer bits."""
    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": whole((4, 6))})

    def precision():
        (step,) = jp.sites.survey(network, whole(VECTOR)).program.steps
        return step.params["precision"]

    assert precision() is None
    with jax.default_matmul_precision("highest"):
        assert set(precision()) == {jax.lax.Precision.HIGHEST}
    assert precision() is None


def test_survey_has_the_types_of_the_setting():
    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": np.ones((4, 6))})
    assert jp.sites.survey(network, whole(VECTOR)).outputs.dtype == np.float64
    jax.config.update("jax_enable_x64", False)
    assert jp.sites.survey(network, whole(VECTOR)).outputs.dtype == np.float32


def test_program_changes_and_keeps_values_where_they_are_made():
    network = jp.Network(lambda p, s, x: jnp.tanh(x @ p["w"]), {"w": normal(0, 4, 6)})
    images = normal(1, *VECTOR)
    found = jp.sites.survey(network, images)
    number = found.sites["w"].output
    run = partial(found.program.run, [network.params["w"], images])
    (outputs,), kept = run({number: lambda z: 2 * z}, keep=[number])
    np.testing.assert_allclose(kept[number], 2 * images @ network.params["w"], rtol=1e-12)
    np.testing.assert_allclose(outputs, np.tanh(kept[number]), rtol=1e-12)
