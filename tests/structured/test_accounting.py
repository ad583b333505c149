"""Accounts: what a network costs under gates is what the network costs that is really smaller; published counts."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.models.resnet import ResNet, full_blocks
from jaxprune.structured import account, drop_layers, ones, remove
from tests.structured import networks


def shapes(module, image):
    variables = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), np.float32))
    return variables.pop("params"), variables


def filters(params):
    """Output channels of all convolutions, from the leaves themselves."""
    return sum(leaf.shape[-1] for leaf in jax.tree.leaves(params) if len(leaf.shape) == 4)


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_account_under_gates_has_the_counts_of_the_smaller_network(name):
    module, params, state = networks.build(name)
    image = networks.MODULES[name][1]
    book = account(module, params, state, image)
    for seed in range(3):
        gates = ones(module.groups()) if seed == 0 else networks.random_gates(module.groups(), seed)
        specification, small, statistics = remove(module, params, state, gates)
        network = specification.network(small, statistics)
        assert book.macs(gates) == jp.cost.macs(network, image)
        assert book.parameters(gates) == jp.cost.parameters(network)
        assert book.filters(gates) == filters(small)


def test_account_of_a_unit_less_is_less_by_its_rows():
    """A filter inside a block of 6 x 6 images: 3 x 3 x 4 weights that make it and as many that read it."""
    module, params, state = networks.build("basic")
    book, gates = account(module, params, state, (6, 6, 3)), ones(module.groups())
    fewer = gates | {"stage1_block1/units1": np.arange(4) != 2}
    assert book.macs(gates) - book.macs(fewer) == 36 * 2 * 9 * 4
    assert book.parameters(gates) - book.parameters(fewer) == 2 * 9 * 4 + 2
    assert book.filters(gates) - book.filters(fewer) == 1
    # A head on 5 tokens: 4 kernels [8, 2], the products with keys and values; its three biases.
    module, params, state = networks.build("branches")
    book, gates = account(module, params, state, (8, 8, 3)), ones(module.groups())
    fewer = gates | {"block1/heads": np.arange(4) != 2}
    assert book.macs(gates) - book.macs(fewer) == 5 * 4 * 8 * 2 + 2 * 5 * 5 * 2
    assert book.parameters(gates) - book.parameters(fewer) == 4 * 8 * 2 + 3 * 2


def test_account_needs_shapes_alone():
    module, params, state = networks.build("vit")
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
    gates = networks.random_gates(module.groups(), seed=1)
    got, want = (account(module, *arrays, (4, 4, 1)).macs(gates) for arrays in (structs, (params, state)))
    assert got == want


def test_account_takes_a_network_by_hand():
    params = networks.mlp_params()
    book = account(networks.MLP, params, {}, (2, 2, 1))
    gates = {"units": np.array([True, False, True, False, True]), "extra": np.array([False])}
    whole = ones(networks.MLP.groups())
    assert (book.macs(whole), book.parameters(whole), book.filters(whole)) == (4 * 5 + 5 * 3 + 9, 25 + 18 + 9, 0)
    assert (book.macs(gates), book.parameters(gates)) == (4 * 3 + 3 * 3, 15 + 12)
    with pytest.raises(ValueError, match="no leaf is called so"):
        account(networks.MLP, {"in": params["in"]}, {}, (2, 2, 1))


# Of arXiv 2506.04513's networks: MACs, filters, parameters and statistics, percent of a block, of all that can go.
PUBLISHED = {
    32: (69_124_736, 1232, 470_218, 6.83, 61.44),
    44: (97_436_288, 1680, 665_994, 4.84, 72.64),
    56: (125_747_840, 2128, 861_770, 3.75, 78.80),
    110: (253_149_824, 4144, 1_742_762, 1.86, 89.47),
}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_account_has_the_counts_of_the_paper(depth):
    macs, filters, numbers, block, limit = PUBLISHED[depth]
    module = jp.models.resnet_cifar(depth, keras=True)
    params, state = shapes(module, (32, 32, 3))
    assert jp.cost.parameters(module.network(params, state), state=True) == numbers
    book, gates = account(module, params, state, (32, 32, 3)), ones(module.groups())
    assert (book.macs(gates), book.filters(gates)) == (macs, filters)
    layers = [group for group in module.groups() if group.is_layer]
    assert len(layers) == (depth - 2) // 2 - 3
    for layer in layers:
        one = gates | {layer.name: np.array([False])}
        assert round(100 * (1 - book.macs(one) / macs), 2) == block
    # Every block that may go: two stay in each stage.
    ratings = {layer.name: np.zeros(1) for layer in layers}
    left = gates
    while (fewer := drop_layers(module.groups(), left, ratings, book.macs, None)) is not None:
        left = fewer
    assert module.without(left).depths == (2, 2, 2)
    assert round(100 * (1 - book.macs(left) / macs), 2) == limit


def test_account_of_the_original_papers_variant_has_the_same_operations():
    module = jp.models.resnet_cifar(56)
    book = account(module, *shapes(module, (32, 32, 3)), (32, 32, 3))
    assert book.macs(ones(module.groups())) == 125_747_840


def test_account_of_resnet_110_less_a_block_has_the_published_counts():
    """The outputs of the notebook of TinyTitans (Jordao et al. 2025), statistics among the parameters."""
    module = jp.models.resnet_cifar(110, keras=True)
    params, state = shapes(module, (32, 32, 3))
    gates = {"stage1_block1": np.array([False])}
    specification, *left = remove(module, params, state, gates)
    network = specification.network(*left)
    assert jp.cost.parameters(network, state=True) == 1_737_994
    assert jp.cost.macs(network, (32, 32, 3)) == 248_431_232
    assert filters(network.params) == 4112
    book = account(module, params, state, (32, 32, 3))
    gates = ones(module.groups()) | gates
    assert (book.macs(gates), book.filters(gates)) == (248_431_232, 4112)


def test_account_counts_a_network_without_layers_that_can_go():
    """Two stages of one block: no layer can go, and none is listed."""
    module = ResNet(full_blocks((1, 1), 2), 3, 2)
    assert not [group for group in module.groups() if group.is_layer]
    book = account(module, *shapes(module, (4, 4, 1)), (4, 4, 1))
    assert book.macs(ones(module.groups())) == jp.cost.macs(module.network(*shapes(module, (4, 4, 1))), (4, 4, 1))
