"""What does not fit is named, by every quantity, before anything is computed; what fits and does nothing is zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.curvature import networks

pytestmark = pytest.mark.usefixtures("unchecked")

LOSS = jp.losses.cross_entropy
QUANTITIES = ("gradient", "hvp", "ggnvp", "diagonal", "block_product", "block", "plan")
MORE = {"hvp": ["vector"], "ggnvp": ["vector"], "block_product": ["vector"], "block": ["path"], "plan": ["quantity"]}
every_quantity = pytest.mark.parametrize("quantity", QUANTITIES)


def call(quantity, /, **changes):
    net = networks.build("perceptron")
    given = {"network": net.network, "loss": LOSS, "batch": net.batch}
    more = {"vector": given["network"].params, "path": "w1", "quantity": "diagonal"}
    given |= {name: more[name] for name in MORE.get(quantity, [])}
    return getattr(jp.curvature, quantity)(**{**given, **changes})


def network(**changes):
    """The perceptron with other parameters."""
    found = networks.build("perceptron").network
    return found.replace(params={**found.params, **changes})


def batch(**changes):
    return {**networks.build("perceptron").batch, **changes}


def holed(values, value=np.nan):
    values = np.array(values, dtype=float)
    values.flat[1] = value
    return values


@every_quantity
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_curvature_names_parameters_that_are_not_finite(quantity, value):
    broken = network(w2=jnp.asarray(holed(np.zeros((4, 5)), value)))
    with pytest.raises(ValueError, match=r"network\.params: expected finite numbers, but \['w2'\] holds 1 .*training"):
        call(quantity, network=broken)


@every_quantity
def test_curvature_names_a_state_that_is_not_finite(quantity):
    with pytest.raises(ValueError, match=r"network\.state: expected numbers, but \['mean'\] holds 2 "):
        call(quantity, network=network().replace(state={"mean": jnp.full(2, jnp.nan)}))


@every_quantity
def test_curvature_names_images_labels_and_weights_that_are_not_finite(quantity):
    image, targets = networks.build("perceptron").batch["image"], np.ones((5, 3)) / 3
    with pytest.raises(ValueError, match=r"batch: expected finite numbers, but \['image'\] holds 1 .*preprocessing"):
        call(quantity, batch=batch(image=holed(image)))
    with pytest.raises(ValueError, match=r"batch: expected finite numbers, but \['label'\] holds 1 "):
        call(quantity, batch=batch(label=holed(targets)))
    with pytest.raises(ValueError, match="batch: weight: expected finite numbers, but the array holds 1 "):
        call(quantity, batch=batch(weight=holed(np.ones(5))))
    with pytest.raises(ValueError, match=r"batch: expected weights of 0 or more, but found -1\.0"):
        call(quantity, batch=batch(weight=holed(np.ones(5), -1.0)))


@pytest.mark.parametrize("quantity", ["hvp", "ggnvp", "block_product"])
def test_curvature_names_a_vector_that_is_not_finite(quantity):
    vector = network(b1=jnp.asarray(holed(np.zeros(4)))).params
    with pytest.raises(ValueError, match=r"vector: expected finite numbers, but \['b1'\] holds 1 "):
        call(quantity, vector=vector)


@every_quantity
@pytest.mark.parametrize("dtype", ["int32", "complex128", "bool"])
def test_curvature_names_leaves_that_are_not_real(quantity, dtype):
    broken = network(unused=jnp.ones((2, 2), dtype))
    with pytest.raises(TypeError, match=rf"network\.params: expected real .*\['unused'\] is {dtype}.*state"):
        call(quantity, network=broken)


def scalar(f, batch):
    return jnp.mean(f)


def square(f, batch):
    return f**2


@every_quantity
@pytest.mark.parametrize(("loss", "shape"), [(scalar, r"\(\)"), (square, r"\(5, 3\)")])
def test_curvature_refuses_a_loss_that_is_not_of_each_example(quantity, loss, shape):
    with pytest.raises(ValueError, match=rf"loss: expected one number for each example, shape \(5,\), but got {shape}"):
        call(quantity, loss=loss)


@every_quantity
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:, None], r"but got \(5, 1, 3\)\. Flatten or pool"),
        (lambda f: f.sum(1), r"but got \(5,\)"),
        (lambda f: f.sum(), r"but got \(\)"),
        (lambda f: f.T, r"with b = 5 images, but got \(3, 5\)"),
        (lambda f: (f, f), r"expected one array of outputs \[b, c\], but got PyTreeDef"),
    ],
)
def test_curvature_refuses_outputs_that_are_not_a_row_for_each_example(quantity, change, message):
    found = network()

    def apply(params, state, images):
        return change(found.apply(params, state, images))

    with pytest.raises(ValueError, match=message):
        call(quantity, network=found.replace(apply=apply))


@pytest.mark.parametrize(
    ("quantity", "changes", "message"),
    [
        ("plan", {"quantity": "diagnal"}, r"quantity: unknown value 'diagnal'\. Did you mean 'diagonal'\?"),
        ("plan", {"matrix": "fisher"}, r"matrix: unknown value 'fisher'.*Known: empirical_fisher, ggn, hessian"),
        ("block", {"matrix": "gnn"}, r"matrix: unknown value 'gnn'\. Did you mean 'ggn'\?"),
        ("block_product", {"matrix": "ggm"}, r"matrix: unknown value 'ggm'\. Did you mean 'ggn'\?"),
        ("block_product", {"blocks": "units"}, r"blocks: unknown value 'units'\. Did you mean 'unit'\?"),
        ("block_product", {"blocks": -1}, "blocks: expected 'unit', 'layer' or a size of 1 or more, but got -1"),
        ("plan", {"blocks": True}, "blocks: expected 'unit', 'layer' or a size of 1 or more, but got True"),
        ("plan", {"quantity": "block", "path": "w3"}, r"path: unknown value 'w3'\. Did you mean '.*Known: b1, head/b"),
        ("block", {"path": "head"}, r"path: no leaf is called 'head'"),
        ("plan", {"scope": {"w1": True}}, "scope: expected one Python bool for every leaf"),
        ("block_product", {"scope": [True]}, "scope: expected one Python bool for every leaf"),
        ("diagonal", {"memory": 0}, "memory: expected a finite number above 0, but got 0"),
        ("block", {"memory": -5}, "memory: expected a finite number above 0, but got -5"),
    ],
)
def test_curvature_names_bad_options(quantity, changes, message):
    with pytest.raises(ValueError, match=message):
        call(quantity, **changes)


@pytest.mark.parametrize("quantity", ["diagonal", "block_product", "block"])
def test_curvature_has_no_empirical_fisher_of_a_teacher_that_equals_the_network(quantity):
    (taught,) = jp.data.with_teacher([batch()], network())
    loss = jp.losses.distillation("kl")
    with pytest.raises(ValueError, match=r"for the empirical Fisher matrix, .* the teacher equals the network"):
        call(quantity, loss=loss, batch=taught, matrix="empirical_fisher")
    moved = {**taught, "teacher": taught["teacher"] + np.eye(5, taught["teacher"].shape[1], dtype=np.float32)}
    assert np.isfinite(jax.tree.leaves(call(quantity, loss=loss, batch=moved, matrix="empirical_fisher"))[0]).all()


def test_plan_of_a_block_needs_a_path():
    with pytest.raises(ValueError, match=r"path: unknown value 'None'.*Known: b1, head/b"):
        call("plan", quantity="block")


def test_diagonal_refuses_a_scope_of_arrays():
    scope = jax.tree.map(lambda leaf: jnp.asarray(True), network().params)
    with pytest.raises(TypeError, match="scope: expected Python bools"):
        call("diagonal", scope=scope)


@pytest.mark.parametrize("blocks", [2.0, None, (2,)])
def test_block_product_refuses_blocks_of_another_type(blocks):
    with pytest.raises((TypeError, ValueError), match="blocks: expected 'unit', 'layer' or a size of 1 or more"):
        call("block_product", blocks=blocks)


@pytest.mark.parametrize("quantity", ["hvp", "diagonal", "block"])
def test_curvature_does_not_take_labels_outside_of_the_classes_for_zeros(quantity):
    found = call(quantity, batch=batch(label=np.array([0, 1, 3, 2, 1])))
    kept = [leaf for leaf in jax.tree.leaves(found) if leaf.shape != (2, 2)]
    assert kept
    assert all(np.isnan(leaf).any() for leaf in kept)


@pytest.mark.parametrize("matrix", networks.MATRICES)
def test_block_of_a_parameter_that_nothing_uses_is_zero(matrix):
    for blocks, shape in (("layer", (4, 4)), ("unit", (2, 2, 2)), (3, (2, 2, 2))):
        found = call("block", path="unused", blocks=blocks, matrix=matrix)
        assert found.shape == shape
        assert not found.any()


def test_curvature_of_a_network_without_any_is_zero_everywhere():
    found = jp.Network(lambda p, s, x: x[:, :2] + 0 * jax.lax.stop_gradient(p["w"]).sum(), {"w": jnp.ones((3, 2))})
    given = {"network": found, "batch": batch(label=np.array([0, 1, 0, 1, 0]))}
    assert not np.any(call("diagonal", **given)["w"])
    assert not np.any(call("block_product", vector=found.params, **given)["w"])
    assert call("plan", **given).exact


def test_curvature_without_parameters_is_nothing():
    found = jp.Network(lambda p, s, x: x[:, :3], {})
    assert call("diagonal", network=found) == {}
    plan = call("plan", network=found)
    assert (plan.gradients, plan.bytes, plan.legs) == (0, 0, ())
    assert str(plan)
