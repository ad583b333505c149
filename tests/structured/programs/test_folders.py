"""Networks loaded without their source: the same function and derivatives, in any process; and bad folders, refused."""

import hashlib
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.structured import compact, discover, load_program, save_program
from tests.structured.discovery import plain
from tests.structured.discovery.comparing import measured, same
from tests.structured.networks import random_weights

LOSS = jp.losses.cross_entropy
PROGRAM, WEIGHTS = "program.json", "weights.safetensors"


@jax.custom_vjp
def _clipped(x, n):
    return jnp.tanh(x) * n


_clipped.defvjp(lambda x, n: (_clipped(x, n), (x, n)), lambda kept, g: (jnp.clip(g, -0.1, 0.1) * kept[1], None))


def _looped(p, x):
    x = lax.scan(lambda c, w: (jax.nn.relu(c) * w, c.sum()), x, p["turns"], reverse=True)[0]
    x = lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.sin(c[1]) * p["scale"]), (0, x))[1]
    return lax.cond(x.sum() > 0, lambda x: x, lambda x: 2 * x + p["scale"], x)


# What makes up the programs of networks, between two matrix products.
WAYS = {
    "relu6, gelu and logaddexp": lambda p, x: jax.nn.relu6(x) + jax.nn.gelu(x) + jnp.logaddexp(x, p["scale"]),
    "a derivative rule at its tie": lambda p, x: jax.nn.relu(p["scale"] - lax.stop_gradient(p["scale"])) + x,
    "a backward pass of its own": lambda p, x: _clipped(x, 3),
    "a rule with products": lambda p, x: plain.ruled_product(x, p["square"]),
    "remat": lambda p, x: jax.checkpoint(lambda x: jax.nn.silu(x) * p["scale"])(x),
    "remat that keeps": lambda p, x: jax.checkpoint(jnp.sin, policy=jax.checkpoint_policies.dots_saveable)(x),
    "constants and counts": lambda p, x: x * np.arange(6.0) + jnp.arange(len(x))[:, None] + np.float64(3),
    "a mean over the images": lambda p, x: x - x.mean(0) + x.var(0) * jnp.nan_to_num(x),
    "looked up and put in": lambda p, x: (
        x[:, np.array([3, 1, 0, 2, 5, 4])] + jnp.asarray(p["turns"]).at[0].add(1.0)[:1]
    ),
    "sorted": lambda p, x: jnp.sort(x, 1) + jnp.cumsum(x, 1) + lax.top_k(x, 1)[0],
    "windows": lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"),
    "padded": lambda p, x: jnp.pad(x, ((0, 0), (2, 0)))[:, 1:7].reshape(-1, 2, 3).swapaxes(1, 2).reshape(len(x), -1),
    "sums over an axis by name": lambda p, x: jax.vmap(lambda x: x - lax.pmean(x, "b"), axis_name="b")(x) * p["scale"],
    "a type of its own": lambda p, x: x.astype(jnp.bfloat16).astype(x.dtype) + (x > 0) + jnp.round(3 * x),
}


def between(way):
    rng = np.random.default_rng(0)
    params = {
        "in": rng.normal(size=(3, 6)),
        "scale": 1 + 0.1 * rng.normal(size=6),
        "turns": rng.normal(size=(3, 6)),
        "square": 0.3 * rng.normal(size=(6, 6)),
        "out": [rng.normal(size=(6, 2))],
    }
    return jp.Network(lambda p, s, x: way(p, x @ p["in"]) @ p["out"][0], params)


def inputs(count=5):
    return np.random.default_rng(count).normal(size=(count, 3))


def again(network, images, folder):
    return load_program(save_program(folder, network, images))


@pytest.mark.parametrize("name", WAYS)
def test_load_program_gives_the_same_function_and_derivatives(name, tmp_path):
    net = between(WAYS[name])
    got = again(net, inputs(), tmp_path)
    for count in (1, 4):
        same(measured(got, inputs(count)), measured(net, inputs(count)))
    # Curvature is forward over reverse: the rule of a rule.  What has a backward pass of its own has no forward one.
    if "backward pass" in name:
        ways = [lambda one, x: jax.grad(lambda x: jnp.vdot(x, jax.grad(_number(one))(x)))(x)]
    else:
        ways = [lambda one, x: jax.jvp(one, (x,), (x,)), lambda one, x: jax.jvp(jax.grad(_number(one)), (x,), (x,))]
    for way in ways:
        same(*(jax.jit(partial(way, one))(inputs()) for one in (got, net)))


