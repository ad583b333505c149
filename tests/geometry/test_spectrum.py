"""Operators, eigenpairs, traces and densities against the dense matrix, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matfree import decomp, eig

import jaxprune as jp
from tests import cases

LOSS = jp.losses.cross_entropy

small_cases = pytest.mark.parametrize("name", ["mlp", "cnn"])
every_matrix = pytest.mark.parametrize("matrix", ["hessian", "ggn"])


def close(got, expected, tolerance=1e-10):
    """Equal up to rounding, measured against the largest number there is."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(expected).max()))


def mask(params):
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.5), params)


def choices(case):
    """What an operator may be restricted to, and where those weights are."""
    kept = mask(case.network.params)
    inside = jax.tree.map(lambda w, wanted: np.full(w.shape, wanted), case.network.params, case.scope)
    flat, scope = np.asarray(cases.flat(kept)), np.asarray(cases.flat(inside))
    return [
        ({}, np.ones_like(flat)),
        ({"scope": case.scope}, scope),
        ({"kept": kept}, flat),
        ({"pruned": kept}, ~flat),
        ({"scope": case.scope, "pruned": kept}, scope & ~flat),
    ]


def diagonal(squares, dtype=np.float64):
    """A network whose Hessian is diagonal, with these entries."""
    squares = np.asarray(squares, dtype)
    network = jp.Network(lambda p, s, x: x * p[None], jnp.zeros(len(squares), dtype))
    batch = {"image": np.sqrt(squares / 2)[None], "label": np.zeros((1, len(squares)), dtype)}
    return jp.geometry.operator(network, jp.losses.squared_error, [batch])


def dense(operator):
    return np.stack([operator(row) for row in jnp.eye(operator.size)])


@pytest.mark.usefixtures("same_rank")
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
@every_matrix
def test_operator_is_the_dense_matrix_of_what_was_chosen(name, matrix):
    case, whole = cases.build(name), cases.matrix(name, matrix)
    rng = np.random.default_rng(0)
    for options, chosen in choices(case):
        got = jp.geometry.operator(case.network, LOSS, [case.batch], matrix=matrix, **options)
        vector = rng.normal(size=chosen.sum())
        assert got.size == chosen.sum()
        close(got(jnp.asarray(vector)), whole[np.ix_(chosen, chosen)] @ vector)
        tree = got.tree(jnp.asarray(vector))
        np.testing.assert_array_equal(cases.flat(tree)[chosen], vector)
        np.testing.assert_array_equal(cases.flat(tree)[~chosen], 0)
        np.testing.assert_array_equal(got.flat(tree), vector)


def test_operator_counts_batches_as_one_large_batch_padded_or_not():
    case = cases.build("cnn")
    parts = [cases.take(case.batch, 0, 2), cases.pad(cases.take(case.batch, 2, 5), 2)]
    vector = jnp.asarray(np.random.default_rng(0).normal(size=jp.tree.size(case.network.params)))
    got = jp.geometry.operator(case.network, LOSS, iter(parts))(vector)
    close(got, jp.geometry.operator(case.network, LOSS, [case.batch])(vector))
    close(jax.jit(jp.geometry.operator(case.network, LOSS, parts))(vector), got)


@pytest.mark.usefixtures("same_rank")
@small_cases
@every_matrix
def test_eigenpairs_are_those_of_the_dense_matrix(name, matrix):
    case = cases.build(name)
    for options, chosen in (choices(case)[0], choices(case)[3]):
        operator = jp.geometry.operator(case.network, LOSS, [case.batch], matrix=matrix, **options)
        values, vectors = np.linalg.eigh(cases.matrix(name, matrix)[np.ix_(chosen, chosen)])
        got = jp.geometry.eigenpairs(operator, key=jax.random.key(0), count=4, steps=operator.size)
        close(got.values, values[::-1][:4])
        close(got.vectors @ got.vectors.T, np.eye(4))
        np.testing.assert_allclose(np.abs(np.sum(got.vectors * vectors[:, ::-1][:, :4].T, axis=1)), 1, atol=1e-10)
        np.testing.assert_allclose(got.residuals, 0, atol=1e-10)
    smallest = jp.geometry.eigenpairs(operator, key=jax.random.key(1), count=2, steps=1000, which="smallest")
    close(smallest.values, values[:2], 1e-9)
    largest = jp.geometry.eigenpairs(operator, key=jax.random.key(1), count=2, steps=1000, which="magnitude")
    close(np.abs(largest.values), np.sort(np.abs(values))[::-1][:2])


def test_eigenpairs_have_residuals_of_what_is_missing():
    case = cases.build("resnet")
    operator = jp.geometry.operator(case.network, LOSS, [case.batch])
    for steps in (6, 20):
        got = jp.geometry.eigenpairs(operator, key=jax.random.key(0), count=3, steps=steps)
        images = np.stack([operator(jnp.asarray(vector)) for vector in got.vectors])
        missing = np.linalg.norm(images - got.values[:, None] * got.vectors, axis=1)
        np.testing.assert_allclose(got.residuals, missing, atol=1e-10)
        assert steps > 6 or missing.max() > 1e-3
    close(got.values[:1], np.linalg.eigvalsh(cases.matrix("resnet", "hessian"))[-1:], 1e-8)


