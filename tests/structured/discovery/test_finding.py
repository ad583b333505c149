"""What is found in programs is removed for real, and is what zeros do: values and gradients, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.structured import Declared, gated, remove
from jaxprune.structured.discovery import discover
from jaxprune.structured.removal import kept
from tests.structured import networks
from tests.structured.discovery import plain

CLOSE = 1e-12


def vgg_images(name):
    size = {"vgg": 8}.get(name, 4)
    return np.random.default_rng(1).normal(size=(3, size, size, 3))


@pytest.mark.parametrize("name", plain.NETWORKS)
def test_discover_finds_the_groups_of_plain_networks(name):
    found = discover(plain.network(name), vgg_images(name))
    assert {group.name: group.size for group in found} == plain.NETWORKS[name].groups


def _zeroed(values, groups, gates):
    """The leaves with zeros in all that the units that are gone own."""

    def zero(name, leaf):
        result = np.zeros(np.shape(leaf))
        places = np.ix_(*kept(name, np.shape(leaf), groups, gates)) if np.ndim(leaf) else ()
        result[places] = np.asarray(leaf)[places]
        return result

    return jp.tree.map_named(zero, values)


def _sliced(values, groups, gates):
    return jp.tree.map_named(
        lambda name, leaf: np.asarray(leaf)[np.ix_(*kept(name, np.shape(leaf), groups, gates))], values
    )


@pytest.mark.parametrize("name", plain.NETWORKS)
def test_discover_means_what_removing_does(name):
    net, images = plain.network(name), vgg_images(name)
    groups, rng = discover(net, images).groups, np.random.default_rng(2)
    gates = {group.name: rng.permutation(group.size) < max(2, group.size // 2) for group in groups}
    smaller, params, state = remove(Declared(net.apply, groups), net.params, net.state, gates)
    readout = np.random.default_rng(3).normal(size=jax.eval_shape(net, images).shape)

    @jax.jit
    def measured(network):
        def read(params):
            outputs = network.replace(params=params)(images)
            return jnp.sum(jnp.sin(outputs) * readout), outputs

        return jax.grad(read, has_aux=True)(network.params)

    slopes, want = measured(smaller.network(params, state))
    assert want.dtype == np.float64
    zeroed = net.replace(params=_zeroed(net.params, groups, gates), state=_zeroed(net.state, groups, gates))
    by_gates, outputs = measured(gated(net, groups, gates))
    for other in (outputs, measured(zeroed)[1]):
        np.testing.assert_allclose(other, want, rtol=CLOSE, atol=CLOSE)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=CLOSE, atol=CLOSE),
        _sliced(by_gates, groups, gates),
        slopes,
    )
    assert smaller.groups() == discover(smaller.network(params, state), images).groups


def _units(group):
    """What each unit owns, as (leaf, axis, index), in no order."""
    found = [set() for _ in range(group.size)]
    for member in group.members:
        for unit, places in enumerate(member.places(group.size)):
            found[unit] |= {(member.leaf, member.axis, int(place)) for place in places}
    return set(map(frozenset, found))


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_discover_finds_what_our_own_models_declare(name):
    found = {frozenset(_units(group)): group for group in discover(networks.network(name), networks.images(name))}
    declared = [group for group in networks.build(name)[0].groups() if not group.is_layer and group.size > 1]
    for group in declared:
        twin = found[frozenset(_units(group))]
        assert {member.leaf for member in twin.members if member.reads} == {
            member.leaf for member in group.members if member.reads
        }
