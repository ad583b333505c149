"""The distance of a network to its own output, held constant: exact Hessians by fast routes, in float64.

What a Hessian is stands here by hand: the distance, its target held constant, and ``jax.jvp`` of ``jax.grad`` of it.
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.curvature import routes
from jaxprune.curvature.signals import width
from tests import cases
from tests.curvature import networks
from tests.curvature.networks import close, flat

OWN = "the residual is zero: the Hessian is the Gauss-Newton matrix of the distance to the network as given"


def distance(outputs, target, squares, temperature):
    """``squares`` times |f - t|^2, and 1 - ``squares`` times T^2 KL(softmax(t / T) || softmax(f / T))."""
    p, q = (
        jnp.exp(values / temperature) / jnp.exp(values / temperature).sum(1, keepdims=True)
        for values in (target, outputs)
    )
    divergence = temperature**2 * jnp.sum(p * (jnp.log(p) - jnp.log(q)), 1)
    return squares * jnp.sum((outputs - target) ** 2, 1) + (1 - squares) * divergence


def terms(loss):
    return (1.0 if loss.kind == "squared" else 0.0), loss.temperature


def value_at(network, images, at, params):
    """The outputs, or a value that is tagged, [b, d]."""
    if at is None:
        return network.apply(params, network.state, images)
    (found,) = jp.sites.read(network.replace(params=params), images, [at])
    return found.reshape(len(found), -1)


class Oracle(networks.Dense):
    """The dense Hessian over some leaves of the distance to a constant target: the network's own output, or another.

    ``product`` is that of a vector over all leaves.
    """

    def __init__(self, network, batch, at=None, inside=lambda name: True, teacher=None):
        start, unravel = ravel_pytree(network.params)
        named = list(zip(jp.tree.names(network.params), jax.tree.leaves(network.params), strict=True))
        weight = np.asarray(batch.get("weight", np.ones(len(batch["image"]))))
        self.share = weight / weight.sum()
        images = np.where(weight.reshape(-1, *[1] * (np.ndim(batch["image"]) - 1)) > 0, batch["image"], 0.0)
        self.names = [name for name, _ in named if inside(name)]
        self.shapes = [leaf.shape for name, leaf in named if inside(name)]
        self.places = np.flatnonzero(np.concatenate([np.full(leaf.size, inside(name)) for name, leaf in named]))
        self.vector = flat(networks.vector(network.params))

        def outputs(flat_params):
            return value_at(network, images, at, unravel(flat_params))

        target = np.asarray(jax.jit(outputs)(start)) if teacher is None else teacher

        def columns(ways, *given):
            def mean(flat_params):
                return jnp.dot(self.share, distance(outputs(flat_params), target, *given))

            return jax.vmap(lambda way: jax.jvp(jax.grad(mean), (start,), (way,))[1])(ways)

        self._columns = networks.compiled(columns)

    def of(self, loss):
        ways = np.concatenate([np.eye(len(self.vector))[self.places], self.vector[None]])
        found = np.asarray(self._columns(ways, *terms(loss)))
        self.matrices, self.product = {"hessian": found[:-1, self.places]}, found[-1]
        return self


@dataclass(frozen=True, eq=False)
class Own:
    network: jp.Network
    batch: dict
    units: dict  # of every leaf
    feature: str  # a tagged value
    path: str  # of which dense blocks are taken

    def in_scope(self, name, leaf=None):
        """The positions of Swin have networks of 512 units of their own: the whole product alone is of them."""
        return "position/" not in name

    @property
    def leaves(self):
        named = zip(jp.tree.names(self.network.params), jax.tree.leaves(self.network.params), strict=True)
        return {
            name: networks.Leaf(leaf.shape, self.units[name], "") for name, leaf in named if self.in_scope(name, leaf)
        }

    @property
    def scope(self):
        return jp.tree.map_named(self.in_scope, self.network.params)


def padded(batch):
    """Without labels; what does not count is NaN."""
    counts = np.reshape(batch["weight"] > 0, (-1, *[1] * (batch["image"].ndim - 1)))
    return {"image": np.where(counts, batch["image"], np.nan), "weight": batch["weight"]}


def _of_case(name, path):
    case = cases.build(name)
    named = zip(jp.tree.names(case.network.params), jax.tree.leaves(case.network.params), strict=True)
    # A token and positions are added.
    added = ("class_token", "position")
    units = {
        leaf_name: tuple(range(leaf.ndim)) if leaf_name in added else (leaf.ndim - 1,) for leaf_name, leaf in named
    }
    return Own(case.network, padded(case.batch), units, "features", path)


def _swin():
    module = jp.models.swin_v2("t", patch=1, window=2, depths=(1,), heads=(1,), classes=3, width=2)
    network = jp.Network.from_linen(
        module, jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 4, 4, 1), np.float32))
    )
    draw = np.random.default_rng(3)

    def filled(name, leaf):
        values = draw.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return jnp.asarray(1 + 0.3 * values if name.endswith("scale") else values + 0.1)

    network = network.replace(params=jp.tree.map_named(filled, network.params))
    named = zip(jp.tree.names(network.params), jax.tree.leaves(network.params), strict=True)
    batch = {"image": draw.normal(size=(3, 4, 4, 1)), "weight": np.array([1.0, 0.0, 2.5])}
    units = {name: (leaf.ndim - 1,) for name, leaf in named}
    return Own(network, padded(batch), units, "stage1/block0", "stage1_block0/mlp/hidden/kernel")


def _hand(name, path):
    net = networks.build(name)

    def apply(params, state, images):
        return checkpoint_name(jnp.tanh(net.network.apply(params, state, images)), "bent")

    units = {leaf_name: leaf.units for leaf_name, leaf in net.leaves.items()}
    return Own(net.network.replace(apply=apply), padded(net.batch), units, "bent", path)


OWNS = {
    "vit": lambda: _of_case("vit", "block0/attention/value/kernel"),
    "swin": _swin,
    "resnet": lambda: _of_case("resnet", "stage2_block0/conv2/kernel"),
    # Tied weights, and kernels that a scan goes through.
    "tied": lambda: _hand("tied", "layers"),
}
built = cache(lambda name: OWNS[name]())
# Kind, temperature, and whether inside the network; what else than diagonals and whole products is taken of the first.
LOSSES = {
    "vit": ([("kl", 3.0, False), ("squared", 1.0, True)], ("unit", 3, "block")),
    "swin": ([("kl", 1.0, True)], ("unit",)),
    "resnet": ([("kl", 3.0, True)], ("unit", "layer")),
    "tied": ([("squared", 3.0, False), ("kl", 1.0, True), ("kl", 3.0, False)], ("unit", "layer", 3, "block")),
}


@pytest.mark.parametrize("name", OWNS)
def test_distillation_to_itself_has_the_hessian_of_a_target_held_constant(name):
    own, vector = built(name), networks.vector(built(name).network.params)
    kinds, more = LOSSES[name]
    made = [jp.losses.distillation(kind, t, own.feature if inside else None) for kind, t, inside in kinds]
    blocks = [kind for kind in more if kind != "block"]

    def everything(network, batch, vector):
        found = [
            (
                jp.curvature.diagonal(network, loss, batch, scope=own.scope),
                jp.curvature.hvp(network, loss, batch, vector),
            )
            for loss in made
        ]
        products = [
            jp.curvature.block_product(network, made[0], batch, vector, kind, scope=own.scope) for kind in blocks
        ]
        dense = [jp.curvature.block(network, made[0], batch, own.path, "unit")] if "block" in more else []
        return found, products, dense

    found, products, block = networks.compiled(everything)(own.network, own.batch, vector)

    def within(tree):
        named = zip(jp.tree.names(tree), jax.tree.leaves(tree), strict=True)
        return np.concatenate([np.ravel(leaf) for leaf_name, leaf in named if leaf_name in own.leaves])

    oracles = {at: Oracle(own.network, own.batch, at, own.in_scope) for at in {loss.at for loss in made}}
    for loss, (diagonal, product) in zip(made[::-1], found[::-1], strict=True):
        dense = oracles[loss.at].of(loss)
        assert np.abs(dense.matrices["hessian"]).max() > 1e-3
        close(within(diagonal), np.diag(dense.matrices["hessian"]))
        close(flat(product), dense.product)
    for kind, got in zip(blocks, products, strict=True):
        close(within(got), dense.inside(own.leaves, kind, "hessian") @ within(vector))
    for got in block:
        close(got, dense.blocks(own.path, own.units[own.path], "unit", "hessian"))


# Random programs: a chain of steps on values [b, 3].


@jax.custom_jvp
def _declared(x):
    """Its rule calls it for the value, and says a derivative that is another one's: a Jacobian like any other."""
    return jnp.sin(x)


