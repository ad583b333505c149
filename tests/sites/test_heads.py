"""The linear head of a network, found or not, and the network that ends at a tagged value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.sites import outputs_at
from jaxprune.sites.heads import comes_before, find_head
from tests.sites.oracle import normal

PARAMS = {"b": normal(0, 9), "body": normal(1, 4, 3), "w": normal(2, 3, 9), "wt": normal(3, 9, 3)}
STATE = {"frozen": normal(4, 3, 9)}
IMAGES = normal(5, 2, 4)


def hidden(p, x):
    return jnp.tanh(x @ p["body"])


# A network, and whether its kernel is [c, d].
FOUND = {
    "alone": (lambda p, s, x: hidden(p, x) @ p["w"], False),
    "bias": (lambda p, s, x: hidden(p, x) @ p["w"] + p["b"], False),
    "bias first": (lambda p, s, x: p["b"] + hidden(p, x) @ p["w"], False),
    "subtracted": (lambda p, s, x: p["b"] - hidden(p, x) @ p["w"], False),
    "two biases": (lambda p, s, x: hidden(p, x) @ p["w"] + p["b"] - 2.0, False),
    "of the state": (lambda p, s, x: hidden(p, x) @ s["frozen"], False),
    "a constant": (lambda p, s, x: hidden(p, x) @ PARAMS["w"], False),
    "contracted last": (lambda p, s, x: jax.lax.dot_general(hidden(p, x), p["wt"], (((1,), (1,)), ((), ()))), True),
    "transposed": (lambda p, s, x: hidden(p, x) @ p["wt"].T + p["b"], False),
    "made of parameters": (lambda p, s, x: hidden(p, x) @ (p["w"] * 2 + p["b"]), False),
    "tagged": (lambda p, s, x: checkpoint_name(hidden(p, x) @ p["w"], "outputs"), False),
    "cast": (lambda p, s, x: (hidden(p, x) @ p["w"]).astype(jnp.float32).astype(jnp.float64), False),
    "inside jit": (lambda p, s, x: jax.jit(lambda h, w: h @ w)(hidden(p, x), p["w"]), False),
}


@pytest.mark.parametrize("name", FOUND)
def test_find_head_finds_a_product_whatever_is_added_to_it(name):
    apply, transposed = FOUND[name]
    program = jp.sites.survey(jp.Network(apply, PARAMS, STATE), IMAGES).program
    head = find_head(program)
    assert (head.width, head.transposed) == (3, transposed)
    _, kept = program.run(jax.tree.leaves((PARAMS, STATE, IMAGES)), {}, sorted({head.inputs, *head.needs}))
    np.testing.assert_allclose(kept[head.inputs], np.tanh(IMAGES @ PARAMS["body"]), rtol=1e-12)
    (kernel,) = (kept[number] for number in head.needs)
    move = normal(6, 2, 3)
    by_hand = jax.jvp(lambda h: _after(program, head, h), (kept[head.inputs],), (move,))[1]
    sign = -1 if name == "subtracted" else 1
    np.testing.assert_allclose(sign * move @ (kernel.T if transposed else kernel), by_hand, rtol=1e-5)


def _after(program, head, inputs):
    """The outputs as a function of the inputs of the head."""
    return program.run(jax.tree.leaves((PARAMS, STATE, IMAGES)), {head.inputs: lambda _: inputs})[0][0]


NOT_FOUND = {
    "scaled": lambda p, s, x: 2 * (hidden(p, x) @ p["w"]),
    "scaled by a parameter": lambda p, s, x: hidden(p, x) @ p["w"] * p["b"],
    "two heads added": lambda p, s, x: hidden(p, x) @ p["w"] + jnp.sin(x @ p["body"]) @ s["frozen"],
    "beside the head": lambda p, s, x: hidden(p, x) @ p["w"] + x.sum(1, keepdims=True),
    "nonlinear after": lambda p, s, x: jnp.tanh(hidden(p, x) @ p["w"]),
    "a kernel of the images": lambda p, s, x: hidden(p, x) @ (p["w"] * x.mean()),
    "from the left": lambda p, s, x: (p["wt"] @ hidden(p, x).T).T,
    "over positions": lambda p, s, x: (hidden(p, x)[:, None] @ p["w"])[:, 0],
    "broadcast": lambda p, s, x: (hidden(p, x) @ p["w"][:, :1]) + p["b"],
    "sliced": lambda p, s, x: (hidden(p, x) @ p["w"])[:, :5],
    "no product": lambda p, s, x: hidden(p, x) + p["b"][:3],
    "a rule of its own": lambda p, s, x: jax.nn.relu(hidden(p, x) @ p["w"]),
    "constant": lambda p, s, x: jnp.zeros((2, 9)) + p["b"],
}


@pytest.mark.parametrize("name", NOT_FOUND)
def test_find_head_finds_none_where_the_outputs_are_not_a_product_and_a_sum(name):
    program = jp.sites.survey(jp.Network(NOT_FOUND[name], PARAMS, STATE), IMAGES).program
    assert find_head(program) is None


def test_comes_before_is_true_where_the_outputs_read_a_leaf_through_the_head_alone():
    params = {**PARAMS, "gain": np.ones(3), "made": normal(7, 3, 9)}

    def apply(p, s, x):
        kernel = (jnp.eye(3) @ p["made"]) + p["w"]
        return hidden(p, x) * p["gain"] @ kernel + p["b"]

    found = jp.sites.survey(jp.Network(apply, params, STATE), IMAGES)
    head = find_head(found.program)
    assert head.width == 3
    before = {path: comes_before(found.program, head, site) for path, site in found.sites.items()}
    assert {path for path, is_before in before.items() if is_before} == {"body", "gain"}
    assert not before["b"]


@pytest.mark.parametrize("classes", [3, 4, 5, 9])
def test_find_head_is_used_where_its_inputs_are_fewer_than_the_columns(classes):
    network = jp.Network(lambda p, s, x: hidden(p, x) @ p["w"][:, :classes], PARAMS, STATE)
    for loss, columns in ((jp.losses.distillation(), classes), (jp.losses.distillation("kl"), classes - 1)):
        plan = jp.curvature.plan(network, loss, {"image": IMAGES}, "diagonal", compile=False)
        said = f"3 columns at the inputs of the head stand for {columns}"
        assert (said in plan.why) == (columns > 3)


# Networks that end at a tagged value.
def tagged(params, state, images):
    value = checkpoint_name(jnp.tanh(images.reshape(len(images), 2, 2) * params), "inside")
    return value.sum(2) + state["shift"]


def training(params, state, images, rngs):
    noise = jax.random.normal(rngs["noise"], images.shape)
    return tagged(params, state, images + noise), {"shift": state["shift"] + 1.0}


def tagging():
    return jp.Network(tagged, normal(8, 2, 2), {"shift": jnp.zeros(2)}, training)


def test_outputs_at_is_the_tagged_value_by_example_and_is_differentiated():
    network = outputs_at(tagging(), "inside")
    expected = np.tanh(IMAGES.reshape(2, 2, 2) * network.params).reshape(2, 4)
    np.testing.assert_allclose(network(IMAGES), expected, rtol=1e-12)
    found = jax.grad(lambda params: jnp.sum(network.apply(params, network.state, IMAGES)))(network.params)
    np.testing.assert_allclose(
        found, np.sum((1 - expected**2).reshape(2, 2, 2) * IMAGES.reshape(2, 2, 2), 0), rtol=1e-9
    )


def test_outputs_at_in_training_returns_the_value_and_the_state_that_training_leaves():
    network, rngs = outputs_at(tagging(), "inside"), {"noise": jax.random.key(3)}
    value, state = network.train_apply(network.params, network.state, IMAGES, rngs)
    noisy = IMAGES + np.asarray(jax.random.normal(rngs["noise"], IMAGES.shape))
    np.testing.assert_allclose(value, np.tanh(noisy.reshape(2, 2, 2) * network.params).reshape(2, 4), rtol=1e-12)
    assert jax.tree.structure(state) == jax.tree.structure(network.state)
    np.testing.assert_array_equal(state["shift"], np.ones(2))
    assert outputs_at(tagging().replace(train_apply=None), "inside").train_apply is None


def test_outputs_at_is_equal_by_value_so_that_programs_are_shared():
    first, second = (outputs_at(tagging(), "inside") for _ in range(2))
    assert first.apply == second.apply
    assert hash(first.train_apply) == hash(second.train_apply)
    assert first.apply != outputs_at(tagging(), "elsewhere").apply


def test_outputs_at_refuses_a_value_that_is_not_there_or_not_of_the_examples():
    with pytest.raises(ValueError, match=r"at: unknown value 'insid'\. Did you mean 'inside'"):
        outputs_at(tagging(), "insid")(IMAGES)
    network = jp.Network(lambda p, s, x: checkpoint_name(x.sum(0, keepdims=True), "mean") + 0 * x, {})
    with pytest.raises(
        ValueError, match=r"at: expected a tagged value whose first axis counts the 2 images, but 'mean'"
    ):
        outputs_at(network, "mean")(IMAGES)
    network = jp.Network(lambda p, s, x: checkpoint_name(x.sum(1), "sum")[:, None] + 0 * x, {})
    with pytest.raises(ValueError, match=r"has the shape \(2,\)"):
        outputs_at(network, "sum")(IMAGES)
