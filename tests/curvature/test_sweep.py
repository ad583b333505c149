"""Everything of one point in one sweep, against the functions of one quantity each, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.curvature.grams import symmetric
from tests.curvature import networks
from tests.curvature.networks import close

LOSS = jp.losses.cross_entropy


def parts(batch, first=2, last=4):
    """Two batches of unequal weights; of equal sizes, if not asked for more: they share programs."""
    return [{name: entry[part] for name, entry in batch.items()} for part in (slice(0, first), slice(first, last))]


def one_by_one(network, loss, batches, quantities, *, matrix="hessian", blocks="unit", scope=None):
    """The same by the functions of single quantities, each its own average over the batches."""
    options = {"matrix": matrix, "scope": scope}
    inside = [True] * len(jp.tree.names(network.params)) if scope is None else jax.tree.leaves(scope)
    paths = [path for path, wanted in zip(jp.tree.names(network.params), inside, strict=True) if wanted]
    made = {
        "gradient": lambda batch: jp.curvature.gradient(network, loss, batch),
        "diagonal": lambda batch: jp.curvature.diagonal(network, loss, batch, **options),
        "unit": lambda batch: jp.curvature.block_product(network, loss, batch, network.params, "unit", **options),
        "layer": lambda batch: jp.curvature.block_product(network, loss, batch, network.params, "layer", **options),
        "gram": lambda batch: {
            path: jnp.atleast_3d(found) if blocks != "layer" else found[None]
            for path in paths
            for found in [jp.curvature.block(network, loss, batch, path, blocks, matrix)]
        },
    }
    of_batch = networks.compiled(lambda batch: {quantity: made[quantity](batch) for quantity in quantities})
    found = jp.curvature.average(of_batch, batches)
    if scope is not None and "gradient" in quantities:
        found["gradient"] = jax.tree.map(lambda leaf, wanted: leaf if wanted else 0 * leaf, found["gradient"], scope)
    return found


def agree(found, expected):
    """Every quantity that was asked for, by leaf; nothing else."""
    for quantity in QUANTITIES:
        got = getattr(found, quantity)
        if quantity not in expected:
            assert got is None
            continue
        assert jax.tree.structure(got) == jax.tree.structure(expected[quantity])
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected[quantity]), strict=True):
            assert one.dtype == other.dtype
            close(one, other, 1e-12)


QUANTITIES = ("gradient", "diagonal", "unit", "layer", "gram")
OWN = jp.losses.distillation("kl", 2)
# The network, the loss, the matrix, the blocks of the dense ones, and what is asked for.
CASES = {
    "signals alone": ("perceptron", LOSS, "hessian", "unit", QUANTITIES),
    "examples that mix": ("mixing", LOSS, "hessian", "layer", ("diagonal", "unit", "gram")),
    "tied weights": ("tied", OWN, "hessian", 3, ("layer", "unit")),
    "attention": ("attention", LOSS, "hessian", "unit", ("diagonal",)),
    "attention, to itself": ("attention", OWN, "hessian", 2, ("unit", "diagonal")),
    "the gradients of examples": ("lines", LOSS, "empirical_fisher", "unit", QUANTITIES),
    "pairs of columns": ("scales", networks.bumpy, "hessian", 2, ("diagonal", "unit", "gram")),
    "squares": ("nested", jp.losses.squared_error, "ggn", "unit", ("layer", "gradient")),
}


@pytest.mark.parametrize("case", CASES)
def test_sweep_has_what_the_functions_of_single_quantities_have(case):
    name, loss, matrix, blocks, quantities = CASES[case]
    net = networks.build(name)
    found = jp.curvature.sweep(net.network, loss, parts(net.batch), quantities, matrix=matrix, blocks=blocks)
    agree(found, one_by_one(net.network, loss, parts(net.batch), quantities, matrix=matrix, blocks=blocks))


def test_sweep_over_batches_is_that_of_one_batch_whatever_the_padding():
    net = networks.build("perceptron")
    padding = {"image": np.full((2, 5), np.nan), "label": np.zeros(2, int), "weight": np.zeros(2)}
    batches = parts(net.batch, 2, 5)
    batches[0] = {name: np.concatenate([entry, padding[name]]) for name, entry in batches[0].items()}
    found = [jp.curvature.sweep(net.network, LOSS, iter(given)) for given in (batches, [net.batch])]
    for one, other in zip(*map(jax.tree.leaves, (vars(found[0]), vars(found[1]))), strict=True):
        close(one, other, 1e-12)
    dense = networks.dense("perceptron")
    close(networks.flat(found[0].diagonal), np.diag(dense.matrices["hessian"]))
    close(found[0].gram["w1"], dense.blocks("w1", (1,), "unit", "hessian"))


def test_sweep_of_a_scope_has_zeros_elsewhere_and_no_dense_blocks():
    net = networks.build("gates")
    scope = {"gate": True, "mix": False, "value": True}
    found = jp.curvature.sweep(net.network, LOSS, parts(net.batch), scope=scope)
    assert list(found.gram) == ["gate", "value"]
    for quantity in (found.gradient, found.diagonal, found.unit, found.layer):
        assert not np.any(quantity["mix"])
        assert np.any(quantity["gate"])
    whole = {name: entry[:4] for name, entry in net.batch.items()}
    dense = networks.Dense(net.network, whole)
    for quantity, blocks in (("unit", "unit"), ("layer", "layer")):
        expected = dense.inside({name: net.leaves[name] for name in found.gram}, blocks, "hessian")
        close(networks.flat(getattr(found, quantity)), expected @ networks.flat(net.network.params))
    close(found.gram["gate"], dense.blocks("gate", (1,), "unit", "hessian"))


def test_sweep_at_a_value_inside_the_network_is_of_that_value():
    def inside(params, state, images):
        return checkpoint_name(jnp.tanh(images @ params["w"]), "hidden")

    params = {"head": jnp.asarray(networks.normal(0, 4, 3)), "w": jnp.asarray(networks.normal(1, 5, 4))}
    network = jp.Network(lambda p, s, x: inside(p, s, x) @ p["head"], params)
    batches = [{"image": networks.normal(2, 3, 5)}, {"image": networks.normal(3, 2, 5)}]
    found = jp.curvature.sweep(network, jp.losses.distillation("squared", at="hidden"), batches)
    expected = jp.curvature.sweep(network.replace(apply=inside), jp.losses.distillation(), batches)
    for one, other in zip(*map(jax.tree.leaves, (vars(found), vars(expected))), strict=True):
        close(one, other, 1e-12)
    assert not np.any(found.diagonal["head"])
    assert not np.any(found.gradient["w"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sweep_of_half_precision_is_in_float32(dtype):
    draw = np.random.default_rng(0)
    params = {name: jnp.asarray(draw.normal(size=(4, 4)), dtype) for name in ("w", "head")}
    network = jp.Network(lambda p, s, x: jnp.maximum(x @ p["w"], 0) @ p["head"], params)
    batch = {"image": draw.normal(size=(3, 4)).astype(np.float32), "label": np.array([0, 3, 1])}
    found = jp.curvature.sweep(network, LOSS, [batch, batch])
    wide = network.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params))
    expected = jp.curvature.sweep(wide, LOSS, [{**batch, "image": batch["image"].astype(np.float64)}])
    for one, other in zip(*map(jax.tree.leaves, (vars(found), vars(expected))), strict=True):
        assert one.dtype == jnp.float32
        close(one, other, 1e-5)


def test_sweep_has_the_types_of_the_parameters_also_where_the_images_are_wider():
    net = networks.build("perceptron")
    narrow = net.network.replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net.network.params))
    found = jp.curvature.sweep(narrow, LOSS, [net.batch])
    singles = {
        "diagonal": jp.curvature.diagonal(narrow, LOSS, net.batch),
        "unit": jp.curvature.block_product(narrow, LOSS, net.batch, narrow.params, "unit"),
        "layer": jp.curvature.block_product(narrow, LOSS, net.batch, narrow.params, "layer"),
    }
    for quantity, expected in singles.items():
        for one, other in zip(*map(jax.tree.leaves, (getattr(found, quantity), expected)), strict=True):
            assert one.dtype == other.dtype == jnp.float32
            close(one, other, 1e-5)


def test_sweep_names_the_largest_blocks_that_fit_before_anything_is_computed():
    network = jp.Network(lambda p, s, x: x @ p["w"] + p["b"], {"b": jnp.zeros(400), "w": jnp.zeros((300, 400))})
    batch = {"image": np.ones((2, 300)), "label": np.zeros(2, int)}
    message = r"blocks='unit' of b, w: needs 0\.576 GB, but 0\.01 GB may be taken.*largest that fit are runs: blocks=5"
    with pytest.raises(MemoryError, match=message):
        jp.curvature.sweep(network, LOSS, [batch], memory=10**7)
    found = jp.curvature.sweep(network, LOSS, [batch], ("gram",), blocks=5, memory=10**8)
    assert found.gram["w"].shape == (400 * 60, 5, 5)


@pytest.mark.parametrize(
    ("quantities", "message"),
    [
        ((), "expected one or more of gradient, diagonal, unit, layer, gram"),
        ("diagonal", "in a tuple, but got 'diagonal'"),
        (("diagonal", "grams"), "unknown value 'grams'. Did you mean 'gram'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_sweep_refuses_quantities_that_it_does_not_know(quantities, message):
    net = networks.build("perceptron")
    with pytest.raises(ValueError, match=f"quantities: .*{message}"):
        jp.curvature.sweep(net.network, LOSS, [net.batch], quantities)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "batches: expected at least one batch"),
        ("weightless", {}, "batches: the sum of the weights"),
        ("batch", {"matrix": "fisher"}, "matrix: unknown value 'fisher'"),
        ("batch", {"blocks": "column"}, "blocks"),
        ("batch", {"scope": {"w1": True}}, "scope"),
    ],
)
def test_sweep_refuses_what_the_other_functions_refuse(batches, options, message):
    net = networks.build("perceptron")
    given = {"batch": [net.batch], "weightless": [{**net.batch, "weight": np.zeros(5)}]}
    with pytest.raises(ValueError, match=message):
        jp.curvature.sweep(net.network, LOSS, given.get(batches, batches) if batches else [], ("diagonal",), **options)


def test_sweep_refuses_the_empirical_fisher_matrix_of_a_loss_without_a_gradient():
    net = networks.build("perceptron")
    with pytest.raises(ValueError, match="loss: expected one that has a gradient, for the empirical Fisher matrix"):
        jp.curvature.sweep(net.network, OWN, [net.batch], ("diagonal",), matrix="empirical_fisher")


@pytest.mark.parametrize("size", [1, 159, 160, 161, 333, 640])
def test_symmetric_is_the_product_of_the_rows_by_halves(size):
    rows = networks.normal(size, 3, 2, size)
    found = np.asarray(symmetric(jnp.asarray(rows)))
    close(found, np.einsum("rbi,rbj->bij", rows, rows), 1e-13)
    np.testing.assert_array_equal(found, found.swapaxes(1, 2))


def test_block_of_targets_whose_sum_is_negative_is_that_of_the_dense_matrix():
    net = networks.build("perceptron")
    batch = {**net.batch, "label": -np.eye(3)[net.batch["label"]]}
    dense = networks.Dense(net.network, batch, jp.losses.cross_entropy)
    found = jp.curvature.block(net.network, jp.losses.cross_entropy, batch, "w2", "unit")
    networks.close(found, dense.blocks("w2", (1,), "unit", "hessian"))


@pytest.mark.usefixtures("unchecked")
def test_sweep_refuses_batches_of_which_some_have_a_teacher():
    net = networks.build("perceptron")
    (taught,) = jp.data.with_teacher([net.batch], net.network)
    for call in (
        lambda batches: jp.curvature.sweep(net.network, jp.losses.distillation(), batches, ("unit",)),
        lambda batches: jp.curvature.estimate(net.network, jp.losses.distillation(), batches),
        lambda batches: jp.scores.diagonal_hessian(jp.losses.distillation())(net.network, batches),
    ):
        with pytest.raises(ValueError, match="batches: expected all of them with a 'teacher' or none"):
            call([taught, net.batch])


def test_sweep_prints_what_it_holds_and_no_number():
    network = jp.Network(
        lambda p, s, x: (x @ p["w"] + p["b"]) @ p["v"], {"b": 3.0 * jnp.ones(2), "v": jnp.ones((2, 3))}
    )
    network = network.replace(params={**network.params, "w": jnp.ones((4, 2))})
    batch = {"image": np.ones((5, 4)), "label": np.zeros((5, 3))}
    found = jp.curvature.sweep(network, jp.losses.squared_error, [batch], ("gradient", "unit", "gram"))
    shapes = "b [2], v [2, 3], w [4, 2]; gram of b [2, 1, 1], v [3, 2, 2], w [2, 4, 4]"
    assert repr(found) == str(found) == f"Sweep(gradient, unit of {shapes})"
    many = {f"layer{number}": jnp.ones((1, 1)) for number in range(7)}
    shown = "layer0 [1, 1], layer1 [1, 1], layer2 [1, 1], layer3 [1, 1] and 3 more"
    assert repr(jp.curvature.Sweep(diagonal=many)) == f"Sweep(diagonal of {shown})"
    assert repr(jp.curvature.Sweep(gram=many)) == f"Sweep(gram of {shown})"
    assert repr(jp.curvature.Sweep()) == "Sweep()"


# Before a layer that centres over the positions, gradients of inputs that are the same at all of them cancel: what is
# left of a number in float32 is its rounding, squared.
def test_sweep_keeps_blocks_semidefinite_where_gradients_cancel_over_positions():
    def apply(p, _, x):
        x = x @ p["w"]
        return jnp.abs(x - x.mean(1, keepdims=True)).reshape(len(x), -1)

    draw = np.random.default_rng(0)
    image = draw.normal(size=(6, 9, 24))
    image[:, :, :8] = image[:, :1, :8]
    given = {"w": draw.normal(size=(24, 12))}, {"image": image, "label": np.arange(6)}
    params, batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32 if leaf.dtype == float else None), given)
    found = jp.curvature.sweep(jp.Network(apply, params), LOSS, [batch], ("diagonal", "gram"))
    diagonal, gram = found.diagonal, found.gram
    assert gram["w"].dtype == jnp.float32
    blocks = np.asarray(gram["w"], np.float64)
    scale = blocks.diagonal(axis1=1, axis2=2).max()
    for numbers in (np.asarray(diagonal["w"]).T, blocks.diagonal(axis1=1, axis2=2)):
        assert numbers.min() >= 0
        assert numbers[:, :8].max() < 1e-11 * scale
    assert np.linalg.eigvalsh(blocks).min() > -1e-7 * scale
    mask = {"w": jnp.asarray(draw.random((24, 12)) < 0.5)}
    jp.scores.surgeon_update(LOSS, damping=1e-7)(jp.Network(apply, params), [batch], mask)
