"""Every score against its formula, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests import cases

pytestmark = pytest.mark.usefixtures("same_rank")

LOSS = jp.losses.cross_entropy
# The curvature behind the scores is held against every network in tests/curvature.
every_case = pytest.mark.parametrize("name", ["mlp", "cnn"])


def close(got, expected):
    """Equal up to rounding, measured against the largest number there is."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * max(1e-3, np.abs(expected).max(initial=0)))


def run(score, case):
    return np.asarray(cases.flat(score(case.network, [case.batch])))


def weights(case):
    return np.asarray(cases.flat(case.network.params))


def in_scope(case):
    return cases.flat(jax.tree.map(lambda w, wanted: np.full(w.shape, float(wanted)), case.network.params, case.scope))


@every_case
def test_first_order_scores_are_their_formulas(name):
    case = cases.build(name)
    w, share, of_example = weights(case), cases.share(name), cases.gradients(name)
    mean = share @ of_example
    close(run(jp.scores.magnitude(), case), np.abs(w))
    close(run(jp.scores.snip(LOSS), case), np.abs(w * mean))
    close(run(jp.scores.grasp(LOSS), case), w * (cases.matrix(name, "hessian") @ mean))
    close(run(jp.scores.fisher(LOSS), case), w**2 * (share @ of_example**2) / 2)


def test_grasp_is_what_removing_a_weight_lowers_the_squared_gradient_norm_by():
    case = cases.build("mlp")
    scores = run(jp.scores.grasp(LOSS), case)
    w, unravel = jax.flatten_util.ravel_pytree(case.network.params)

    def squared_norm(flat):
        gradient = cases.flat(jp.curvature.gradient(case.network.replace(params=unravel(flat)), LOSS, case.batch))
        return float(gradient @ gradient)

    step = 1e-5
    for j in np.argsort(scores)[[0, 1, -2, -1]]:
        towards_zero = jnp.zeros_like(w).at[j].set(-w[j])
        slope = (squared_norm(w + step * towards_zero) - squared_norm(w - step * towards_zero)) / (2 * step)
        np.testing.assert_allclose(slope, -2 * scores[j], rtol=1e-6)


@every_case
@pytest.mark.parametrize("matrix", ["hessian", "ggn", "empirical_fisher"])
def test_second_order_scores_are_their_formulas_and_zero_out_of_scope(name, matrix):
    case, dense = cases.build(name), cases.matrix(name, matrix)
    w, inside = weights(case), in_scope(case)
    diagonal = jp.scores.diagonal_hessian(LOSS, matrix=matrix, scope=case.scope)
    close(run(diagonal, case), w**2 * np.diag(dense) / 2 * inside)
    for blocks in ("unit", "layer", 3):
        of_block = np.where(cases.same_blocks(case.network.params, blocks), dense, 0) @ w
        for ranking, shape in (("signed", np.asarray), ("absolute", np.abs)):
            options = {"blocks": blocks, "matrix": matrix, "scope": case.scope, "ranking": ranking}
            got = run(jp.scores.block_hessian(LOSS, form="quadratic", **options), case)
            close(got, shape(w * of_block / 2) * inside)


def test_block_hessian_shares_of_a_block_sum_to_what_deleting_it_costs():
    case, dense = cases.build("mlp"), cases.matrix("mlp", "hessian")
    shares = jp.scores.block_hessian(LOSS, form="quadratic", blocks="layer", ranking="signed")(
        case.network, [case.batch]
    )
    where = cases.positions(case.network.params, "1/0").ravel()
    w = weights(case)[where]
    close(jnp.sum(shares[1][0]), w @ dense[np.ix_(where, where)] @ w / 2)


def chain(params, state, images):
    x = images
    for layer in params:
        x = jax.nn.relu(x @ layer)
    return x