def test_eigenpairs_by_lanczos_are_those_of_matfree():
    case = cases.build("mlp")
    operator = jp.geometry.operator(case.network, LOSS, [case.batch])
    start = jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (operator.size,))
    theirs, _ = jax.jit(lambda start: eig.eigh_partial(decomp.tridiag_sym(12))(operator, start))(start)
    ours = jp.geometry.eigenpairs(operator, key=jax.random.key(0), count=12, steps=12)
    close(ours.values[::-1], theirs, 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eigenpairs_repeated_and_vanishing_are_all_found(dtype):
    squares = np.array([0, 5, 1, 0, 5, 5, 0, 2, 0], dtype)
    got = jp.geometry.eigenpairs(diagonal(squares, dtype), key=jax.random.key(0), count=9)
    tolerance = {"atol": 100 * np.finfo(dtype).eps}
    np.testing.assert_allclose(got.values, np.sort(squares)[::-1], **tolerance)
    np.testing.assert_allclose(got.vectors @ got.vectors.T, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(got.vectors * squares, got.values[:, None] * got.vectors, **tolerance)
    nothing = jp.geometry.eigenpairs(diagonal(np.zeros(4, dtype)), key=jax.random.key(0), count=4)
    np.testing.assert_array_equal(nothing.values, 0)
    np.testing.assert_allclose(nothing.vectors @ nothing.vectors.T, np.eye(4), atol=1e-12)


def test_trace_of_a_diagonal_matrix_is_exact():
    got = jp.geometry.trace(diagonal(np.arange(1.0, 8.0)), key=jax.random.key(0), probes=2)
    np.testing.assert_allclose(got, (28, 0), atol=1e-12)


@small_cases
def test_trace_lies_within_its_error(name):
    case = cases.build(name)
    for options, chosen in choices(case):
        operator = jp.geometry.operator(case.network, LOSS, [case.batch], **options)
        exact = np.trace(cases.matrix(name, "hessian")[np.ix_(chosen, chosen)])
        got = jp.geometry.trace(operator, key=jax.random.key(1), probes=25)
        assert abs(got.value - exact) < 4 * got.standard_error
        assert got.standard_error < np.linalg.norm(cases.matrix(name, "hessian"))


def test_trace_standard_error_is_the_spread_of_the_estimates():
    case = cases.build("mlp")
    operator = jp.geometry.operator(case.network, LOSS, [case.batch])
    found = [jp.geometry.trace(operator, key=jax.random.key(seed), probes=8) for seed in range(60)]
    spread = np.std([one.value for one in found], ddof=1)
    stated = np.sqrt(np.mean([one.standard_error**2 for one in found]))
    assert spread == pytest.approx(stated, rel=0.25)


@pytest.mark.parametrize("probes", [2, 5])
def test_trace_standard_error_is_that_of_a_sample(probes):
    network = jp.Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    batch = {"image": np.ones((1, 2)), "label": np.zeros((1, 1))}
    operator = jp.geometry.operator(network, jp.losses.squared_error, [batch])
    found = [jp.geometry.trace(operator, key=jax.random.key(seed), probes=probes) for seed in range(4)]
    # A probe of signs gives 0 or 8, so that the mean m says all: the sample's variance is m (8 - m) p / (p - 1).
    stated = [np.sqrt(one.value * (8 - one.value) / (probes - 1)) for one in found]
    np.testing.assert_allclose([one.standard_error for one in found], stated, atol=1e-12)
    assert max(stated) > 0


@every_matrix
def test_trace_by_xtrace_is_exact_with_half_the_probes_and_beats_hutchinson_before(matrix):
    case, whole = cases.build("mlp"), cases.matrix("mlp", matrix)
    operator = jp.geometry.operator(case.network, LOSS, [case.batch], matrix=matrix)
    exact = jp.geometry.trace(operator, key=jax.random.key(0), probes=operator.size // 2 + 1, estimator="xtrace")
    np.testing.assert_allclose(exact, (np.trace(whole), 0), rtol=1e-10, atol=1e-10)
    few = jp.geometry.trace(operator, key=jax.random.key(0), probes=15, estimator="xtrace")
    assert abs(few.value - np.trace(whole)) < 4 * few.standard_error + 1e-9
    assert few.standard_error < jp.geometry.trace(operator, key=jax.random.key(0), probes=30).standard_error


@pytest.mark.usefixtures("same_rank")
@every_matrix
def test_density_has_the_moments_of_the_eigenvalues_and_integral_one(matrix):
    case = cases.build("mlp")
    operator = jp.geometry.operator(case.network, LOSS, [case.batch], matrix=matrix)
    values = np.linalg.eigvalsh(cases.matrix("mlp", matrix))
    got = jp.geometry.density(operator, key=jax.random.key(0), probes=40, steps=20)
    assert np.trapezoid(got.values, got.grid) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(got.weights.sum(axis=1), 1, rtol=1e-12)
    for power in (1, 2, 3):
        moments = np.sum(got.weights * got.nodes**power, axis=1)
        error = np.std(moments, ddof=1) / np.sqrt(40)
        assert abs(np.mean(moments) - np.mean(values**power)) < 4 * error
    mean = np.trapezoid(got.values * got.grid, got.grid)
    assert mean == pytest.approx(np.mean(np.sum(got.weights * got.nodes, axis=1)), rel=1e-4)


def test_density_of_many_probes_is_the_smoothed_spectrum():
    squares = np.repeat([0.0, 1.0, 4.0], [10, 6, 4])
    got = jp.geometry.density(diagonal(squares), key=jax.random.key(0), probes=300, steps=3, width=0.05)
    std = 0.05 * 4
    bells = np.exp(-(((got.grid[:, None] - squares) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
    exact = bells.mean(axis=1)
    np.testing.assert_allclose(got.values, exact, atol=0.05 * exact.max())
    np.testing.assert_allclose(got.nodes, np.tile([0, 1, 4], (300, 1)), atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_density_of_one_eigenvalue_is_a_peak_there(value):
    got = jp.geometry.density(diagonal(np.full(5, value)), key=jax.random.key(0), probes=2)
    assert got.grid[np.argmax(got.values)] == pytest.approx(value, abs=1e-3)
    assert np.trapezoid(got.values, got.grid) == pytest.approx(1, abs=1e-5)


def test_spectrum_of_one_key_is_the_same_and_of_another_another():
    case = cases.build("mlp")
    operator = jp.geometry.operator(case.network, LOSS, [case.batch])
    for function in (
        lambda key: jp.geometry.eigenpairs(operator, key=key, count=2, steps=5).values,
        lambda key: jp.geometry.trace(operator, key=key, probes=2).value,
        lambda key: jp.geometry.density(operator, key=key, probes=1, steps=3).nodes,
    ):
        first = function(jax.random.key(0))
        np.testing.assert_array_equal(function(jax.random.key(0)), first)
        assert not np.array_equal(function(jax.random.key(1)), first)


@pytest.mark.usefixtures("unchecked")
def test_spectrum_names_bad_input_with_its_remedy():
    case = cases.build("mlp")
    make, key = jp.geometry.operator, jax.random.key(0)
    everything = jp.masks.ones(case.network.params)
    for call, error, message in [
        (
            lambda: make(case.network, LOSS, [case.batch], matrix="fisher"),
            ValueError,
            r"matrix: unknown value 'fisher'",
        ),
        (lambda: make(case.network, LOSS, case.batch), TypeError, r"batches: expected a list.*Pass \[batch\]"),
        (lambda: make(case.network, LOSS, []), ValueError, r"batches: expected at least one batch, but got none"),
        (lambda: make(case.network, LOSS, [{"image": np.ones((1, 4))}]), ValueError, r"batches: expected the keys"),
        (
            lambda: make(case.network, LOSS, [{**case.batch, "weight": np.zeros(5)}]),
            ValueError,
            r"the sum of the weights: expected a finite number above 0",
        ),
        (
            lambda: make(case.network, LOSS, [case.batch], pruned=everything),
            ValueError,
            r"scope, kept, pruned: expected to choose some of the 43 weights.*none",
        ),
        (lambda: make(case.network, LOSS, [case.batch], kept={}), ValueError, r"kept: expected the structure"),
    ]:
        with pytest.raises(error, match=message):
            call()
    operator = make(case.network, LOSS, [case.batch])
    with pytest.raises(ValueError, match=r"vector: expected the shape \(43,\).*got \(3,\)"):
        operator(jnp.ones(3))
    for options, message in [
        ({"count": 44}, r"count: expected at most 43.*got 44\. Take more steps"),
        ({"count": 6, "steps": 5}, r"count: expected at most 5"),
        ({"count": 0}, r"count: expected a finite number above 0"),
        ({"which": "top"}, r"which: unknown value 'top'"),
    ]:
        with pytest.raises(ValueError, match=message):
            jp.geometry.eigenpairs(operator, key=key, **options)
    for options, message in [
        ({"probes": 1}, r"probes: expected 2 or more.*got 1"),
        ({"probes": 44, "estimator": "xtrace"}, r"at most the number of chosen weights \(43\), but got 44"),
        ({"estimator": "hutch++"}, r"estimator: unknown value 'hutch\+\+'"),
    ]:
        with pytest.raises(ValueError, match=message):
            jp.geometry.trace(operator, key=key, **options)
    with pytest.raises(ValueError, match=r"width: expected a finite number above 0, but got 0"):
        jp.geometry.density(operator, key=key, width=0.0)


def test_spectrum_of_a_damaged_network_is_an_error():
    case = cases.build("mlp")
    damaged = case.network.replace(apply=lambda *given: case.network.apply(*given) * jnp.inf)
    operator = jp.geometry.operator(damaged, LOSS, [case.batch])
    for call in (jp.geometry.eigenpairs, jp.geometry.trace, jp.geometry.density):
        with pytest.raises(ValueError, match=r"expected finite numbers.*Inspect the weights, the loss and the images"):
            call(operator, key=jax.random.key(0))