def _number(network):
    return lambda x: jnp.sum(jnp.sin(network(x)))


def test_load_program_follows_loops_and_branches(tmp_path):
    net = between(_looped)
    got = again(net, inputs(), tmp_path)
    for count in (1, 6):
        same(
            jax.jvp(got, (inputs(count),), (inputs(count),)),
            jax.jvp(net, (inputs(count),), (inputs(count),)),
        )


@pytest.mark.parametrize("name", ["attention", "scanned"])
def test_load_program_gives_a_network_for_everything(name, tmp_path):
    """Discovered, made smaller, mapped, exported; equal where it is loaded twice."""
    net = plain.network(name)
    got = again(net, plain.images(), tmp_path)
    assert got.apply == load_program(tmp_path).apply
    assert hash(got.apply) == hash(load_program(tmp_path).apply)
    found, want = discover(got, plain.images()), discover(net, plain.images())
    assert found.groups == want.groups
    assert found.layers == want.layers
    gates = {group.name: np.arange(group.size) % 2 == 0 for group in found}
    smaller = compact(got, found, gates)
    same(smaller(plain.images()), compact(net, want, gates)(plain.images()))
    same(again(smaller, plain.images(), tmp_path / "small")(plain.images(2)), smaller(plain.images(2)))
    same(jax.vmap(lambda image: got(image[None])[0])(plain.images()), net(plain.images()))
    assert jp.cost.macs(got, (4, 4, 3)) == jp.cost.macs(net, (4, 4, 3))


def test_load_program_keeps_tags_and_exact_curvature(tmp_path):
    net = between(lambda p, x: checkpoint_name(jax.nn.relu(x), "units") * p["scale"])
    net = net.replace(params={key: net.params[key] for key in ("in", "out", "scale")})
    got = again(net, inputs(), tmp_path)
    assert jp.sites.tags(got, inputs()) == ["units"]
    batch = {"image": inputs(), "label": np.array([0, 1, 1, 0, 1])}
    plan = jp.curvature.plan(got, LOSS, batch, "diagonal")
    assert str(plan) == str(jp.curvature.plan(net, LOSS, batch, "diagonal"))
    same(jp.curvature.diagonal(got, LOSS, batch), jp.curvature.diagonal(net, LOSS, batch))
    flat, turn = ravel_pytree(net.params)
    hessian = jax.hessian(lambda flat: LOSS(got.replace(params=turn(flat))(inputs()), batch).mean())(flat)
    same(ravel_pytree(jp.curvature.diagonal(got, LOSS, batch))[0], jnp.diag(hessian))


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(6, (3, 3))(x)))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2))))


def test_load_program_trains_as_the_network_does(tmp_path):
    module = Trained()
    image = jax.ShapeDtypeStruct((1, 4, 4, 3), np.float32)
    variables = random_weights(jax.eval_shape(module.init, jax.random.key(0), image), 0)
    net = jp.Network.from_linen(module, variables, train={"train": True})
    got = again(net, plain.images(), tmp_path)

    @jax.jit
    def step(network, images):
        def read(params):
            outputs, state = network.train_apply(params, network.state, images, {"dropout": jax.random.key(1)})
            return jnp.sum(jnp.sin(outputs)), state

        return jax.value_and_grad(read, has_aux=True)(network.params)

    for count in (1, 4):
        same(step(got, plain.images(count)), step(net, plain.images(count)))
    train = got.train_apply
    assert train is not None
    with pytest.raises(ValueError, match=r"expected those that the network was saved with, \['dropout'\]"):
        train(got.params, got.state, plain.images(), {"noise": jax.random.key(0)})


def edited(folder, change, *, forged=True):
    """Changes the JSON; forged: with a hash that fits again, so that what lies behind it is tested."""
    values = json.loads((folder / PROGRAM).read_text())
    change(values)
    if forged:
        body = {name: value for name, value in values.items() if name != "sha256"}
        text = json.dumps(body, separators=(",", ":")).encode()
        values["sha256"] = hashlib.sha256(text + (folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / PROGRAM).write_text(json.dumps(values))


def weights(folder, change):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    change(arrays)
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)
    edited(folder, lambda values: None)


def step(change, number=0):
    return partial(edited, change=lambda values: change(values["apply"]["steps"][number]))


