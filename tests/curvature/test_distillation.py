"""The distance of a network to its own output, held constant: exact Hessians by fast routes, in float64.

What a Hessian is stands here by hand: the distance, its target held constant, and ``jax.jvp`` of ``jax.grad`` of it.
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.curvature import routes
from jaxprune.groups import Group, Member
from jaxprune.structured import effects, ones
from tests import cases
from tests.curvature import networks
from tests.curvature.networks import close, flat

OWN = "the residual is zero: the Hessian is the Gauss-Newton matrix of the distance to the network as given"


def distance(outputs, target, squares, temperature):
    """``squares`` times |f - t|^2, and 1 - ``squares`` times T^2 KL(softmax(t / T) || softmax(f / T))."""
    log_p, log_q = (values / temperature for values in (target, outputs))
    log_p, log_q = (each - jax.scipy.special.logsumexp(each, axis=1, keepdims=True) for each in (log_p, log_q))
    divergence = temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), 1)
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
    "vit": ([("kl", 3.0, False), ("squared", 1.0, True)], ("unit",)),
    "swin": ([("kl", 1.0, True)], ()),
    "resnet": ([("kl", 3.0, True)], ("layer",)),
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
    "branches": lambda x, own, shared, state: jnp.tanh(x) * (x @ own["w"]) + x,
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


@settings(max_examples=16, phases=[Phase.explicit, Phase.generate])
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


# What the plan says, and where the residual is not zero.


def test_plan_of_the_networks_own_output_takes_shapes_for_arrays():
    module = jp.models.resnet_cifar(depth=8, classes=10, width=4)
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    real = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    plans = [
        jp.curvature.plan(
            jp.Network.from_linen(module, one), jp.losses.distillation(), {"image": of}, "diagonal", compile=False
        )
        for one, of in ((shapes, image), (real, np.ones(image.shape, np.float32)))
    ]
    assert plans[0] == plans[1]


def legs(network, loss, batch, quantity="diagonal", **options):
    plan = jp.curvature.plan(network, loss, batch, quantity, compile=False, **options)
    assert plan.exact
    return {path: leg for leg in plan.legs for path in leg.paths}


def column_oracle(network, batch, loss, at=None):
    """Of the Hessian by definition, over all leaves: its own target, not differentiated."""
    start, unravel = ravel_pytree(network.params)
    share = np.asarray(batch.get("weight", np.ones(len(batch["image"]))))

    def mean(flat_params):
        outputs = value_at(network, batch["image"], at, unravel(flat_params))
        target = lax.stop_gradient(outputs) if "teacher" not in batch else batch["teacher"]
        return jnp.dot(share / share.sum(), distance(outputs, target, *terms(loss)))

    return np.asarray(networks.compiled(jax.hessian(mean))(start))


@pytest.mark.parametrize("kind", [("squared", 1.0), ("kl", 3.0)])
def test_distillation_of_another_teacher_is_a_loss_like_any_other(kind):
    network, batch = program(["gelu", "norm"], 1)
    loss, vector = jp.losses.distillation(*kind), networks.vector(network.params)
    taught = {**batch, "teacher": networks.normal(8, 3, 3)}

    def everything(network, batch, taught, vector):
        return (
            jp.curvature.diagonal(network, loss, taught),
            jp.curvature.hvp(network, loss, taught, vector),
            jp.curvature.diagonal(network, loss, taught, "ggn"),
            jp.curvature.diagonal(network, loss, batch),
        )

    found = networks.compiled(everything)(network, batch, taught, vector)
    dense, own = column_oracle(network, taught, loss), column_oracle(network, batch, loss)
    assert np.abs(np.diag(dense) - np.diag(own)).max() > 1e-2
    for got, expected in zip(found, (np.diag(dense), dense @ flat(vector), np.diag(own), np.diag(own)), strict=True):
        close(flat(got), expected)
    assert legs(network, loss, taught)["step0/w"].route != routes.SIGNALS
    assert OWN not in legs(network, loss, taught)["step0/w"].why


def test_distillation_to_itself_is_served_by_signals_which_the_plan_explains():
    network, batch = program(["gelu", "softmax", "norm"], 2)
    for loss in (jp.losses.distillation("kl", 2), jp.losses.distillation()):
        for quantity in ("diagonal", "block_product"):
            leg = legs(network, loss, batch, quantity)["step0/w"]
            assert (leg.route, leg.why.startswith(OWN)) == (routes.SIGNALS, True)
        assert legs(network, loss, batch, "block", path="step0/w")["step0/w"].why.startswith(OWN)
    assert "the residual is zero" not in legs(network, loss, batch, matrix="ggn")["step0/w"].why


@pytest.mark.parametrize(("step", "rule"), [("two-faced", _two_faced), ("backward", _backward_alone)])
def test_distillation_before_a_rule_that_does_not_belong_to_the_values_goes_another_way(step, rule):
    draw, loss = np.random.default_rng(4), jp.losses.distillation("kl", 2)
    params = {name: jnp.asarray(draw.normal(size=(3, 3))) for name in ("after", "before", "head")}
    network = jp.Network(lambda p, s, x: jax.nn.gelu(rule(x @ p["before"]) @ p["after"]) @ p["head"], params)
    batch, vector = {"image": draw.normal(size=(4, 3))}, networks.vector(params)
    found = legs(network, loss, batch)
    assert found["before"].route != routes.SIGNALS
    if step == "two-faced":
        assert "a derivative rule of its own follows that does not belong to the values" in found["before"].why
    assert {found[path].route for path in ("after", "head")} == {routes.SIGNALS}
    dense = column_oracle(network, batch, loss)
    close(flat(jp.curvature.diagonal(network, loss, batch)), np.diag(dense))
    close(flat(jp.curvature.hvp(network, loss, batch, vector)), dense @ flat(vector))
    before = dense[9:18, 9:18]
    assert np.abs(before - before.T).max() > 1e-3, "what a matrix of Gauss and Newton never is"


def test_distillation_that_is_equal_shares_compiled_programs_and_needs_no_labels():
    network, batch = program(["gelu", "norm"], 5)
    labelled = {**batch, "label": np.array([0, 2, 9])}  # nobody reads them
    seen = []

    def listen(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    def run(loss, batch):
        return flat(jp.curvature.diagonal(network, loss, batch, memory=10**9))

    first = run(jp.losses.distillation("kl", temperature=2), batch)
    of_labelled = run(jp.losses.distillation("kl", temperature=2), labelled)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        again = run(jp.losses.distillation("kl", temperature=2.0), batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not seen
    np.testing.assert_array_equal(first, again)
    close(of_labelled, first, 1e-12)


# A head that is narrower than the classes are many: d = 4 columns stand for 12 (11 of a softmax).
HEADS = {
    "plain": (lambda p, s, h: h @ p["head"], {"head": (4, 12)}),
    "transposed": (lambda p, s, h: h @ p["head"].T + p["bias"], {"bias": (12,), "head": (12, 4)}),
    "contracted": (lambda p, s, h: lax.dot_general(h, p["head"], (((1,), (1,)), ((), ()))), {"head": (12, 4)}),
    "frozen": (lambda p, s, h: h @ s["head"] + s["bias"], {}),
}
# Losses, the blocks of products, and whether dense blocks are taken too.
OF_HEADS = {
    "plain": (
        ("cross_entropy", "unit", True),
        ("squared_error", "layer", False),
        ("squared", "unit", False),
        ("kl", "layer", False),
        ("bumpy", "unit", True),
    ),
    "transposed": (("kl", "unit", True), ("bumpy", "layer", False)),
    "contracted": (("kl", "unit", False),),
    "frozen": (("squared", "layer", True), ("kl", "unit", False)),
}


@pytest.mark.parametrize("form", HEADS)
def test_columns_at_the_inputs_of_a_narrow_head_stand_for_those_of_the_outputs(form):
    head, shapes = HEADS[form]
    shapes = {"b": (4,), "w": (3, 4), **shapes}
    params = {name: jnp.asarray(networks.normal(at, *shape)) for at, (name, shape) in enumerate(sorted(shapes.items()))}
    state = {"bias": jnp.asarray(networks.normal(20, 12)), "head": jnp.asarray(networks.normal(21, 4, 12))}
    network = jp.Network(lambda p, s, x: head(p, s, jnp.abs(x @ p["w"] + p["b"])), params, state)
    batch = {"image": networks.normal(22, 4, 3), "label": np.array([3, 0, 11, 7]), "weight": np.array([1, 2, 0, 0.5])}
    given = {
        "cross_entropy": jp.losses.cross_entropy,
        "squared_error": jp.losses.squared_error,
        "squared": jp.losses.distillation(),
        "kl": jp.losses.distillation("kl", 3),
        "bumpy": networks.bumpy,
    }
    # After a modulus the Hessian is that of Gauss and Newton, whatever the loss.
    start, unravel = ravel_pytree(params)

    def outputs(flat_params):
        return network.apply(unravel(flat_params), state, batch["image"])

    target, jacobian = jax.jit(outputs)(start), np.asarray(networks.compiled(jax.jacrev(outputs))(start))
    hot = jax.nn.one_hot(batch["label"], 12)
    by_hand = {
        "cross_entropy": lambda f: jax.scipy.special.logsumexp(f, axis=1) - jnp.sum(hot * f, 1),
        "squared_error": lambda f: jnp.sum((f - hot) ** 2, 1),
        "squared": lambda f: distance(f, target, 1.0, 1.0),
        "kl": lambda f: distance(f, target, 0.0, 3.0),
        "bumpy": lambda f: networks.bumpy(f, batch),
    }
    vector = networks.vector(params)

    def everything(network, batch, vector):
        return {
            name: (
                jp.curvature.diagonal(network, given[name], batch),
                jp.curvature.block_product(network, given[name], batch, vector, blocks),
                jp.curvature.block(network, given[name], batch, "w", "unit") if dense else None,
            )
            for name, blocks, dense in OF_HEADS[form]
        }

    dense = networks.Dense.__new__(networks.Dense)
    dense.names, dense.shapes = jp.tree.names(params), [leaf.shape for leaf in jax.tree.leaves(params)]
    transposed = (form, "head") if form in ("transposed", "contracted") else None
    leaves = {
        name: networks.Leaf(shape, (0,) if (form, name) == transposed else (len(shape) - 1,), "")
        for name, shape in shapes.items()
    }
    share = batch["weight"] / batch["weight"].sum()
    found = networks.compiled(everything)(network, batch, vector)
    for name, blocks, _ in OF_HEADS[form]:
        bend = jax.hessian(lambda f, of=by_hand[name]: jnp.dot(share, of(f)))(target)
        matrix = np.einsum("bci,bcde,dej->ij", jacobian, bend, jacobian, optimize=True)
        dense.matrices = {"hessian": matrix}
        diagonal, product, block = found[name]
        close(flat(diagonal), np.diag(matrix))
        close(flat(product), dense.inside(leaves, blocks, "hessian") @ flat(vector))
        if block is not None:
            close(block, dense.blocks("w", (1,), "unit", "hessian"))
        columns = 11 if name in ("cross_entropy", "kl") else 12
        planned = legs(network, given[name], batch)
        assert f"4 columns at the inputs of the head stand for {columns} at the outputs" in planned["w"].why
        assert all("columns at the inputs" not in planned[path].why for path in shapes if path in ("head", "bias"))


def test_block_factors_of_a_narrow_head_multiply_to_the_blocks():
    params = {"head": jnp.asarray(networks.normal(0, 4, 12)), "w": jnp.asarray(networks.normal(1, 5, 4))}
    network = jp.Network(lambda p, s, x: jnp.tanh(x @ p["w"]) @ p["head"], params)
    batch = {"image": networks.normal(2, 3, 5)}
    for loss in (jp.losses.distillation("kl", 2), jp.losses.distillation()):
        factors = np.asarray(jp.curvature.block_factors(network, loss, batch, "w", "unit"))
        assert factors.shape[1] <= 3 * 4
        expected = jp.curvature.block(network, loss, batch, "w", "unit")
        close(np.einsum("bri,brj->bij", factors, factors), expected, 1e-12)
        dense = column_oracle(network, batch, loss)
        close(expected[1], dense[np.ix_(48 + np.arange(1, 20, 4), 48 + np.arange(1, 20, 4))])


def test_second_order_and_kernel_block_rate_by_the_distance_of_a_network_to_itself():
    params = {"head": jnp.asarray(networks.normal(0, 4, 3)), "w": jnp.asarray(networks.normal(1, 5, 4))}

    def apply(params, state, images):
        return jax.nn.gelu(checkpoint_name(jnp.tanh(images @ params["w"]), "units") @ params["head"])

    network, loss = jp.Network(apply, params), jp.losses.distillation("kl", 2)
    batches = [{"image": networks.normal(2, 3, 5)}, {"image": networks.normal(3, 2, 5), "weight": np.array([3.0, 1.0])}]
    units = (Group("units", 4, (Member("w", 1), Member("head", 0, reads=True)), ("units",)),)
    factor = jp.Network(lambda p, s, x: jax.nn.gelu((jnp.tanh(x @ params["w"]) * p) @ params["head"]), jnp.ones(4))
    whole = {
        "image": np.concatenate([batch["image"] for batch in batches]),
        "weight": np.array([1.0, 1.0, 1.0, 3.0, 1.0]),
    }
    expected = np.diag(column_oracle(factor, whole, loss)) / 2
    close(effects.second_order(loss)(network, units, ones(units), batches)["units"], expected)
    dense = column_oracle(network, whole, loss)[12:, 12:].reshape(5, 4, 5, 4)
    expected = np.einsum("iu,iuju,ju->u", params["w"], dense, params["w"]) / 2
    close(effects.kernel_block(loss)(network, units, ones(units), batches)["units"], expected)