_declared.defjvp(lambda primals, tangents: (_declared(*primals), tangents[0] * (1 + primals[0] ** 2) / 2))


@jax.custom_jvp
def _honest(x):
    return jnp.sin(x)


_honest.defjvp(lambda primals, tangents: (_honest(*primals), tangents[0] * jnp.cos(primals[0])))


@jax.custom_jvp
def _two_faced(x):
    """Its rule makes the value by another way, whose derivative is not the one that it says."""
    return jnp.tanh(x)


_two_faced.defjvp(lambda primals, tangents: (jnp.tanh(primals[0]), tangents[0] * (1 + primals[0] ** 2) / 2))


@jax.custom_vjp
def _backward_alone(x):
    return jnp.sin(x)


_backward_alone.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * (1 + x**2) / 2,))


def _norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return scale * centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-3)


# Each draws on its own leaves: kernels [3, 3] and [2, 3, 3], a vector [3]; and on those that all share.
STEPS = {
    "dense": lambda x, own, shared, state: x @ own["w"] + own["b"],
    "transposed": lambda x, own, shared, state: jnp.tanh(x @ own["w"].T),
    "gelu": lambda x, own, shared, state: jax.nn.gelu(x @ own["w"]),
    "relu": lambda x, own, shared, state: jax.nn.relu(x + own["b"]),
    "softmax": lambda x, own, shared, state: jax.nn.softmax(2 * x),
    "norm": lambda x, own, shared, state: _norm(x, own["b"]),
    "branches": lambda x, own, shared, state: x * (x @ own["w"]) + x,
    "tied": lambda x, own, shared, state: x + jnp.sin(x @ shared),
    "scan": lambda x, own, shared, state: lax.scan(lambda h, w: (jnp.tanh(h @ w) + h, None), x, own["stack"])[0],
    "declared": lambda x, own, shared, state: _declared(x @ own["w"]),
    "scanned rule": lambda x, own, shared, state: lax.scan(lambda h, w: (_honest(h @ w), None), x, own["stack"])[0],
    "two-faced": lambda x, own, shared, state: _two_faced(x @ own["w"]),
    "state": lambda x, own, shared, state: x * state["scale"] + x @ state["frozen"],
}