DAMAGE = {
    "a version of the future": (partial(edited, change=lambda v: v.update(version=2)), "of version 2. Use the version"),
    "another format": (partial(edited, change=lambda v: v.update(format="x")), "but got 'x' of version 1"),
    "no hash that fits": (partial(edited, change=lambda v: v.update(jax="9"), forged=False), "disagree: together"),
    "half of it": (
        lambda f: (f / PROGRAM).write_text((f / PROGRAM).read_text()[:99]),
        r"program.json is damaged \(JSON",
    ),
    "too deep": (lambda f: (f / PROGRAM).write_text("[" * 100_000), r"program.json is damaged \(Recursion"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no weights.safetensors"),
    "a leaf of another shape": (
        partial(weights, change=lambda a: a.update({"params/scale": np.ones(5)})),
        r"params/scale should be float64\[6\], but is float64\[5\]",
    ),
    "a leaf of another type": (
        partial(weights, change=lambda a: a.update({"params/scale": np.ones(6, np.float32)})),
        r"params/scale should be float64\[6\], but is float32\[6\]",
    ),
    "a leaf less": (partial(weights, change=lambda a: a.pop("params/out/0")), r"lack \['params/out/0'\]"),
    "a leaf more": (partial(weights, change=lambda a: a.update(x=np.ones(1))), r"have \['x'\] that the program"),
    "types that differ": (
        partial(edited, change=lambda v: v["params"]["dict"].__setitem__(1, ["scale", ["float64", [7]]])),
        r"params/scale should be float64\[7\]",
    ),
    "a tree of no kind": (
        partial(edited, change=lambda v: v["params"]["dict"].append([["x"], None])),
        "the tree",
    ),
    "a primitive that runs code": (step(lambda s: s.update(do="pure_callback")), "pure_callback, a primitive that is"),
    "a primitive that is no word": (step(lambda s: s.update(do=["x"])), "a primitive that is not known"),
    "a primitive of one process": (step(lambda s: s.update(do="psum")), "psum, a primitive that is not known"),
    "a parameter more": (step(lambda s: s["with"].update(callback="os.system")), "step 0, dot_general, TypeError"),
    "a parameter of no kind": (step(lambda s: s["with"].update(precision={"x": 1})), "the value \"{'x': 1}\""),
    "a record of no kind": (
        step(lambda s: s["with"].update(precision={"record": "Popen", "fields": {}})),
        "the value \"{'record': 'Popen'",
    ),
    "a type of no kind": (
        step(lambda s: s["with"].update(preferred_element_type={"dtype": "object"})),
        "the type 'object'",
    ),
    "a value to come": (step(lambda s: s.update(of=[99, 0])), "the value 99, of 7"),
    "another result": (
        step(lambda s: s.update(makes=[["float64", [5, 5]]])),
        r"step 0, dot_general, it should be float64",
    ),
    "no step": (partial(edited, change=lambda v: v["apply"]["steps"].append(3)), "no step where one was expected"),
    "no program": (partial(edited, change=lambda v: v.update(apply=[])), "no program where one was expected"),
    "no constant": (partial(edited, change=lambda v: v["apply"]["constants"].append(4)), "the constant 4, of 1"),
    "a size of no kind": (step(lambda s: s.update(makes=[["float64", [{"per image": ["b"]}]]])), "the size"),
    "an input less": (partial(edited, change=lambda v: v["apply"]["inputs"].pop()), "the value"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    jax.config.update("jax_enable_x64", True)
    net = between(lambda p, x: jax.nn.relu(x) * np.arange(6.0))
    save_program(folder, net, inputs())
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_load_program_refuses_what_is_damaged(name, sound, tmp_path):
    for part in (PROGRAM, WEIGHTS):
        (tmp_path / part).write_bytes((sound / part).read_bytes())
    load_program(tmp_path)
    change, message = DAMAGE[name]
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_program(tmp_path)


def test_load_program_says_that_it_needs_wide_numbers(sound):
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ValueError, match=r"it is of 64 bits .*, and jax_enable_x64 is off"):
        load_program(sound)


def test_load_names_who_reads_a_program(sound):
    with pytest.raises(ValueError, match=r"has no specification.json. It is a program: load_program reads it"):
        jp.structured.load(sound, jp.models.specification)


def test_load_program_takes_what_was_saved_and_nothing_else(sound):
    got = load_program(sound)
    with pytest.raises(ValueError, match=r"images of the shape that was saved, \(5, 3\), but got \(5, 4\)"):
        got(np.ones((5, 4)))
    with pytest.raises(TypeError, match="images of the type that was saved, float64, but got float32"):
        got(np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match="expected params of the structure that was saved"):
        got.replace(params={"in": got.params["in"]})(inputs())
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), got.params)
    with pytest.raises(TypeError, match="params/in of the type that was saved, float64, but got bfloat16"):
        got.replace(params=narrow)(inputs())


