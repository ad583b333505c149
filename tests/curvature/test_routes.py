"""Which route serves which leaf, what the plan says of it, and that outside of ``jit`` it is as right as inside."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.curvature import blocks, routes
from tests.curvature import networks
from tests.curvature.networks import close, flat

LOSS = jp.losses.cross_entropy
LETTERS = {
    "S": routes.SIGNALS,
    "U": routes.UNITS,
    "P": routes.POSITIONS,
    "B": routes.PRODUCTS,
    "N": routes.NOTHING,
}
# Computed outside of jit; blocks of these leaves.
OUTSIDE = {
    "perceptron": "unused",
    "depthwise": "torch",
    "smooth": "torch",
    "mixing": "w1",
    "scales": "place",
    "opaque": "reversed",
    "gates": "mix",
}


def served(plan):
    """The route of every leaf, and that the plan is complete."""
    found = {}
    for leg in plan.legs:
        assert leg.why
        assert leg.why in plan.why
        assert leg.route in plan.route
        assert leg.route in str(plan)
        if leg.route == routes.NOTHING:
            assert (leg.calls, leg.gradients, leg.bytes) == (0, 0, 0)
        else:
            assert leg.calls > 0
            assert leg.gradients > 0
            assert leg.bytes > 0
        for path in leg.paths:
            assert path not in found
            found[path] = leg.route
    assert plan.exact
    assert plan.gradients == sum(leg.gradients for leg in plan.legs)
    assert plan.bytes == max(leg.bytes for leg in plan.legs)
    assert str(plan).startswith(f"{plan.quantity} of the {plan.matrix}, exact: ")
    return found


@pytest.mark.parametrize("name", OUTSIDE)
def test_plan_gives_every_leaf_its_route_which_is_right_outside_of_jit(name):
    net, dense = networks.build(name), networks.dense(name)
    arguments, vector = (net.network, LOSS, net.batch), networks.vector(net.network.params)

    plan = jp.curvature.plan(*arguments, "block_product")
    assert served(plan) == {path: LETTERS[leaf.routes[0]] for path, leaf in net.leaves.items()}
    got = jp.curvature.block_product(*arguments, vector)
    close(flat(got), dense.inside(net.leaves, "unit", "hessian") @ flat(vector))

    plan = jp.curvature.plan(*arguments, "diagonal")
    assert served(plan) == {path: LETTERS[leaf.routes[1]] for path, leaf in net.leaves.items()}
    close(flat(jp.curvature.diagonal(*arguments)), np.diag(dense.matrices["hessian"]))

    path = OUTSIDE[name]
    plan = jp.curvature.plan(*arguments, "block", path=path, blocks="unit")
    assert served(plan) == {path: LETTERS[net.leaves[path].routes[2]]}
    expected = dense.blocks(path, net.leaves[path].units, "unit", "hessian")
    close(jp.curvature.block(*arguments, path, "unit"), expected)


@pytest.mark.parametrize("name", networks.NAMES)
def test_routes_are_the_expected_one_of_every_leaf(name):
    net = networks.build(name)
    for path, leaf in net.leaves.items():
        request = jp.curvature.blocks.request(net.network, LOSS, net.batch, "hessian", "unit", None, path)
        found = [
            *routes.product_tasks(request, net.network.params),
            *routes.diagonal_tasks(request),
            routes.block_task(request),
        ]
        assert [task.route for task in found] == [LETTERS[letter] for letter in leaf.routes], path


def tasks(name, matrix, blocks):
    """The routes of block products, without compiling them."""
    net = networks.build(name)
    request = jp.curvature.blocks.request(net.network, LOSS, net.batch, matrix, blocks, None)
    found = routes.product_tasks(request, net.network.params)
    return {path: task.route for task in found for path in task.paths}, {p: t.why for t in found for p in t.paths}


@pytest.mark.parametrize("name", networks.NAMES)
def test_routes_of_the_other_matrices_need_no_piecewise_linear_tail(name):
    net = networks.build(name)
    for matrix in ("ggn", "empirical_fisher"):
        found, _ = tasks(name, matrix, 2)
        for path, leaf in net.leaves.items():
            # No site, or examples that mix: products all the same.
            plain = (leaf.routes[1] == "B" and path not in ("embed/kernel",)) or (name, path) == ("mixing", "b1")
            expected = {routes.PRODUCTS, routes.EXAMPLES} if plain else {LETTERS["N" if path == "unused" else "S"]}
            assert found[path] in expected, path


@pytest.mark.parametrize("name", networks.NAMES)
def test_routes_of_layers_and_runs_of_the_hessian(name):
    net = networks.build(name)
    layers, _ = tasks(name, "hessian", "layer")
    runs, _ = tasks(name, "hessian", 2)
    for path, leaf in net.leaves.items():
        letter = leaf.routes[0]
        assert runs[path] == LETTERS["B" if letter == "U" else letter]
        choice = {"S": {routes.SIGNALS, routes.LAYERS}, "N": {routes.NOTHING}}.get(letter, {routes.LAYERS})
        assert layers[path] in choice


@pytest.mark.parametrize(
    ("name", "path", "why"),
    [
        ("tied", "twice", "it meets 2 operations (tied weights)"),
        ("tied", "scanned", "it enters through scan"),
        ("tied", "layers", "it enters through scan"),
        ("tied", "left", "it meets parameters or constants only, in dot_general"),
        ("tied", "cut", "it meets parameters or constants only, in reshape"),
        ("tied", "divisor", "it enters through div"),
        ("opaque", "reversed", "in rev"),
        ("opaque", "rule", "it enters through custom_jvp_call"),
        ("opaque", "chosen", "it enters through cond"),
        ("attention", "up/kernel", "what follows is not proven piecewise linear"),
        ("mixing", "w1", "the examples are not proven independent"),
        ("sideways", "w", "its kernel lies across the examples"),
        ("lines", "torch", "what follows is piecewise linear"),
    ],
)
def test_routes_name_the_reason(name, path, why):
    assert why in tasks(name, "hessian", "unit")[1][path]


def test_plan_sends_a_loss_that_mixes_the_examples_to_products():
    net = networks.build("perceptron")
    found = jp.curvature.plan(net.network, networks.together, net.batch, "diagonal", matrix="ggn")
    expected = {path: routes.UNITS if len(leaf.shape) == 1 else routes.PRODUCTS for path, leaf in net.leaves.items()}
    assert served(found) == {**expected, "unused": routes.NOTHING}
    assert "the loss is not proven to treat every example alone" in found.why


def _deep(p, _, x):
    for w in p["layers"]:
        x = jnp.maximum(x @ w, 0)
    return x @ p["head"]


@pytest.mark.parametrize(
    ("depth", "classes", "route"), [(1, 20, routes.LAYERS), (1, 2, routes.SIGNALS), (8, 3, routes.SIGNALS)]
)
def test_plan_takes_the_cheaper_of_two_routes_for_layers(depth, classes, route):
    params = {
        "layers": [jnp.asarray(networks.normal(at, 4, 4)) / 2 for at in range(depth)],
        "head": jnp.asarray(networks.normal(50, 4, classes)),
    }
    network = jp.Network(_deep, params)
    batch = {"image": networks.normal(51, 4, 4), "label": np.array([0, 1, 1, 0])}
    plan = jp.curvature.plan(network, LOSS, batch, "block_product", blocks="layer")
    assert set(served(plan).values()) == {route}
    assert f"{min(classes - 1, 4)} signals take about" in plan.why  # four at the inputs of the head
    leaves = {
        path: networks.Leaf(leaf.shape, (1,), "")
        for path, leaf in zip(jp.tree.names(params), jax.tree.leaves(params), strict=True)
    }
    got = jp.curvature.block_product(network, LOSS, batch, params, "layer")
    close(flat(got), networks.Dense(network, batch).inside(leaves, "layer", "hessian") @ flat(params))


def test_plan_of_a_scope_leaves_the_rest_zero_and_unplanned():
    net, dense = networks.build("gates"), networks.dense("gates")
    scope = {"gate": True, "mix": False, "value": True}
    arguments = (net.network, LOSS, net.batch)
    assert set(served(jp.curvature.plan(*arguments, "diagonal", scope=scope))) == {"gate", "value"}
    got = jp.curvature.diagonal(*arguments, scope=scope)
    expected = np.diag(dense.matrices["hessian"]).copy()
    expected[dense.leaf("mix")] = 0
    close(flat(got), expected)
    assert not np.any(got["mix"])


def test_plan_is_not_compiled_again():
    net = networks.build("gates")
    seen = []

    def listen(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    def run(batch):
        jp.curvature.block_product(net.network, LOSS, batch, net.network.params, "unit", memory=10**9)

    run({**net.batch, "image": net.batch["image"][:4], "label": net.batch["label"][:4], "weight": np.ones(4)})
    jp.curvature.plan(net.network, LOSS, net.batch, "block_product", memory=10**9)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(net.batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not seen


# A route each: which leaf of which network, and what of it.
NARROW = {
    "signals": ("perceptron", "w1", "diagonal"),
    "units": ("smooth", "grouped", "block_product"),
    "positions": ("smooth", "grouped", "diagonal"),
    "products": ("tied", "twice", "diagonal"),
}


@pytest.mark.parametrize("route", NARROW)
def test_plan_of_less_memory_has_narrower_chunks_and_the_same_numbers(route):
    name, path, quantity = NARROW[route]
    net = networks.build(name)
    scope = jp.tree.map_named(lambda leaf_name, _: leaf_name == path, net.network.params)
    arguments = (net.network, LOSS, net.batch)

    def plan(memory):
        return jp.curvature.plan(*arguments, quantity, scope=scope, memory=memory)

    def compute(memory):
        vector = [net.network.params] * (quantity == "block_product")
        return getattr(jp.curvature, quantity)(*arguments, *vector, scope=scope, memory=memory)

    widest = plan(10**9)
    memory = widest.bytes - 1
    narrower = plan(memory)
    assert widest.legs[0].calls < narrower.legs[0].calls
    assert narrower.bytes <= memory
    close(flat(compute(memory)), flat(compute(10**9)), 1e-12)
    message = rf"{widest.route} of {path}: needs .* GB, but 1e-09 GB may be taken.*Choose smaller blocks.*batch"
    with pytest.raises(MemoryError, match=message) as raised:
        compute(1)
    least = plan(1)
    assert (widest.fits, narrower.fits, least.fits) == (True, True, False)
    assert least.refusal == str(raised.value)
    assert f"\n    does not fit: {least.refusal}" in str(least)
    assert f"needs {least.bytes / 1e9:.3g} GB" in least.refusal


@pytest.mark.parametrize(("blocks", "needed"), [("layer", "115"), ("unit", "0.288"), (299, "0.572")])
def test_block_refuses_what_does_not_fit_before_it_is_allocated(blocks, needed):
    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.zeros((300, 400))})
    batch = {"image": np.ones((2, 300)), "label": np.zeros(2, int)}
    message = (
        rf"blocks={blocks!r} of w: needs {needed} GB, but 0.01 GB may be taken.*the largest that fit are.*block_product"
    )
    with pytest.raises(MemoryError, match=message) as raised:
        jp.curvature.block(network, LOSS, batch, "w", blocks, memory=10**7)
    # Not even traced: of a block that large that alone would take minutes.
    options = {"path": "w", "blocks": blocks, "memory": 10**7, "compile": False}
    plan = jp.curvature.plan(network, LOSS, batch, "block", **options)
    assert (plan.fits, plan.refusal) == (False, str(raised.value))
    assert f"{plan.bytes / 1e9:.3g}" == needed
    assert str(plan).startswith("block of the hessian, exact: gradients not counted, ")


def test_block_without_a_limit_takes_half_of_what_is_free_as_one():
    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.zeros((3000, 4000))})
    batch = {"image": np.ones((2, 3000)), "label": np.zeros(2, int)}
    with pytest.raises(MemoryError, match=r"blocks='layer' of w: needs 1.15e\+06 GB, but .* GB may be taken"):
        jp.curvature.block(network, LOSS, batch, "w", "layer")


def test_plan_of_a_block_is_of_the_blocks_that_are_computed_where_nothing_is_said():
    network = jp.Network(lambda p, s, x: jnp.tanh(x @ p["w"]), {"w": jnp.zeros((40, 64))})
    batch = {"image": np.ones((2, 40)), "label": np.zeros(2, int)}
    plan = jp.curvature.plan(network, LOSS, batch, "block", path="w", memory=10**6)
    with pytest.raises(MemoryError) as raised:
        jp.curvature.block(network, LOSS, batch, "w", memory=10**6)
    assert (plan.fits, plan.refusal) == (False, str(raised.value))


def test_blocks_of_one_unit_at_a_time_are_those_of_two_and_have_no_axis_of_one():
    def applied(p, s, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        z = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=numbers)
        return jax.nn.gelu(z).mean((1, 2)) @ p["head"]

    draw = np.random.default_rng(0)
    params = {name: jnp.asarray(draw.normal(size=s)) for name, s in {"kernel": (3, 3, 3, 4), "head": (4, 3)}.items()}
    batch = {"image": jnp.asarray(draw.normal(size=(2, 4, 4, 3))), "label": jnp.arange(2)}
    asked = blocks.request(jp.Network(applied, params), LOSS, batch, "hessian", "unit", None)
    (task,) = (task for task in routes.diagonal_tasks(asked) if task.route == routes.POSITIONS)
    assert task.width == 1  # sixteen positions
    expected = replace(task, width=2).call(np.array([2, 3]))
    np.testing.assert_allclose([*task.call(np.array([2])), *task.call(np.array([3]))], expected, rtol=1e-12)
    program, static = task._program()
    jaxpr = str(program.trace(*task.arguments, np.array([2]), **static).jaxpr)
    assert "[16,2,4,4,4]" in jaxpr  # positions side by side, and z
    assert "[1,16,2,4,4,4]" not in jaxpr