def program(steps, seed):
    draw = np.random.default_rng(seed)
    shapes = {"w": (3, 3), "b": (3,), "stack": (2, 3, 3)}
    params = {
        "head": draw.normal(size=(3, 3)),
        "shared": draw.normal(size=(3, 3)) / 2,
        **{
            f"step{at}": {name: draw.normal(size=shape) / 1.5 for name, shape in shapes.items()}
            for at in range(len(steps))
        },
    }
    state = {"scale": 1 + draw.random(3), "frozen": draw.normal(size=(3, 3)) / 2}

    def apply(params, state, images):
        for at, step in enumerate(steps):
            images = STEPS[step](images, params[f"step{at}"], params["shared"], state)
        return images @ params["head"]

    batch = {"image": draw.normal(size=(3, 3)), "weight": np.array([1.0, 0.5, 2.0])}
    return jp.Network(apply, *jax.tree.map(jnp.asarray, (params, state))), batch


@settings(max_examples=30, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=4),
    st.sampled_from([("squared", 1.0), ("kl", 1.0), ("kl", 3.0)]),
    st.integers(0, 99),
)
def test_distillation_of_random_programs_is_exact_wherever_it_is_claimed(steps, kind, seed):
    network, batch = program(steps, seed)
    loss = jp.losses.distillation(*kind)
    vector = networks.vector(network.params)
    start, unravel = ravel_pytree(network.params)
    share = batch["weight"] / batch["weight"].sum()

    def mean(flat_params):
        outputs = network.apply(unravel(flat_params), network.state, batch["image"])
        return jnp.dot(share, distance(outputs, lax.stop_gradient(outputs), *terms(loss)))

    def everything(network, batch, vector):
        ways = jnp.concatenate([jnp.eye(start.size), ravel_pytree(vector)[0][None]])
        columns = jax.vmap(lambda way: jax.jvp(jax.grad(mean), (start,), (way,))[1])(ways)
        return (
            jp.curvature.diagonal(network, loss, batch),
            jp.curvature.hvp(network, loss, batch, vector),
            jnp.diagonal(columns),
            columns[-1],
        )

    diagonal, product, expected, moved = networks.compiled(everything)(network, batch, vector)
    plan = jp.curvature.plan(network, loss, batch, "diagonal", compile=False)
    assert plan.exact
    if "two-faced" not in steps:
        assert "derivative rule" not in plan.why
    close(flat(diagonal), expected)
    close(flat(product), moved)


def test_distillation_keeps_a_rule_inside_a_loop_that_jax_forgets_on_its_way_back():
    """Of a loop, ``jax.hessian`` takes the second derivative of what the rule stands for; twice forward it does not."""
    draw = np.random.default_rng(2)
    params = {"head": jnp.asarray(draw.normal(size=(3, 2))), "stack": jnp.asarray(draw.normal(size=(2, 3, 3)))}

    def apply(params, state, images):
        images = lax.scan(lambda h, w: (_declared(h @ w), None), images, params["stack"])[0]
        return images @ params["head"]

    network, batch = jp.Network(apply, params), {"image": draw.normal(size=(4, 3))}
    start, unravel = ravel_pytree(params)

    def mean(flat_params):
        outputs = apply(unravel(flat_params), {}, batch["image"])
        return jnp.mean(jnp.sum((outputs - lax.stop_gradient(outputs)) ** 2, 1))

    expected = networks.compiled(jax.jacfwd(jax.jacfwd(mean)))(start)
    close(flat(jp.curvature.diagonal(network, jp.losses.distillation(), batch)), np.diag(expected))
