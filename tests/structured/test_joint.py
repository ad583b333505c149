"""Gates pruned jointly: the Hessian against dense derivatives, the order against brute force, folds against gates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.groups import Group, Member
from jaxprune.structured import Declared, factored, fold, gate_hessian, gated, ones, prune_jointly, readjusted, remove
from jaxprune.structured import joint as module_of_joint
from jaxprune.structured.compensation import Fixed, Surgeon
from jaxprune.structured.folding import check_folding
from tests.structured import networks

LOSSES = {"squared": jp.losses.distillation(), "kl": jp.losses.distillation("kl", 2)}


def distance(kind, target, share):
    """The weighted mean distance of outputs to a target that is held constant, written out."""
    if kind == "squared":
        return lambda outputs: share @ jnp.sum((outputs - target) ** 2, -1)
    q = jax.nn.softmax(target / 2)
    return lambda outputs: -4 * share @ jnp.sum(q * jax.nn.log_softmax(outputs / 2), -1)


def dense_hessian(name, kind, gates):
    """By factors at all units and layers, through scaled weights: no site is involved."""
    specification, _, state = networks.build(name)
    batch = networks.batch(name)
    share = batch["weight"] / batch["weight"].sum()
    start, unravel = ravel_pytree([np.ones(group.size) for group in specification.groups()])

    def outputs(flat):
        named = zip(specification.groups(), unravel(flat), strict=True)
        factors = {group.name: factor * gates[group.name] for group, factor in named}
        return specification.network(networks.scaled(name, factors), state)(batch["image"])

    mean = distance(kind, outputs(start), share)
    return np.asarray(jax.jit(jax.hessian(lambda flat: mean(outputs(flat))))(start))


@pytest.mark.parametrize(("name", "kind"), [("resnet", "squared"), ("vit", "kl"), ("mlp", "kl"), ("mlp", "squared")])
def test_gate_hessian_is_the_dense_hessian_by_factors(name, kind):
    specification, *_ = networks.build(name)
    batch, groups = networks.batch(name), specification.groups()
    gates = networks.random_gates(groups, 2, "units") if name == "mlp" else ones(groups)
    want = dense_hessian(name, kind, gates)
    got = gate_hessian(networks.network(name), groups, [batch], loss=LOSSES[kind], gates=gates)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * np.abs(want).max())
    edges = np.cumsum([0, *(group.size for group in groups)])
    between = want[: edges[1], edges[1] :]
    assert np.abs(between).max() > 1e-3 * np.abs(want).max()
    blocks = gate_hessian(networks.network(name), groups, [batch], loss=LOSSES[kind], gates=gates, blocks="group")
    for group, low, high in zip(groups, edges, edges[1:], strict=False):
        np.testing.assert_allclose(blocks[group.name], want[low:high, low:high], rtol=1e-9, atol=1e-12)


def test_gate_hessian_does_not_depend_on_batches_and_padding():
    specification, *_ = networks.build("mlp")
    batch, network, groups = networks.batch("mlp", 6), networks.network("mlp"), specification.groups()
    whole = gate_hessian(network, groups, [batch])
    parts = [{name: entry[part] for name, entry in batch.items()} for part in (slice(0, 1), slice(1, 6))]
    padded = {name: np.concatenate([entry, entry[:2]]) for name, entry in parts[1].items()}
    padded["image"] = padded["image"].copy()
    padded["image"][-2:] = np.nan
    padded["weight"] = np.append(parts[1]["weight"], [0.0, 0.0])
    got = gate_hessian(network, groups, iter([parts[0], padded]))
    np.testing.assert_allclose(got, whole, rtol=1e-12, atol=1e-15)


def several(params, state, images):
    """Units that are gated in two places, and units of two neighbours each."""
    del state
    x = images.reshape(len(images), -1)
    one = checkpoint_name(jnp.tanh(x @ params["one"]), "one")
    two = checkpoint_name(jnp.sin(x @ params["two"]), "two")
    wide = checkpoint_name(jnp.tanh((one + two) @ params["wide"]), "wide")
    return wide @ params["out"]


def test_gate_hessian_of_units_of_several_places_and_of_neighbours():
    rng = np.random.default_rng(0)
    shapes = {"one": (4, 3), "two": (4, 3), "wide": (3, 4), "out": (4, 3)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    both = Group("both", 3, (Member("one", 1), Member("two", 1), Member("wide", 0, reads=True)), ("one", "two"))
    pairs = Group("pairs", 2, (Member("wide", 1, 2), Member("out", 0, 2, reads=True)), ("wide",))
    batch, network = networks.batch("mlp"), jp.Network(several, params)
    share = batch["weight"] / batch["weight"].sum()

    def outputs(v):
        x = batch["image"].reshape(5, -1)
        x = v[:3] * (jnp.tanh(x @ params["one"]) + jnp.sin(x @ params["two"]))
        return (jnp.repeat(v[3:], 2) * jnp.tanh(x @ params["wide"])) @ params["out"]

    mean = distance("kl", outputs(jnp.ones(5)), share)
    want = jax.hessian(lambda v: mean(outputs(v)))(jnp.ones(5))
    got = gate_hessian(network, (both, pairs), [batch], loss=LOSSES["kl"])
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)


def test_gate_hessian_of_labels_is_that_between_groups_too():
    """After every gate the network is piecewise linear; between two of them the Hessian is not Gauss and Newton's."""
    specification, params, _ = stacked()
    batch = networks.batch("mlp", 20)
    share = batch["weight"] / batch["weight"].sum()
    start, unravel = ravel_pytree({"a": np.ones(3), "b": np.ones(5)})

    def mean(flat):
        v = unravel(flat)
        x = jax.nn.relu(batch["image"].reshape(20, -1) @ params["in"]) * v["a"]
        x = jax.nn.relu(x @ params["mid"]) * v["b"]
        return share @ -jax.nn.log_softmax(x @ params["out"])[np.arange(20), batch["label"]]

    want = jax.hessian(mean)(start)
    network = specification.network(params, {})
    got = gate_hessian(network, specification.groups(), [batch], loss=jp.losses.cross_entropy)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)