def test_synflow_of_every_layer_of_a_chain_is_the_same():
    params = [cases.vector(np.zeros(shape), seed) for seed, shape in enumerate([(4, 5), (5, 3), (3, 2)])]
    batch = {"image": np.zeros((2, 4)), "label": np.zeros(2, int)}
    scores = jp.scores.synflow()(jp.Network(chain, params), [batch])
    flow = jnp.sum(jnp.abs(params[0]) @ jnp.abs(params[1]) @ jnp.abs(params[2]))
    for layer in scores:
        close(jnp.sum(layer), flow)


def test_synflow_into_and_out_of_a_hidden_unit_is_the_same():
    params = [cases.vector(np.zeros(shape), seed) for seed, shape in enumerate([(4, 5), (5, 3), (3, 2)])]
    batch = {"image": np.zeros((2, 4)), "label": np.zeros(2, int)}
    first, second, third = jp.scores.synflow()(jp.Network(chain, params), [batch])
    close(jnp.sum(first, axis=0), jnp.sum(second, axis=1))
    close(jnp.sum(second, axis=0), jnp.sum(third, axis=1))


def test_synflow_takes_the_absolute_value_of_state_and_parameters():
    case = cases.build("cnn")
    absolute = jax.tree.map(jnp.abs, case.network)
    signed = jp.scores.synflow()(case.network, [case.batch])
    jax.tree.map(np.testing.assert_array_equal, signed, jp.scores.synflow()(absolute, [case.batch]))


def test_random_scores_are_uniform_and_fixed_by_their_key():
    network = jp.Network(chain, [jnp.zeros((100, 50)), jnp.zeros((50, 50))])
    first, again = (jp.scores.random(jax.random.key(0))(network, []) for _ in range(2))
    other = jp.scores.random(jax.random.key(1))(network, [])
    jax.tree.map(np.testing.assert_array_equal, first, again)
    flat = np.sort(cases.flat(first))
    assert np.abs(flat - np.linspace(0, 1, flat.size)).max() < 1.63 / np.sqrt(flat.size)  # Kolmogorov, 1 %
    assert np.unique(np.concatenate([flat, cases.flat(other)])).size == 2 * flat.size


def test_fisher_squares_single_examples_also_across_its_parts():
    """More examples than the score holds gradients of at once, the last part all padding."""
    case = cases.build("mlp")
    repeated = {key: np.concatenate([value] * 7) for key, value in case.batch.items()}
    expected = run(jp.scores.fisher(LOSS), case)
    close(cases.flat(jp.scores.fisher(LOSS)(case.network, [repeated])), expected)
    close(cases.flat(jp.scores.fisher(LOSS)(case.network, [cases.pad(repeated, 40)])), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: jp.scores.diagonal_hessian(LOSS, matrix="fisher"),
            "matrix: unknown value 'fisher'.*Known: empirical_f",
        ),
        (lambda: jp.scores.block_hessian(LOSS, form="OBS"), "form: unknown value 'OBS'.*Known: greedy, obs, quad"),
        (lambda: jp.scores.block_hessian(LOSS, form="obs", damping=0.0), "damping: expected a finite number above 0"),
        (lambda: jp.scores.block_hessian(LOSS, form="quadratic", ranking="abs"), "ranking: unknown value 'abs'"),
        (lambda: jp.scores.synflow()(cases.build("mlp").network, []), "batches: expected at least one batch.*got none"),
        (lambda: jp.scores.snip(LOSS)(cases.build("mlp").network, []), "batches: expected at least one batch"),
        (
            lambda: jp.scores.snip(LOSS)(
                cases.build("mlp").network, [{**cases.build("mlp").batch, "weight": np.zeros(5)}]
            ),
            "batches: the sum of the weights: expected a finite number above 0",
        ),
    ],
)
def test_scores_name_bad_options_before_anything_runs(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_block_hessian_has_no_default_form():
    with pytest.raises(TypeError, match="form"):
        jp.scores.block_hessian(LOSS)
