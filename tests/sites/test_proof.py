"""What is proven of the network after a site, against Hessians and Jacobians in numbers, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax.custom_derivatives import linear_call

import jaxprune as jp
from jaxprune.sites.axes import Along
from tests import cases
from tests.sites import oracle, tails

FIRST = Along(0)


@pytest.mark.parametrize("name", tails.TAILS)
def test_prove_of_a_tail_what_is_so_and_nothing_else(name):
    tail = tails.TAILS[name]

    def network(params, images, tap):
        return tail.function(tap("w", images.reshape(*tail.shape[:-1], 4) @ params["w"]))

    params = {"w": oracle.normal(1, 4, tail.shape[-1])}
    images = oracle.normal(2, tails.B, *tail.shape[1:-1], tail.shape[0] // tails.B * 4)
    survey = jp.sites.survey(oracle.plain(network).replace(params=params), images)
    proof = survey.proofs["w"]
    assert (proof.piecewise_linear, proof.examples, proof.reached) == (tail.linear, tail.examples, True)
    assert proof.consistent == survey.consistent == (name not in tails.INCONSISTENT)

    linear, examples = tail.truth or (tail.linear, tail.examples)
    at = jnp.zeros(tail.shape)
    run = oracle.compiled(
        lambda part, images: oracle.derivatives(lambda part: oracle.tapped(network, params, images, {"w": part}), part),
        at,
        images,
    )
    found = [list(map(np.asarray, run(at, images + move))) for move in (0, oracle.normal(3, *images.shape))]
    distances = [oracle.is_gauss_newton(*each) for each in found]
    assert max(distances) < 1e-10 if linear else max(distances) > 1e-4, distances
    everywhere = [examples] if examples else list(oracle.every_along(tail.shape, tails.B))
    leaks = [max(oracle.leak(each[1], along) for each in found) for along in everywhere]
    assert min(leaks) > 1e-6 if examples is None else max(leaks) < 1e-12, leaks


# Networks with several sites: what is proven of each alone.
def _series(p, x, tap):
    x = jax.nn.relu(tap("b1", tap("w1", x @ p["w1"]) + p["b1"]))
    return tap("b2", tap("w2", x @ p["w2"]) + p["b2"])


def _smooth_series(p, x, tap):
    x = jnp.tanh(tap("w1", x @ p["w1"]))
    x = tap("s", jax.nn.relu(x) * p["s"])
    return jax.nn.relu(tap("w2", x @ p["w2"]))


def _gate(gate):
    return lambda p, x, tap: gate(tap("gate", x @ p["gate"])) * jax.nn.relu(tap("w", x @ p["w"]))


def _squeeze_excite(p, x, tap):
    x = tap("w", x @ p["w"])
    squeezed = jax.nn.relu(tap("down", x.mean(axis=1, keepdims=True) @ p["down"]))
    return x * jax.nn.hard_sigmoid(tap("up", squeezed @ p["up"]))


def _attention(weigh):
    def network(p, x, tap):
        q, k, v = (tap(name, jnp.einsum("btd,dhk->bthk", x, p[name])) for name in ("q", "k", "v"))
        weights = weigh(jnp.einsum("bthk,bshk->bhts", q, k))
        return tap("out", jnp.einsum("bhts,bshk,hkd->btd", weights, v, p["out"]))

    return network


def _pre_norm(p, x, tap):
    x = x + tap("w1", tails.layer_norm(x) @ p["w1"])
    x = x + tap("w2", jax.nn.relu(x) @ p["w2"])
    return jax.nn.relu(tap("w3", tails.layer_norm(x) @ p["w3"]))


def _batch_norm(p, x, tap):
    x = tap("w1", x @ p["w1"])
    x = (x - x.mean(axis=0)) / jnp.sqrt(x.var(axis=0) + 1e-3)
    return jax.nn.relu(tap("b", tap("s", x * p["s"]) + p["b"])) @ p["unused in part"]


def _mixer(p, x, tap):
    x = jax.nn.relu(tap("channels", x @ p["channels"]))
    return tap("tokens", jax.nn.relu(x).swapaxes(1, 2) @ p["tokens"])


def _batch_last(p, x, tap):
    x = jax.nn.relu(tap("w1", p["w1"] @ x.T))
    return tap("w2", jnp.einsum("oi,ib->ob", p["w2"], x)).T


def _own_backward_beside(p, x, tap):
    own = tails.OWN_BACKWARD["centred gradient"].function
    first = tap("w1", x @ p["w1"])
    return tap("w2", own(first) @ p["w2"]) + tap("w3", jax.nn.relu(x) @ p["w3"])


def _attend(q, k, v, bias):
    weights = jax.nn.softmax(3 * jnp.einsum("btd,bsd->bts", *map(_directions, (q, k))) + bias, axis=-1)
    return jnp.einsum("bts,bsd->btd", weights, v)


def _directions(vectors):
    return vectors * jax.lax.rsqrt((vectors**2).sum(-1, keepdims=True) + 1e-3)


def _window_attention(p, x, tap):
    """As Swin does it: windows of a moved map, which all images have in one axis; the hidden layer sees rows."""
    b, h, w, d = x.shape
    moved = jnp.roll(tails.layer_norm(x), (-1, -1), axis=(1, 2))
    windows = moved.reshape(b, h // 2, 2, w // 2, 2, d).swapaxes(2, 3).reshape(-1, 4, d)
    mixed = _attend(*(tap(name, windows @ p[name]) for name in ("query", "key", "value")), oracle.normal(9, 4, 4))
    mixed = tap("back", mixed @ p["back"]).reshape(b, h // 2, w // 2, 2, 2, d).swapaxes(2, 3).reshape(x.shape)
    x = x + jnp.roll(mixed, (1, 1), axis=(1, 2))
    rows = tails.layer_norm(x).reshape(-1, d)
    return x + tap("last", jax.nn.gelu(tap("hidden", rows @ p["hidden"])) @ p["last"]).reshape(x.shape)


def _attention_of_rows(p, x, tap):
    """Every product sees the tokens of all examples as rows."""
    rows = x.reshape(-1, x.shape[-1])
    q, k, v = (tap(name, rows @ p[name]).reshape(x.shape) for name in ("query", "key", "value"))
    rows = _attend(q, k, v, 0).reshape(rows.shape)
    return jax.nn.relu(tap("back", rows @ p["back"])).reshape(x.shape)


SHAPES = {"w1": (4, 4), "w2": (4, 4), "w3": (4, 4), "b1": (4,), "b2": (4,), "b": (4,), "s": (4,)}
HEADS = {"q": (4, 2, 3), "k": (4, 2, 3), "v": (4, 2, 3), "out": (2, 3, 4)}
X, TOKENS = (3, 4), (3, 3, 4)
NETWORKS = {
    "series": (_series, X, dict.fromkeys(("w1", "b1", "w2", "b2"), (True, FIRST))),
    "smooth series": (_smooth_series, X, {"w1": (False, FIRST), "s": (True, FIRST), "w2": (True, FIRST)}),
    "smooth gate": (_gate(jax.nn.sigmoid), X, {"gate": (False, FIRST), "w": (True, FIRST)}),
    "piecewise linear gate": (_gate(jax.nn.hard_sigmoid), X, {"gate": (True, FIRST), "w": (True, FIRST)}),
    "gate of the batch": (_gate(lambda z: z.mean(axis=0)), X, {"gate": (True, None), "w": (True, FIRST)}),
    "squeeze": (_squeeze_excite, TOKENS, {"w": (False, FIRST), "down": (True, FIRST), "up": (True, FIRST)}),
    "attention": (
        _attention(lambda scores: jax.nn.softmax(3 * scores, axis=-1)),
        TOKENS,
        {"q": (False, FIRST), "k": (False, FIRST), "v": (True, FIRST), "out": (True, FIRST)},
    ),
    "linear attention": (_attention(jax.nn.relu), TOKENS, dict.fromkeys(("q", "k", "v", "out"), (True, FIRST))),
    "attention among examples": (
        _attention(lambda scores: jax.nn.softmax(3 * scores, axis=0)),
        TOKENS,
        {"q": (False, None), "k": (False, None), "v": (True, FIRST), "out": (True, FIRST)},
    ),
    "pre-norm": (_pre_norm, TOKENS, {"w1": (False, FIRST), "w2": (False, FIRST), "w3": (True, FIRST)}),
    "batch norm in training": (_batch_norm, X, {"w1": (False, None), "s": (True, FIRST), "b": (True, FIRST)}),
    "mixer": (_mixer, TOKENS, {"channels": (True, FIRST), "tokens": (True, FIRST)}),
    "examples last": (_batch_last, X, {"w1": (True, Along(1)), "w2": (True, Along(1))}),
    "window attention": (
        _window_attention,
        (2, 4, 2, 4),
        {
            **dict.fromkeys(("query", "key", "value", "back"), (False, Along(0, after=2))),
            "hidden": (False, Along(0, after=8)),
            "last": (True, Along(0, after=8)),
        },
    ),
    "attention of rows": (
        _attention_of_rows,
        TOKENS,
        {
            **dict.fromkeys(("query", "key"), (False, Along(0, after=3))),
            **dict.fromkeys(("value", "back"), (True, Along(0, after=3))),
        },
    ),
    "own backward pass beside": (
        _own_backward_beside,
        X,
        {"w1": (False, None), "w2": (True, FIRST), "w3": (True, FIRST)},
    ),
}


def _params(expected):
    shapes = {**SHAPES, **HEADS, "tokens": (3, 3)}
    return {name: oracle.normal(len(name), *shapes.get(name, (4, 4))) for name in (*expected, "unused in part")}


def _check(network, params, images, proofs, sites, program_avals, truth=True):
    """Every proof of these sites against numbers, in one compiled program; returns how many proved what."""
    parts = {name: jnp.zeros(program_avals[site.output].shape) for name, site in sites.items()}

    def every(images):
        def of(name):
            return oracle.derivatives(lambda part: oracle.tapped(network, params, images, {name: part}), parts[name])

        return {name: of(name) for name in parts}

    run = oracle.compiled(every, images)
    for at in (images, images + oracle.normal(3, *images.shape)):
        for name, found in run(at).items():
            outputs, jacobian, hessian = map(np.asarray, found)
            if not (np.isfinite(hessian).all() and np.isfinite(jacobian).all()):
                continue
            distance = oracle.is_gauss_newton(outputs, jacobian, hessian)
            assert distance < 1e-10 or not proofs[name].piecewise_linear, (name, distance)
            assert distance > 1e-4 or proofs[name].piecewise_linear or not truth, (name, distance)
            if proofs[name].examples is not None:
                assert oracle.leak(jacobian, proofs[name].examples) < 1e-12, name
            elif truth:
                everywhere = oracle.every_along(jacobian.shape[2:], len(jacobian))
                assert min(oracle.leak(jacobian, along) for along in everywhere) > 1e-6, name


@pytest.mark.parametrize("name", NETWORKS)
def test_prove_judges_every_site_of_a_network_by_itself(name):
    network, shape, expected = NETWORKS[name]
    params, images = _params(expected), oracle.normal(2, *shape)
    found = jp.sites.survey(oracle.plain(network).replace(params=params), images)
    got = {path: (found.proofs[path].piecewise_linear, found.proofs[path].examples) for path in expected}
    assert got == expected
    sites = {path: found.sites[path] for path in expected}
    _check(network, params, images, found.proofs, sites, found.program.avals)


def test_prove_judges_our_networks_as_they_are_built():
    for name in cases.PIECEWISE_LINEAR:
        case = cases.build(name)
        found = jp.sites.survey(case.network, case.batch["image"])
        assert found.consistent
        assert set(found.proofs) == set(jp.tree.names(case.network.params))
        assert {(proof.piecewise_linear, proof.examples, proof.reached) for proof in found.proofs.values()} == {
            (True, FIRST, True)
        }
    case = cases.build("vit")
    found = jp.sites.survey(case.network, case.batch["image"])
    last = {path for path, proof in found.proofs.items() if proof.piecewise_linear}
    assert last == {"norm/scale", "norm/bias", "head/kernel", "head/bias"}
    assert {proof.examples for proof in found.proofs.values()} == {FIRST}


def test_prove_says_of_a_site_that_no_derivative_reaches_it():
    def network(params, state, images):
        z = images @ params["w"]
        number = images.mean() * params["number"]
        return images @ params["v"] + jax.lax.stop_gradient(z) + jnp.round(z) + jnp.floor(number)

    params = {"w": oracle.normal(0, 4, 3), "v": oracle.normal(1, 4, 3), "number": np.array(2.0)}
    proofs = jp.sites.survey(jp.Network(network, params), oracle.normal(2, 3, 4)).proofs
    assert {name: (proof.piecewise_linear, proof.reached) for name, proof in proofs.items()} == {
        "w": (True, False),
        "v": (True, True),
        "number": (True, False),
    }


OTHER = {
    "value from elsewhere": tails.rounded_anew,
    "own backward pass": tails.OWN_BACKWARD["rounded, passed through"].function,
    "in a scan": tails.OWN_BACKWARD["in a loop"].function,
    "value from elsewhere, in a scan": lambda z: jax.lax.scan(
        lambda carry, _: (tails.rounded_anew(carry), None), z, None, length=2
    )[0],
    "value from elsewhere, in a branch": lambda z: jax.lax.cond(z.sum() > 0, tails.rounded_anew, lambda z: z, z),
    "value from elsewhere, in jit and remat": jax.jit(jax.checkpoint(tails.rounded_anew)),
}


@pytest.mark.parametrize("name", OTHER)
def test_prove_says_after_which_sites_a_derivative_rule_does_not_belong_to_its_value(name):
    def network(params, state, images):
        number = jax.lax.stop_gradient(OTHER[name](images @ params["w"]).sum() * params["number"])
        return images @ params["v"] + number

    params = {"w": oracle.normal(0, 4, 3), "v": oracle.normal(1, 4, 3), "number": np.array(2.0)}
    found = jp.sites.survey(jp.Network(network, params), oracle.normal(2, 3, 4))
    after = {path: proof.consistent for path, proof in found.proofs.items()}
    assert after == {"w": False, "v": True, "number": True}
    assert not found.consistent
    assert "derivative rule" in str(found)


def test_survey_is_not_consistent_if_a_rule_before_all_sites_is_not():
    def network(params, state, images):
        def body(value):
            return tails.rounded_anew(value) - 1

        return jax.lax.while_loop(lambda value: value.sum() > 0, body, images) @ params["w"]

    found = jp.sites.survey(jp.Network(network, {"w": oracle.normal(0, 4, 3)}), oracle.normal(2, 3, 4))
    assert found.proofs["w"].consistent
    assert not found.consistent


def test_survey_is_consistent_if_what_the_outputs_need_is():
    def network(params, state, images):
        unused = tails.rounded_anew(images) + tails.OWN_BACKWARD["rounded, passed through"].function(images)
        return (tails.rounded(jax.nn.relu(images @ params["w"])), unused)[0]

    found = jp.sites.survey(jp.Network(network, {"w": oracle.normal(0, 4, 3)}), oracle.normal(2, 3, 4))
    assert found.consistent
    assert found.proofs["w"].consistent
    assert "derivative rule" not in str(found)


def test_prove_does_not_trust_a_rule_whose_transpose_is_given_apart():
    @jax.custom_jvp
    def double(x):
        return 2 * x

    @double.defjvp
    def _(primals, tangents):
        return double(*primals), linear_call(lambda _, t: 2 * t, lambda _, u: 3 * u, (), tangents[0])

    def network(params, state, images):
        return double(images @ params["w"]) @ params["v"]

    params = {"w": oracle.normal(0, 4, 3), "v": oracle.normal(1, 3, 3)}
    proofs = jp.sites.survey(jp.Network(network, params), oracle.normal(2, 3, 4)).proofs
    assert (proofs["w"].piecewise_linear, proofs["w"].examples) == (False, None)
    assert (proofs["v"].piecewise_linear, proofs["v"].examples) == (True, FIRST)


# Random programs.  Every value is [3, 3, 3], so that no axis can be told from another by its extent.
SITE = ("dense", "dense of tokens", "bias", "scale")
ONE = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "clip": lambda z: jnp.clip(z, -0.5, 0.5),
    "leaky": lambda z: jnp.where(z > 0, z, 0.3 * z),
    "gate": lambda z: jax.lax.stop_gradient(jax.nn.sigmoid(z)) * z,
    "straight through": lambda z: z + jax.lax.stop_gradient(jnp.round(z) - z),
    "soft sign rule": lambda z: tails.soft_sign(z) * 1.5,
    "rounded by a rule": tails.rounded,
    "rounded anew by a rule": tails.rounded_anew,
    "sigmoid rule": tails.SMOOTH["relu with a sigmoid rule"],
    "clipped gradient": tails.OWN_BACKWARD["clipped gradient"].function,
    "rounded, passed through": tails.OWN_BACKWARD["rounded, passed through"].function,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "square": lambda z: 0.3 * z**2,
    "reciprocal": lambda z: 1 / (1 + jnp.abs(z)),
    "hard swish": jax.nn.hard_swish,
    "remat": jax.checkpoint(lambda z: jax.nn.relu(z) - 0.1 * jnp.sin(z)),
    "constant": lambda z: jnp.einsum("btd,td->bt", z, oracle.normal(7, 3, 3))[:, :, None] * oracle.normal(8, 3),
}
ALONG = {
    "sort": lambda z, axis: jnp.sort(z, axis=axis),
    "cumsum": lambda z, axis: jnp.cumsum(z, axis=axis),
    "cummax": lambda z, axis: jax.lax.cummax(z, axis=axis),
    "roll": lambda z, axis: jnp.roll(z, 1, axis=axis),
    "flip": lambda z, axis: jnp.flip(z, axis=axis),
    "centre": lambda z, axis: z - z.mean(axis=axis, keepdims=True),
    "mean": lambda z, axis: jnp.broadcast_to(z.mean(axis=axis, keepdims=True), z.shape),
    "largest": lambda z, axis: z + z.max(axis=axis, keepdims=True),
    "softmax": lambda z, axis: jax.nn.softmax(z, axis=axis),
    "norm": lambda z, axis: tails.layer_norm(z, axis),
    "gather": lambda z, axis: jnp.take(z, np.array([2, 0, 0]), axis=axis),
    "halves": lambda z, axis: jnp.concatenate(
        [jax.lax.slice_in_dim(z, 1, 3, axis=axis), jax.lax.slice_in_dim(z, 0, 1, axis=axis)], axis=axis
    ),
    "pad": lambda z, axis: jax.lax.pad(z, 0.5, [(1, -1, 0) if place == axis else (0, 0, 0) for place in range(3)]),
    "take the largest": lambda z, axis: z * jax.nn.one_hot(z.argmax(axis), 3, axis=axis),
    "top": lambda z, axis: jnp.take_along_axis(z, jnp.argsort(jnp.abs(z), axis=axis), axis=axis),
    "swap": lambda z, axis: z.swapaxes(axis, (axis + 1) % 3),
    "turn": lambda z, axis: z.transpose(*((axis + place) % 3 for place in range(3))),
    "merge": lambda z, axis: jnp.roll(z.reshape(9, 3) if axis else z.reshape(3, 9), 1, axis=axis % 2).reshape(3, 3, 3),
    "reorder": lambda z, axis: z.swapaxes(0, axis).reshape(27)[::-1].reshape(3, 3, 3).swapaxes(0, axis),
    "unstack": lambda z, axis: jnp.stack([jnp.maximum(row, 0) for row in jnp.unstack(z, axis=axis)], axis=axis),
    "scatter": lambda z, axis: jnp.moveaxis(jnp.ones((3, 3, 3)).at[np.array([0, 2, 2])].add(z), 0, axis),
    "update": lambda z, axis: jax.lax.dynamic_update_slice_in_dim(
        z, 2 * jax.lax.slice_in_dim(z, 1, 2, axis=axis), 0, axis=axis
    ),
    "vmap": lambda z, axis: jax.vmap(lambda part: part[part.sum(1).argmax()] + part, in_axes=axis, out_axes=axis)(z),
}
TWO = {
    "add": lambda y, z, axis: y + z,
    "product": lambda y, z, axis: 0.5 * y * z,
    "maximum": lambda y, z, axis: jnp.maximum(y, z),
    "select": lambda y, z, axis: jnp.where(y > z.mean(axis, keepdims=True), y, -z),
    "gated": lambda y, z, axis: y * jax.nn.hard_sigmoid(z),
    "matrices": lambda y, z, axis: 0.3 * jnp.einsum("btd,bde->bte", *(jnp.moveaxis(each, 0, axis) for each in (y, z))),
    "attend": lambda y, z, axis: jnp.einsum("bts,bsd->btd", jax.nn.softmax(jnp.einsum("btd,bsd->bts", y, z)), z),
}
CUBE = (3, 3, 3)
STEPS = st.lists(
    st.tuples(
        st.one_of(*(st.sampled_from(sorted(kind)) for kind in (SITE, ONE, ALONG, ALONG, TWO))),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    min_size=2,
    max_size=7,
)


def _random(steps):
    """A network of these steps; each takes a value, counted back from the last, maybe another, and an axis."""
    leaves = {f"w{place}": kind for place, (kind, *_) in enumerate(steps) if kind in SITE}
    shapes = {"dense": (3, 3), "dense of tokens": (3, 3), "bias": (3,), "scale": (3, 1)}
    params = {name: oracle.normal(place, *shapes[kind]) for place, (name, kind) in enumerate(leaves.items())}
    params["first"] = oracle.normal(50, 3, 3)

    def network(p, x, tap):
        values = [x, tap("first", x @ p["first"])]
        for place, (kind, one, other, axis) in enumerate(steps):
            y, z, name = values[-1 - one % len(values)], values[-1 - other % len(values)], f"w{place}"
            if kind in SITE:
                made = {
                    "dense": lambda y, w: y @ w,
                    "dense of tokens": lambda y, w: jax.lax.dot_general(y, w, (((1,), (1,)), ((), ()))),
                    "bias": lambda y, w: y + w,
                    "scale": lambda y, w: y * w,
                }[kind]
                values.append(tap(name, made(y, p[name])))
            elif kind in ONE:
                values.append(ONE[kind](y))
            else:
                values.append(ALONG[kind](y, axis) if kind in ALONG else TWO[kind](y, z, axis))
        return values[-1] + (values[-2] if steps[-1][1] % 2 else 0)

    return network, params


def test_prove_claims_nothing_false_of_a_random_program():
    seen = {"sites": 0, "linear": 0, "independent": 0, "both": 0}

    # A failure is short enough as it is, and shrinking it compiles hundreds of programs.
    @settings(max_examples=60, phases=[Phase.generate])
    @given(STEPS)
    def check(steps):
        network, params = _random(steps)
        images = oracle.normal(4, *CUBE)
        found = jp.sites.survey(oracle.plain(network).replace(params=params), images)
        proofs = {
            path: proof for path, proof in found.proofs.items() if proof.piecewise_linear or proof.examples is not None
        }
        sites = {path: found.sites[path] for path in proofs}
        if sites:
            _check(network, params, images, proofs, sites, found.program.avals, truth=False)
        seen["sites"] += len(found.sites)
        seen["linear"] += sum(proof.piecewise_linear for proof in proofs.values())
        seen["independent"] += sum(proof.examples is not None for proof in proofs.values())
        seen["both"] += sum(proof.piecewise_linear and proof.examples is not None for proof in proofs.values())

    check()
    # Neither everything nor nothing.
    assert seen["both"] > 20, seen
    assert seen["linear"] < 0.9 * seen["sites"], seen
    assert seen["independent"] < 0.9 * seen["sites"], seen


def _window_of_rows(z):
    numbers = jax.lax.GatherDimensionNumbers(offset_dims=(0, 1), collapsed_slice_dims=(), start_index_map=(0,))
    return jax.lax.gather(z, jnp.argmax(oracle.normal(1, 3))[None], numbers, slice_sizes=(3, 3))


@pytest.mark.parametrize(
    "some",
    [
        lambda z: nn.max_pool(z[None], (1,), strides=(2,))[0],
        lambda z: jax.lax.dynamic_slice_in_dim(z, jnp.argmax(oracle.normal(1, 3)), 3, axis=0),
        _window_of_rows,
    ],
    ids=["pool", "slice", "window"],
)
def test_prove_does_not_take_for_examples_what_is_only_some_of_them(some):
    def network(params, state, images):
        return some(jnp.repeat(images, 2, axis=0) @ params["w"])

    # z has six rows for three outputs.
    proof = jp.sites.survey(jp.Network(network, {"w": oracle.normal(0, 4, 3)}), oracle.normal(1, 3, 4)).proofs["w"]
    assert (proof.piecewise_linear, proof.examples, proof.reached) == (True, None, True)