def layers(params, state, images):
    del state
    x = checkpoint_name(jax.nn.relu(images.reshape(len(images), -1) @ params["in"]), "a")
    return checkpoint_name(jax.nn.relu(x @ params["mid"]), "b") @ params["out"]


A = Group("a", 3, (Member("in", 1), Member("mid", 0, reads=True)), ("a",))
B = Group("b", 5, (Member("mid", 1), Member("out", 0, reads=True)), ("b",))


def stacked(open_units=False):
    """Two layers of units with a kernel between them; and some positive matrix by the eight gates."""
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(4, 3)), "mid": rng.normal(size=(3, 5)), "out": rng.normal(size=(5, 3))}
    if open_units:
        params["mid"] = np.abs(params["mid"])
    root = rng.normal(size=(8, 12)) * rng.uniform(0.2, 2, size=(8, 1))
    return Declared(layers, (A, B)), params, root @ root.T


def quadratic(matrix, kept):
    """The minimum of (v - 1)' A (v - 1) / 2 over the kept entries, and where it is."""
    v = np.zeros(len(matrix))
    v[kept] = 1 + np.linalg.solve(matrix[np.ix_(kept, kept)], matrix[np.ix_(kept, ~kept)].sum(1))
    return (v - 1) @ matrix @ (v - 1) / 2, v


def costs(per, specification, params):
    """What the network costs whose first units of both groups live, really cut."""
    if per == "units":
        return lambda kept: kept.sum()

    def cost(kept):
        smaller, *arrays = remove(specification, params, {}, {"a": kept[:3], "b": kept[3:]})
        network = smaller.network(*arrays)
        return jp.cost.parameters(network) if per == "parameters" else jp.cost.macs(network, (2, 2, 1))

    return cost