def test_export_serves_what_asks_for_the_length_of_its_images_and_what_was_cut_smaller(tmp_path):
    net = plain.network("glu")
    net = net.replace(params=jax.tree.map(np.float32, net.params))
    images = plain.images().astype(np.float32)
    found = jp.structured.discover(net, images)
    gates = {group.name: np.arange(group.size) > 0 for group in found}
    for one in (net, jp.structured.compact(net, found, gates)):
        path = jp.structured.export(one, (4, 4, 3), tmp_path / "net.bin")
        served = jax.export.deserialize(bytearray(path.read_bytes()))
        for count in (1, 3):
            np.testing.assert_allclose(served.call(images[:count]), one(images[:count]), rtol=1e-5, atol=1e-6)
        slope, want = (jax.grad(lambda x, one=one: jnp.sum(jnp.sin(one(x))))(images) for one in (served.call, one))
        np.testing.assert_allclose(slope, want, rtol=1e-5, atol=1e-6)


def test_save_program_keeps_half_precision_bit_for_bit(tmp_path):
    net = jp.Network(
        lambda p, s, x: x @ p["w"], {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), "bfloat16")}
    )
    got = again(net, jnp.ones((1, 3), "bfloat16"), tmp_path)
    assert got.params["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.params["w"], net.params["w"])
    batch = {"image": jnp.ones((2, 3), "bfloat16"), "label": np.array([0, 1])}
    pair = [jp.curvature.diagonal(one, LOSS, batch)["w"] for one in (got, net)]
    np.testing.assert_allclose(*pair, rtol=1e-2)  # the program that was saved is of bfloat16, and stays so


@jax.custom_jvp
def _counted(x):
    return x


_counted.defjvp(lambda given, moves: (_counted(*given), jax.pure_callback(np.sin, moves[0], moves[0])))


REFUSED = {
    "a callback": (lambda p, x: jax.pure_callback(np.sin, x, x), "primitive of the primitive 'pure_callback'"),
    "a print": (lambda p, x: (jax.debug.print("{}", x), x)[1], "side effects"),
    "a program as a parameter": (
        lambda p, x: jnp.linalg.solve(p["square"], x.T).T,
        "the primitive 'custom_linear_solve'",
    ),
    "a function as a parameter": (
        lambda p, x: lax.reduce(x[None], 0.0, lambda a, b: jnp.sin(a) + b, (0,)),
        "the primitive 'reduce'",
    ),
    "a policy by hand": (
        lambda p, x: jax.checkpoint(jnp.sin, policy=jax.checkpoint_policies.save_only_these_names("x"))(x),
        "policy, a function",
    ),
    "a branch on their number": (
        lambda p, x: x if len(x) > 5 else 2 * x,
        "the number of images otherwise than by sizes",
    ),
    "a branch on one image": (lambda p, x: x if len(x) > 1 else 2 * x, "but for 1 the program that was traced"),
    "their square": (lambda p, x: x * jnp.ones(len(x) ** 2).sum(), "in proportion to it: for 5, 7, 67 images"),
    "an array of their number": (lambda p, x: x + np.arange(len(x))[:, None], "an array of its own that depends"),
    "a rule that cannot be saved": (lambda p, x: _counted(x), "the primitive 'pure_callback'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_save_program_refuses_what_the_format_cannot_hold(name, tmp_path):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        save_program(tmp_path, between(function), inputs())
    assert not list(tmp_path.iterdir())


def test_save_program_refuses_trees_that_are_no_plain_containers(tmp_path):
    net = jp.Network(lambda p, s, x: x * p[0.5], {0.5: np.ones(3)})
    with pytest.raises(ValueError, match="params: expected dictionaries by names or numbers, lists, tuples and arrays"):
        save_program(tmp_path, net, inputs())
    with pytest.raises(ValueError, match="images: expected images that the network takes"):
        save_program(tmp_path, between(WAYS["windows"]), np.ones((2, 9)))
