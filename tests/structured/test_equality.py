"""Removing is gating, or refused: units are really cut, and a network that then computes something else is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.structured import Declared, Search, budgets, choosers, criteria, gated, remove, save, verify
from jaxprune.structured.equality import _turns, check_removal, rounding
from tests.structured import networks

WIDTH = 8
MEMBERS = (Member("in", 1), Member("scale", 0), Member("bias", 0), Member("out", 0, reads=True))


def images(count=4, shape=(2, 2, 3)):
    return np.random.default_rng(1).normal(size=(count, *shape))


def weights(**changes):
    """Scale and bias as at initialisation."""
    rng = np.random.default_rng(0)
    draw = {"in": rng.normal(size=(12, WIDTH)), "out": rng.normal(size=(WIDTH, 3))}
    return {**draw, "scale": np.ones(WIDTH), "bias": np.zeros(WIDTH), **changes}


def centred(h):
    return h - h.mean(-1, keepdims=True)


STATISTICS = {
    "LayerNorm": lambda h: centred(h) * jax.lax.rsqrt((centred(h) ** 2).mean(-1, keepdims=True) + 1e-5),
    "RMSNorm": lambda h: h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5),
    "GRN": lambda h: h * jnp.abs(h) / (jnp.abs(h).mean(-1, keepdims=True) + 1e-6),
    "softmax": jax.nn.softmax,
    "a width in the function": lambda h: h * (h.shape[-1] / WIDTH),
    "none": jax.nn.relu,
}


def between(statistic, zero=lambda params: params["out"]):
    """Two dense layers, and between them a statistic over the units, which are gated before and after it."""

    def apply(params, state, inputs):
        del state
        h = checkpoint_name(inputs.reshape(len(inputs), -1) @ params["in"], "pre")
        return checkpoint_name(statistic(h) * params["scale"] + params["bias"], "post") @ zero(params)

    return Declared(apply, (Group("units", WIDTH, MEMBERS, ("pre", "post")),))


def refused(specification, params, match, inputs=None):
    with pytest.raises(ValueError, match=match):
        check_removal(specification.network(params, {}), specification, images() if inputs is None else inputs)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "GRN", "softmax", "a width in the function"])
def test_check_removal_refuses_statistics_over_the_units(name):
    refused(
        between(STATISTICS[name]), weights(), r"to remove units of 'units' is not to gate them off.*LayerNorm, RMSN"
    )


def test_check_removal_refuses_a_mean_over_the_units_that_is_the_output():
    def apply(params, state, inputs):
        del state
        h = jax.nn.relu(inputs.reshape(len(inputs), -1) @ params["in"] * params["scale"] + params["bias"])
        return checkpoint_name(h, "post").mean(-1, keepdims=True) * jnp.ones(3)

    made = Declared(apply, (Group("units", WIDTH, MEMBERS[:3], ("post",)),))
    params = {name: value for name, value in weights().items() if name != "out"}
    refused(made, params, r"the outputs differ by \d.*a mean or maximum over channels")


def test_check_removal_refuses_units_that_are_outputs():
    apply = lambda params, state, inputs: checkpoint_name(inputs.reshape(len(inputs), -1) @ params, "units")  # noqa: E731
    units = Group("units", WIDTH, (Member("", 1),), ("units",))
    refused(Declared(apply, (units,)), weights()["in"], r"'units' .* the outputs have another shape")


@pytest.mark.parametrize("kind", [np.float32, jnp.bfloat16])
def test_verify_refuses_spatial_attention_over_channels(kind):
    def apply(params, state, inputs):
        del state
        h = checkpoint_name(jax.nn.relu(inputs @ params["a"]), "units")
        mask = jax.nn.sigmoid(jnp.stack([h.mean(-1), h.max(-1)], -1) @ params["c"])
        return (h * mask).mean((1, 2)) @ params["out"]

    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 8)), "c": rng.normal(size=(2, 1)), "out": rng.normal(size=(8, 3))}
    units = Group("units", 8, (Member("a", 1), Member("out", 0, reads=True)), ("units",))
    with jax.enable_x64(False):
        network = jp.Network(apply, jax.tree.map(lambda leaf: leaf.astype(kind), params))
        with pytest.raises(ValueError, match=r"to remove units of 'units' is not to gate them off.*less than 0\.00035"):
            verify(network, (units,), images().astype(kind))


@pytest.mark.parametrize("changes", [{"out": np.zeros((WIDTH, 3))}, {"scale": np.zeros(WIDTH)}])
def test_check_removal_sees_a_statistic_that_zeros_hide(changes):
    refused(between(STATISTICS["LayerNorm"]), weights(**changes), r"'units' is not to gate them off")


def test_check_removal_sees_a_statistic_that_random_weights_hide():
    # Random scales and biases are below 1.
    made = between(STATISTICS["LayerNorm"], lambda params: params["out"] * jax.nn.relu(params["bias"] - 1)[:, None])
    refused(made, weights(bias=np.full(WIDTH, 3.0)), r"'units' is not to gate them off")


@pytest.mark.parametrize("kind", [np.float64, np.float32, jnp.bfloat16])
def test_check_removal_allows_rounding_and_no_more(kind):
    # Sums of 2048 terms, which add up in another order when there are 1024.
    def made(function):
        def apply(params, state, inputs):
            del state
            return function(checkpoint_name(inputs.reshape(len(inputs), -1) @ params["in"], "units")) @ params["out"]

        members = (Member("in", 1), Member("out", 0, reads=True))
        return Declared(apply, (Group("units", 2048, members, ("units",)),))

    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(12, 2048)).astype(kind), "out": rng.normal(size=(2048, 3)).astype(kind)}
    inputs, plain = images().astype(kind), made(jax.nn.relu)
    check_removal(plain.network(params, {}), plain, inputs)
    refused(made(STATISTICS["RMSNorm"]), params, r"'units' is not to gate them off", inputs)


def test_rounding_is_that_of_the_coarsest_type_also_inside_of_a_loop():
    def apply(params, state, inputs):
        del params, state
        return jax.lax.scan(lambda x, _: (x.astype(jnp.bfloat16).astype(x.dtype), None), inputs, length=1)[0]

    assert rounding(jp.Network(apply, {}), images()) == 2**-3.5
    assert rounding(jp.Network(lambda params, state, inputs: inputs + 1, {}), images()) == 2**-26


def test_check_removal_takes_a_network_that_wants_its_own_types():
    def apply(params, state, inputs):
        del state
        x = inputs.reshape(len(inputs), 12, 1).astype(jnp.bfloat16)
        units = checkpoint_name(jax.lax.conv(x, params["in"].T[..., None], (1,), "SAME"), "units")
        return units[..., 0] @ params["out"]

    members = (Member("in", 1), Member("out", 0, reads=True))
    made = Declared(apply, (Group("units", WIDTH, members, ("units",), axis=1),))
    params = {name: weights()[name].astype(jnp.bfloat16) for name in ("in", "out")}
    check_removal(made.network(params, {}), made, images())


def test_check_removal_takes_residual_networks_that_are_new():
    # The last normalisation of every residual branch is zero.
    module, shape = jp.models.clip_resnet(64, 5, 4, (1, 1, 1, 2)), (64, 64, 3)
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables)
    check_removal(module.network(state.pop("params"), state), module, images(2, shape))


def test_check_removal_takes_a_network_of_shapes_alone():
    network = jax.eval_shape(lambda: networks.network("one_block"))
    check_removal(network, networks.build("one_block")[0], networks.images("one_block", 2))


def layered(skip=lambda x: x):
    """A residual block after the other; without its parameters a block is what ``skip`` makes of its input."""

    def apply(params, state, inputs):
        del state
        x = inputs.reshape(len(inputs), -1)
        for name in ("one", "two", "three"):
            x = x + checkpoint_name(jnp.tanh(x @ params[name]["w"]), name) if name in params else skip(x)
        return x

    return Declared(apply, tuple(Group(name, 1, (Member(name),), (name,)) for name in ("one", "two", "three")))


def test_check_removal_tries_every_layer():
    params = {name: {"w": np.random.default_rng(0).normal(size=(12, 12))} for name in ("one", "two", "three")}
    check_removal(layered().network(params, {}), layered(), images())
    refused(layered(lambda x: 2 * x), params, r"to remove units of 'one', 'two', 'three' is not to gate them off")
    made = layered()
    for name in params:

        def needs(params, state, inputs, name=name):
            return made.apply(params, state, inputs) + 0 * params[name]["w"][0]

        match = rf"units of '{name}' removed, but it raises KeyError: '{name}'.*and skip a layer whose parameters"
        refused(dataclasses.replace(made, apply=needs), params, match)


@pytest.mark.parametrize(("count", "floor"), [(1, 0), (2, 1), (3, 0), (5, 1), (5, 3), (4, 4)])
def test_turns_take_every_layer_away_and_leave_it_once(count, floor):
    groups = [Group(str(number), 1, (Member(str(number)),), (), floor=floor) for number in range(count)]
    turns = _turns(groups)
    assert all(count - len(turn) >= floor for turn in turns)
    if count > floor:
        assert set().union(*turns) == {group.name for group in groups}
        assert not set.intersection(*turns)
    else:
        assert turns == [set()]


def test_check_removal_says_that_nothing_can_be_compared():
    made = between(lambda h: h / 0)
    refused(made, weights(), r"network: its outputs are not finite")


def test_check_removal_names_only_the_group_that_is_wrong():
    def apply(params, state, inputs):
        del state
        first = checkpoint_name(jax.nn.relu(inputs.reshape(len(inputs), -1) @ params["in"]), "first")
        second = checkpoint_name(jax.nn.relu(first @ params["mid"]), "second")
        return second / (1 + second.mean(-1, keepdims=True)) @ params["out"]

    rng = np.random.default_rng(0)
    shapes = {"in": (12, WIDTH), "mid": (WIDTH, WIDTH), "out": (WIDTH, 3)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    groups = (
        Group("first", WIDTH, (Member("in", 1), Member("mid", 0, reads=True)), ("first",)),
        Group("second", WIDTH, (Member("mid", 1), Member("out", 0, reads=True)), ("second",)),
    )
    refused(Declared(apply, groups), params, r"to remove units of 'second' is not")


# The search.


def never(network, parent, step, stage):
    raise AssertionError


def search(**changes):
    options = {
        "criteria": {"layer": criteria.l1(), "neurons": criteria.l1()},
        "chooser": choosers.always("neurons"),
        "tune": never,
        "scoring": [{"image": images(), "label": np.zeros(4, int)}],
        "image_shape": (2, 2, 3),
        "target": 0.7,
        "budget": budgets.macs(0.2),
    }
    return Search(**options | changes)


def test_search_layernorm_over_the_units_is_refused_before_any_step():
    made = between(STATISTICS["LayerNorm"])
    with pytest.raises(ValueError, match=r"to remove units of 'units' is not to gate them off"):
        next(search()(made, made.network(weights(), {})))


class Fixed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = checkpoint_name(nn.relu(nn.Dense(WIDTH, name="a")(x.reshape(len(x), -1))), "a")
        return nn.Dense(3, name="b")(x)


def fixed():
    variables = Fixed().init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))
    network = jp.Network.from_linen(Fixed(), jax.tree.map(np.asarray, variables))
    members = (Member("a/kernel", 1), Member("a/bias", 0), Member("b/kernel", 0, reads=True))
    return network, (Group("a", WIDTH, members, ("a",)),)


FIXED = r"expected a network that can be evaluated with units of 'a' removed, but it raises ScopeParamShapeError.*width"


def test_search_fixed_widths_are_refused_before_any_step(tmp_path):
    network, groups = fixed()
    made = Declared(network.apply, groups)
    with pytest.raises(ValueError, match=FIXED):
        next(search()(made, network))
    with pytest.raises(ValueError, match=FIXED):
        verify(network, groups, images())
    left, params, state = remove(made, network.params, network.state, {"a": np.arange(WIDTH) < 4})
    with pytest.raises(ValueError, match=r"a function that was declared must read every width off its parameters"):
        save(tmp_path, left, params, state, (2, 2, 3))


def test_account_of_fixed_widths_says_so():
    def apply(params, state, inputs):
        del state
        x = inputs.reshape(len(inputs), 4, 3) @ params["in"]
        heads = checkpoint_name(jnp.einsum("bnd,bmd,bme->bne", x, x, x), "units")
        return heads.reshape(len(x), 4 * WIDTH)[:, :WIDTH] @ params["out"]

    members = (Member("in", 1), Member("out", 0, reads=True))
    made = Declared(apply, (Group("units", WIDTH, members, ("units",)),))
    with pytest.raises(
        ValueError, match=r"evaluated with units of 'units' removed, but it raises TypeError.*width off"
    ):
        jp.structured.account(made, {"in": np.ones((3, WIDTH)), "out": np.ones((WIDTH, 3))}, {}, (2, 2, 3))


def test_search_checks_again_whenever_its_base_was_made_smaller():
    # Right down to a width of 4, which the first check reaches; from a smaller base halves are below.
    made, tuned = between(lambda h: jax.nn.relu(h) * (1.0 if h.shape[-1] >= 4 else 2.0)), []

    def tune(network, parent, step, stage):
        tuned.append(step)
        return network

    found = search(tune=tune, compaction=jp.structured.Compaction(0, 1))(made, made.network(weights(), {}))
    assert next(found).number == 0
    assert next(found).specification.groups()[0].size < 7
    before = len(tuned)
    with pytest.raises(ValueError, match=r"'units' is not to gate them off"):
        next(found)
    assert len(tuned) == before


def test_search_refuses_a_network_that_its_specification_does_not_make():
    made = between(STATISTICS["none"])
    other = jp.Network(lambda params, state, inputs: made.apply(params, state, inputs / 255 - 0.5), weights())
    with pytest.raises(ValueError, match=r"specification: expected the shape of the network.*before a normalisation"):
        next(search()(made, other))
    with pytest.raises(ValueError, match=r"specification: expected the shape of the network"):
        verify(other, made, images())
    same = jp.Network(lambda *arguments: made.apply(*arguments), weights())
    assert next(search()(made, same)).number == 0


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        (
            lambda network, *_: network.replace(state=network.state["network"]),
            r"tune: expected the gated netw.*got \[\]",
        ),
        (lambda *_: None, r"tune: expected the gated network, trained.*but got NoneType"),
    ],
)
def test_search_names_what_tune_returned(tuned, message):
    made = between(STATISTICS["none"])
    with pytest.raises(ValueError, match=message):
        list(search(tune=tuned)(made, made.network(weights(), {})))


def test_search_names_a_specification_without_what_the_chooser_takes(unchecked):
    made = between(STATISTICS["none"])
    with pytest.raises(ValueError, match=r"groups that 'always-layer' can choose \(layer\), but it has neurons"):
        next(search(chooser=choosers.always("layer"))(made, made.network(weights(), {})))


# What is no specification.


@pytest.mark.parametrize(
    "call",
    [
        lambda network, module: next(search()(module, network)),
        lambda network, module: verify(network, module, images()),
        lambda network, module: remove(module, network.params, network.state, {}),
        lambda network, module: jp.structured.restore(module, {}, {}, {}, ({}, {})),
        lambda network, module: jp.structured.account(module, network.params, network.state, (2, 2, 3)),
        lambda network, module: jp.structured.reopen(module, network, None),  # type: ignore[arg-type]
        lambda network, module: save("", module, network.params, network.state, (2, 2, 3)),
        lambda network, module: jp.structured.export_pytorch("", module, network.params, network.state, (2, 2, 3)),
    ],
)
def test_check_specification_names_a_module_without_groups(call, unchecked):
    network, _ = fixed()
    with pytest.raises(
        ValueError, match=r"specification: expected .* a Fixed without groups\(\), without\(\), network"
    ):
        call(network, Fixed())
    with pytest.raises(ValueError, match=r"specification: expected .* got the class ResNet, and no object of it"):
        call(network, networks.ResNet)


@pytest.mark.parametrize(
    "call",
    [
        lambda network, groups: gated(network, groups, {}),
        lambda network, groups: jp.structured.factored(network, groups, {}),
        lambda network, groups: jp.structured.ones(groups),
    ],
)
def test_check_groups_names_what_is_no_sequence_of_groups(call, unchecked):
    network, (group,) = fixed()
    for groups, message in (
        (Fixed(), r"groups: expected a sequence of jaxprune.groups.Group, but got Fixed"),
        (["a"], r"groups: expected a sequence .* but got \['str'\]"),
        (
            [dataclasses.replace(group, sites="a")],
            r"'a': expected sites in a tuple, but got 'a'\. One alone needs a comma",
        ),
        ([dataclasses.replace(group, members=group.members[0])], r"'a': expected members in a tuple, but got Member"),
    ):
        with pytest.raises(ValueError, match=message):
            call(network, groups)
    assert list(jp.structured.ones(iter([group]))) == ["a"]


def test_gated_names_a_group_without_sites():
    network, (group,) = fixed()
    with pytest.raises(ValueError, match=r"groups: 'a' has no site, so that nothing would be gated"):
        gated(network, [dataclasses.replace(group, sites=())], {})


def test_verify_wants_groups():
    with pytest.raises(ValueError, match=r"groups: expected at least one, but got none"):
        verify(fixed()[0], ())


@pytest.mark.parametrize("batches", [[], [{"image": images(), "label": np.zeros(4, int), "weight": np.zeros(4)}]])
@pytest.mark.parametrize("make", [choosers.accuracy, choosers.cka, choosers.procrustes])
def test_choosers_name_batches_of_no_weight(make, batches):
    with pytest.raises(ValueError, match=r"batches: expected at least one example of weight above 0, but got none"):
        make(batches)