@pytest.mark.parametrize("readjust", [True, False])
@pytest.mark.parametrize("per", ["units", "operations", "parameters"])
def test_prune_jointly_takes_the_order_of_brute_force(per, readjust):
    """At every step every candidate is tried, and the normal equations solved anew."""
    specification, params, hessian = stacked()
    damped = hessian + 0.1 * np.mean(np.diag(hessian)) * np.eye(8)
    target, cost = {"units": 0.75, "operations": 0.7, "parameters": 0.7}[per], costs(per, specification, params)
    found = prune_jointly(
        *(specification.network(params, {}), specification, [networks.batch("mlp")], target),
        **{"per": per, "damping": 0.1, "readjust": readjust, "hessian": hessian},
    )
    kept, whole, order, predicted = np.ones(8, bool), cost(np.ones(8, bool)), [], []

    def value(kept):
        return quadratic(damped, kept)[0] if readjust else (~kept) @ hessian @ ~kept / 2

    while whole - cost(kept) < target * whole:
        candidates = []
        for gate in np.flatnonzero(kept):
            less = kept & (np.arange(8) != gate)
            if less[:3].any() and less[3:].any():
                rise, saved = value(less) - value(kept), cost(kept) - cost(less)
                candidates.append((rise * saved if rise < 0 else rise / saved, gate))
        kept[min(candidates)[1]] = False
        order.append(min(candidates)[1])
        v = quadratic(damped, kept)[1] if readjust else kept
        predicted.append((v - 1) @ hessian @ (v - 1) / 2)
    names = [("a", int(gate)) if gate < 3 else ("b", int(gate) - 3) for gate in order]
    assert found.order == tuple(names)
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-9)
    np.testing.assert_array_equal(np.concatenate([found.gates["a"], found.gates["b"]]), kept)
    v = quadratic(damped, kept)[1] if readjust else kept
    np.testing.assert_allclose(np.concatenate([found.factors["a"], found.factors["b"]]), v, rtol=1e-9)
    assert found.removed == pytest.approx(1 - cost(kept) / whole)
    assert found.macs == costs("operations", specification, params)(kept)
    assert found.parameters == costs("parameters", specification, params)(kept)


def test_prune_jointly_counts_units_exactly():
    specification, params, hessian = stacked()
    for count in range(1, 7):
        found = prune_jointly(
            *(specification.network(params, {}), specification, [networks.batch("mlp")], count / 8),
            **{"per": "units", "hessian": hessian},
        )
        assert len(found.order) == 8 - sum(gates.sum() for gates in found.gates.values()) == count


def test_surgeon_has_the_prices_of_the_normal_equations_through_all_its_inversions():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(40, 60)) * rng.uniform(0.1, 3, size=(40, 1))
    block = root @ root.T
    surgeon, kept, shift = Surgeon(block, 0.5, np.zeros(40), np.ones(40, bool)), np.ones(40, bool), 0.5
    for gate in rng.permutation(40)[:38]:
        before, v = quadratic(block + shift * np.eye(40), kept)
        np.testing.assert_allclose(surgeon.factors, v, rtol=1e-8, atol=1e-9)
        less = kept & (np.arange(40) != gate)
        after, _ = quadratic(block + shift * np.eye(40), less)
        assert surgeon.values[gate] == pytest.approx(after - before, rel=1e-7)
        surgeon.remove(int(gate))
        kept = less
    assert np.all(surgeon.factors[~kept] == 0)


def test_fixed_has_the_prices_of_the_quadratic():
    _, _, block = stacked()
    prices, kept = Fixed(block, np.zeros(8), np.ones(8, bool)), np.ones(8, bool)
    for gate in (3, 0, 6):
        less = kept & (np.arange(8) != gate)
        want = ((~less) @ block @ ~less - (~kept) @ block @ ~kept) / 2
        assert prices.values[gate] == pytest.approx(want)
        prices.remove(gate)
        kept = less


def test_readjusted_solves_the_normal_equations():
    _, _, hessian = stacked()
    gates = {"a": np.array([True, False, True]), "b": np.arange(5) % 2 > 0}
    kept = np.concatenate([gates["a"], gates["b"]])
    for damping in (0.0, 1e-2, 10.0):
        v = np.concatenate(list(readjusted((A, B), hessian, gates, damping=damping).values()))
        shift = damping * np.mean(np.diag(hessian))
        slope = hessian @ (v - 1) + shift * (v - 1)
        assert np.abs(slope[kept]).max() < 1e-10 * np.abs(hessian).max()
        assert np.all(v[~kept] == 0)
    # Damped without end, nothing moves.
    v = readjusted((A, B), hessian, gates, damping=1e12)
    np.testing.assert_allclose(v["b"], gates["b"], atol=1e-9)


def test_readjusted_of_blocks_is_that_of_a_matrix_of_blocks():
    _, _, hessian = stacked()
    gates = {"a": np.array([True, False, True]), "b": np.arange(5) % 2 > 0}
    blocks = {"a": hessian[:3, :3], "b": hessian[3:, 3:]}
    whole = np.zeros((8, 8))
    whole[:3, :3], whole[3:, 3:] = blocks.values()
    got, want = (readjusted((A, B), given, gates) for given in (blocks, whole))
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-12)
    specification, params, _ = stacked()
    arguments = (specification.network(params, {}), specification, [networks.batch("mlp")], 0.5)
    one, other = (prune_jointly(*arguments, per="units", hessian=given) for given in (blocks, whole))
    assert one.order == other.order
    np.testing.assert_allclose(one.predicted, other.predicted, rtol=1e-12)


def test_readjusted_makes_up_for_units_that_are_the_same():
    """A unit that is there three times: one of them does the work of all, and the network stays what it was."""
    specification, params, _ = stacked(open_units=True)
    params["in"][:, 1:], params["mid"][1:] = params["in"][:, :1], params["mid"][:1]
    network, batch = specification.network(params, {}), networks.batch("mlp", 40)
    found = prune_jointly(network, (A,), [batch], 0.66, per="units", damping=1e-9)
    assert sorted(found.factors["a"]) == pytest.approx([0, 0, 3], rel=1e-6)
    np.testing.assert_allclose(found.smaller(batch["image"]), network(batch["image"]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet", "vit", "windows", "mlp"])
def test_fold_is_scaling_at_the_sites_and_the_smaller_network_is_both(name):
    specification, params, state = networks.build(name)
    network, images = networks.network(name), networks.images(name)
    units = [group for group in specification.groups() if not group.is_layer]
    rng = np.random.default_rng(0)
    gates = networks.random_gates(specification.groups(), 1, "units")
    factors = {group.name: gates[group.name] * rng.normal(size=group.size) for group in units}
    folded = fold(network, units, factors)
    scaled = factored(network, units, {}).replace(params=jax.tree.map(jnp.asarray, factors))
    want = networks.evaluate(scaled, images)
    assert networks.distance(networks.evaluate(folded, images), want) < 1e-10
    smaller, *arrays = remove(specification, folded.params, state, gates)
    assert networks.distance(networks.evaluate(smaller.network(*arrays), images), want) < 1e-10
    assert networks.distance(want, networks.evaluate(network, images)) > 1e-2
    assert jax.tree.map(lambda leaf: leaf.shape, folded.params) == jax.tree.map(lambda leaf: leaf.shape, params)


@pytest.mark.parametrize(("name", "kind"), [("resnet", "squared"), ("one_block", "kl")])
def test_prune_jointly_folds_what_it_found_and_meets_its_target(name, kind):
    specification, params, state = networks.build(name)
    network, batch = networks.network(name), networks.batch(name)
    image, groups = networks.MODULES[name][1], specification.groups()
    whole = jp.cost.macs(network, image)
    found = prune_jointly(network, groups, [batch], 0.2, loss=LOSSES[kind])
    units = [group for group in groups if not group.is_layer]
    scaled = factored(network, units, {}).replace(params=jax.tree.map(jnp.asarray, found.factors))
    want = networks.evaluate(scaled, batch["image"])
    for other in (found.network, found.smaller, gated(found.network, groups, found.gates)):
        assert networks.distance(networks.evaluate(other, batch["image"]), want) < 1e-10
    assert found.macs == jp.cost.macs(found.smaller, image)
    assert found.parameters == jp.cost.parameters(found.smaller)
    assert found.removed == pytest.approx(1 - found.macs / whole)
    group, unit = found.order[-1]
    before = found.gates | {group: found.gates[group] | (np.arange(len(found.gates[group])) == unit)}
    before_it, *arrays = remove(specification, params, state, before)
    assert found.macs <= 0.8 * whole < jp.cost.macs(before_it.network(*arrays), image)
    assert all(found.gates[group.name].all() for group in groups if group.is_layer)
    # As they are, kept gates cost more.
    target = len(found.order) / sum(group.size for group in units)
    plain = prune_jointly(network, groups, [batch], target, loss=LOSSES[kind], per="units", readjust=False)
    joint = prune_jointly(network, groups, [batch], target, loss=LOSSES[kind], per="units")
    assert joint.predicted[-1] < plain.predicted[-1]
    assert all(np.all(plain.factors[group.name] == plain.gates[group.name]) for group in units)


def test_prune_jointly_takes_dead_units_first_and_at_no_cost():
    specification, params, _ = stacked(open_units=True)
    params["out"][[1, 4]] = 0
    params["mid"][2] = 0
    network, batch = specification.network(params, {}), networks.batch("mlp", 40)
    for readjust in (True, False):
        found = prune_jointly(network, specification, [batch], 0.5, per="units", damping=1.0, readjust=readjust)
        assert set(found.order[:3]) == {("a", 2), ("b", 1), ("b", 4)}
        assert np.all(found.predicted[:3] == 0)
        assert found.predicted[3] > 1e-3
    nothing = "hessian: expected a loss that depends on the units"
    with pytest.raises(ValueError, match=nothing):
        readjusted((A, B), np.zeros((8, 8)), {})
    for readjust in (True, False):
        with pytest.raises(ValueError, match=nothing):
            prune_jointly(network, specification, [batch], 0.5, hessian=np.zeros((8, 8)), readjust=readjust)


def normalised(params, state, images):
    del state
    x = checkpoint_name(images.reshape(len(images), -1) @ params["in"], "a")
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return checkpoint_name(jax.nn.relu(x @ params["mid"]), "b") @ params["out"]


def activated(params, state, images):
    del state
    x = jax.nn.relu(checkpoint_name(images.reshape(len(images), -1) @ params["in"], "a"))
    return checkpoint_name(jax.nn.relu(x @ params["mid"]), "b") @ params["out"]


def test_check_folding_refuses_before_anything_is_computed(monkeypatch):
    """Units that a normalisation is over, and units behind whose site an activation follows."""
    monkeypatch.setattr(module_of_joint, "gate_hessian", None)
    _, params, _ = stacked()
    refused = r"gates that cannot be folded \(normalised over units.*those of 'a': folded, the outputs differ by"
    for apply, readjust in ((normalised, True), (normalised, False), (activated, True)):
        specification = Declared(apply, (A, B))
        arguments = (specification.network(params, {}), specification, [networks.batch("mlp")], 0.5)
        with pytest.raises(ValueError, match=refused):
            prune_jointly(*arguments, readjust=readjust)
    images = networks.images("mlp")
    check_folding(Declared(activated, (A, B)).network(params, {}), (A, B), images, switched=True)
    unread = replace(A, members=(Member("in", 1),))
    with pytest.raises(ValueError, match="those of 'a': no kernel reads their units"):
        check_folding(Declared(layers, (unread,)).network(params, {}), (unread,), images)
    with pytest.raises(ValueError, match="no kernel reads their units"):
        fold(Declared(layers, (unread,)).network(params, {}), (unread,), {"a": np.ones(3)})


def test_fold_refuses_factors_that_do_not_fit():
    specification, params, _ = stacked()
    network = specification.network(params, {})
    with pytest.raises(ValueError, match="factors: unknown value 'c'"):
        fold(network, (A, B), {"c": np.ones(3)})
    for wrong in (np.ones(4), np.array([1.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="factors: expected 3 finite numbers for 'a'"):
            fold(network, (A, B), {"a": wrong})


REFUSED = {
    "a loss of labels": ({"loss": jp.losses.cross_entropy}, "loss: expected the distance of the network to itself"),
    "a target of 1": ({"target": 1.0}, r"target: expected the share that goes, in \(0, 1\), but got 1.0"),
    "a target beyond the floors": ({"target": 0.9, "per": "units"}, "from one of them to 0.75 .* but got 0.9"),
    "a target of no unit": ({"target": 0.05, "per": "units"}, "from one of them"),
    "an unknown currency": ({"per": "seconds"}, "per: unknown value 'seconds'"),
    "unknown blocks": ({"blocks": "unit"}, "blocks: unknown value 'unit'"),
    "a negative damping": ({"damping": -1.0}, "damping: expected a finite number of 0 or more, but got -1.0"),
    "a Hessian of others": ({"hessian": np.eye(7)}, r"hessian: expected \[8, 8\].*got \[7, 7\]"),
    "blocks of others": ({"hessian": {"a": np.eye(3)}}, "expected a block for every group, but got none for b"),
    "a Hessian with holes": ({"hessian": np.full((8, 8), np.nan)}, "hessian: expected finite numbers"),
    "no damping where it is singular": ({"hessian": np.ones((8, 8)), "damping": 0.0}, "stand above the rounding"),
    "no damping where there is no minimum": (
        {"hessian": np.eye(8) - np.ones((8, 8)) * 0.5, "damping": 1},
        "positive definite",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_prune_jointly_refuses(what):
    changes, message = REFUSED[what]
    specification, params, _ = stacked()
    given = {"target": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        prune_jointly(
            specification.network(params, {}), specification, [networks.batch("mlp")], given.pop("target"), **given
        )


def test_prune_jointly_refuses_teachers_layers_and_what_does_not_fit(monkeypatch):
    specification, params, _ = stacked()
    network, batch = specification.network(params, {}), networks.batch("mlp")
    with pytest.raises(ValueError, match="batches that have no 'teacher'"):
        prune_jointly(network, specification, [batch | {"teacher": np.zeros((5, 3))}], 0.5)
    layer = Group("mid", 1, (Member("mid"),), ("b",))
    with pytest.raises(ValueError, match=r"groups: expected units .* but got layers alone"):
        prune_jointly(network, (layer,), [batch], 0.5)
    monkeypatch.setattr(module_of_joint, "gate_hessian", None)
    with pytest.raises(MemoryError, match=r'pruning 8 gates jointly: needs .* Take blocks="group"'):
        prune_jointly(network, specification, [batch], 0.5, memory=100)


def test_gate_hessian_refuses_what_does_not_fit_before_it_is_taken():
    specification, params, _ = stacked()
    network, batch = specification.network(params, {}), networks.batch("mlp")
    with pytest.raises(MemoryError, match=r'the Hessian by 8 gates: needs .* Take blocks="group"'):
        gate_hessian(network, specification.groups(), [batch], memory=100)
    with pytest.raises(ValueError, match="blocks: unknown value 'layer'"):
        gate_hessian(network, specification.groups(), [batch], blocks="layer")
    with pytest.raises(ValueError, match="which the network does not tag"):
        gate_hessian(network, (replace(A, sites=("nowhere",)),), [batch])


def test_prune_jointly_in_rounds_minimises_where_the_network_stands():
    """The second round, by hand: products of per-example derivatives at the folded network, normal equations solved."""
    specification, params, _ = stacked(open_units=True)
    network, batch = specification.network(params, {}), networks.batch("mlp", 40)
    share, x = batch["weight"] / batch["weight"].sum(), batch["image"].reshape(40, -1)
    found = prune_jointly(network, specification, [batch], 0.5, per="units", rounds=2, damping=0.1)
    first = prune_jointly(network, specification, [batch], 2 / 8, per="units", damping=0.1)
    assert found.order[:2] == first.order  # half of what is left: (1 - sqrt(1/2)) 8 = 2.3 units, so three
    assert len(found.order) == 4
    three = prune_jointly(network, specification, [batch], 3 / 8, per="units", damping=0.1)
    assert found.order[:3] == three.order

    def outputs(v):
        hidden = jax.nn.relu(x @ params["in"]) * v[:3]
        return (jax.nn.relu(hidden @ params["mid"]) * v[3:]) @ params["out"]

    start = np.concatenate([three.factors["a"], three.factors["b"]])
    kept = start != 0
    slopes = np.asarray(jax.jacobian(outputs)(jnp.asarray(start))) * start
    apart = np.asarray(outputs(start) - outputs(np.ones(8)))
    hessian = 2 * np.einsum("n,nci,ncj->ij", share, slopes, slopes)
    slope = 2 * np.einsum("n,nc,nci->i", share, apart, slopes)
    damped = hessian + 0.1 * np.mean(np.diag(hessian)[np.diag(hessian) > 0]) * np.eye(8)
    value = share @ np.sum(apart**2, 1)
    assert three.measured[-1] == pytest.approx(value, rel=1e-9)
    assert found.measured[0] == pytest.approx(value, rel=1e-9)
    best = {}
    for gate in np.flatnonzero(kept):
        less = kept & (np.arange(8) != gate)
        if less[:3].any() and less[3:].any():
            move = -1.0 * kept
            right = damped[np.ix_(less, ~less & kept)].sum(1) - slope[less]
            move[less] = np.linalg.solve(damped[np.ix_(less, less)], right)
            best[gate] = (slope @ move + move @ damped @ move / 2, move)
    gate = min(best, key=lambda gate: best[gate][0])
    move = best[gate][1]
    assert found.order[3] == (("a", gate) if gate < 3 else ("b", gate - 3))
    np.testing.assert_allclose(np.concatenate(list(found.factors.values())), start * (1 + move), rtol=1e-8, atol=1e-10)
    assert found.predicted[3] == pytest.approx(value + slope @ move + move @ hessian @ move / 2, rel=1e-7)
    want = share @ np.sum((outputs(start * (1 + move)) - outputs(np.ones(8))) ** 2, 1)
    assert found.measured[1] == pytest.approx(float(want), rel=1e-7)
    np.testing.assert_allclose(found.smaller(batch["image"]), outputs(start * (1 + move)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "readjust"), [(jp.losses.distillation("kl", at="features"), True), (LOSSES["kl"], False)]
)
def test_prune_jointly_measures_the_loss_that_it_was_given(loss, readjust):
    specification, *_ = networks.build("mlp")
    network, batch = networks.network("mlp"), networks.batch("mlp")
    padded = batch | {"image": np.where(batch["weight"][:, None, None, None] > 0, batch["image"], np.nan)}
    found = prune_jointly(network, specification, [padded], 0.6, loss=loss, per="units", readjust=readjust, rounds=2)
    share = batch["weight"] / batch["weight"].sum()
    p, q = (jax.nn.log_softmax(one(batch["image"]) / loss.temperature) for one in (network, found.smaller))
    want = loss.temperature**2 * share @ jnp.sum(jnp.exp(p) * (p - q), 1)
    assert found.measured[-1] == pytest.approx(float(want), rel=1e-9)
    assert len(found.measured) == 2


def test_readjusted_of_a_slope_is_the_minimum_of_the_quadratic():
    _, _, hessian = stacked()
    gates = {"a": np.array([True, False, True]), "b": np.arange(5) % 2 > 0}
    slope = {"a": np.array([0.3, -1.0, 2.0]), "b": np.arange(5) / 3.0}
    kept, g = (np.concatenate([part["a"], part["b"]]) for part in (gates, slope))
    v = np.concatenate(list(readjusted((A, B), hessian, gates, slope=slope, damping=0.1).values()))
    moved = (hessian + 0.1 * np.mean(np.diag(hessian)) * np.eye(8)) @ (v - 1) + g
    assert np.abs(moved[kept]).max() < 1e-10 * np.abs(hessian).max()
