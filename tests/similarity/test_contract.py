"""What all measures share: devices, compilation, precision, and errors before anything is computed."""

import warnings

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import similarity
from jaxprune.similarity import features, gaussian, hsic, neighbours, shape, streaming


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


MEASURES = {
    "linear": similarity.linear_cka,
    "linear, gram": lambda x, y: similarity.linear_cka(x, y, route="gram"),
    "linear, biased": lambda x, y: similarity.linear_cka(x, y, debiased=False),
    "rbf": similarity.rbf_cka,
    "minibatch": lambda x, y: similarity.minibatch_cka([(x, y), (2 * x, y)]),
    "streaming": lambda x, y: similarity.streaming_cka([(x, y), (2 * x, y)]),
    "procrustes": similarity.procrustes,
    "svcca": similarity.svcca,
    "rsa": similarity.rsa,
    "neighbours": similarity.mutual_neighbours,
}
every_measure = pytest.mark.parametrize("name", MEASURES)
KERNELS = [
    value
    for module in (features, gaussian, hsic, neighbours, shape, streaming)
    for value in vars(module).values()
    if hasattr(value, "_cache_size")
]


@every_measure
def test_similarity_of_sharded_examples_is_the_same(name):
    x, y = normal(0, 40, 5), normal(1, 40, 7)
    y[:, :5] += x
    mesh = jp.mesh.make()
    sharded = jp.mesh.shard_batch(mesh, (x, y))
    assert len(sharded[0].sharding.device_set) == 8
    expected = MEASURES[name](x, y)
    assert MEASURES[name](*sharded) == pytest.approx(expected, abs=1e-12)


def test_linear_cka_takes_features_of_one_device_and_of_eight():
    x, y = normal(0, 40, 5), normal(1, 40, 7)
    (sharded,) = jp.mesh.shard_batch(jp.mesh.make(), (x,))
    assert similarity.linear_cka(sharded, y) == pytest.approx(similarity.linear_cka(x, y), abs=1e-12)


def test_gram_cka_of_sharded_matrices_is_the_same():
    x, y = normal(0, 40, 5), normal(1, 40, 7)
    grams = x @ x.T, y @ y.T
    sharded = jp.mesh.shard_batch(jp.mesh.make(), grams)
    assert similarity.gram_cka(*sharded) == pytest.approx(similarity.gram_cka(*grams), abs=1e-12)


@every_measure
def test_similarity_compiles_nothing_when_called_again_and_is_a_float(name):
    assert len(KERNELS) >= 10
    assert isinstance(MEASURES[name](normal(0, 40, 5), normal(1, 40, 7)), float)
    before = [kernel._cache_size() for kernel in KERNELS]
    MEASURES[name](normal(2, 40, 5), normal(3, 40, 7))
    assert [kernel._cache_size() for kernel in KERNELS] == before


def test_similarity_compiles_nothing_for_options_that_are_numbers():
    x, y = normal(0, 40, 5), normal(1, 40, 7)
    calls = [
        (similarity.rbf_cka, "bandwidth", 0.5, 2.0),
        (similarity.svcca, "variance", 0.5, 0.9),
    ]
    for function, option, first, second in calls:
        one = function(x, y, **{option: first})
        before = [kernel._cache_size() for kernel in KERNELS]
        assert function(x, y, **{option: second}) != one
        assert [kernel._cache_size() for kernel in KERNELS] == before


def test_similarity_takes_products_of_the_highest_precision():
    x = np.ones((8, 3), np.float32)
    moments = streaming._moments(x, x)
    traced = [
        jax.make_jaxpr(lambda: hsic._from_features(x, x, debiased=True))(),
        jax.make_jaxpr(lambda: hsic._from_grams(x, x, debiased=True))(),
        jax.make_jaxpr(lambda: gaussian._terms(x, x, 1.0, debiased=True))(),
        jax.make_jaxpr(lambda: streaming._moments(x, x))(),
        jax.make_jaxpr(lambda: streaming._merged(moments, moments))(),
        jax.make_jaxpr(lambda: streaming._terms(moments, debiased=True))(),
        jax.make_jaxpr(lambda: shape._distance(x, x))(),
        jax.make_jaxpr(lambda: shape._svcca(x, x, 0.9))(),
        jax.make_jaxpr(lambda: neighbours._rank_products(x, x))(),
        jax.make_jaxpr(lambda: neighbours._agreement(x, x, neighbours=2))(),
    ]
    for program in map(str, traced):
        assert program.count("dot_general[") == program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0


X = normal(0, 8, 3)
SAME = np.ones((8, 3))
BAD = np.where(np.arange(24).reshape(8, 3) == 4, np.nan, X)
SINGLE = {name: value for name, value in MEASURES.items() if name not in ("minibatch", "streaming")}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, X[:7], r"y: expected as many examples as x has, 8, but got 7\. Read both"),
        (BAD, X, r"x: expected finite numbers, but the array holds 1 that are NaN"),
        (X, np.full((8, 3), np.inf), r"y: expected finite numbers, but the array holds 24"),
        (X[:1], X[:1], r"x: expected \d or more examples, but got 1"),
        (X[:, 0], X, r"x: expected features \[n, \.\.\.\].*got the shape \(8,\)"),
        (X, X[:, :0], r"y: expected features \[n, \.\.\.\].*got the shape \(8, 0\)"),
    ],
)
def test_similarity_names_bad_features_with_their_remedy(name, x, y, message):
    with pytest.raises(ValueError, match=message):
        SINGLE[name](x, y)


@pytest.mark.parametrize("name", [name for name in MEASURES if name not in ("rsa", "neighbours")])
def test_similarity_refuses_features_without_variation(name):
    for x, y, which in ((SAME, X, "x"), (X, 1e-30 * SAME, "y")):
        with pytest.raises(ValueError, match=rf"{which}: expected features that differ between examples"):
            MEASURES[name](x, y) if name != "streaming" else similarity.streaming_cka([(x, y), (x, y)])


def pairs(*lengths: int):
    return [(normal(number, n, 3), normal(number + 9, n, 2)) for number, n in enumerate(lengths)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity.linear_cka(X[:3], X[:3]), r"x: expected 4 or more examples, but got 3\. The unbiased HSIC"),
        (lambda: similarity.rbf_cka(X[:3], X[:3]), r"x: expected 4 or more examples, but got 3"),
        (lambda: similarity.gram_cka(np.eye(3), np.eye(3)), r"k: expected 4 or more examples, but got 3"),
        (lambda: similarity.linear_cka(X, X, route="best"), r"route: unknown value 'best'.*features, gram"),
        # As far apart as each other: debiased, there is nothing to align.
        (lambda: similarity.linear_cka(np.eye(8), X), r"x: expected some pairs .* more similar than others"),
        (lambda: similarity.linear_cka(X, np.eye(8), route="features"), r"y: expected some pairs"),
        (lambda: similarity.gram_cka(np.ones((8, 8)), X @ X.T), r"k: expected some pairs"),
        (lambda: similarity.gram_cka(X @ X.T, np.ones((8, 8)), debiased=False), r"l: expected some pairs"),
        (lambda: similarity.gram_cka(X, X), r"k: expected a Gram matrix \[n, n\], but got the shape \(8, 3\)"),
        (lambda: similarity.gram_cka(X @ X.T, np.tril(X @ X.T)), r"l: expected a symmetric matrix"),
        (lambda: similarity.rbf_cka(X, X, bandwidth=0.0), r"bandwidth: expected a finite number above 0"),
        (lambda: similarity.rbf_cka(X, X, bandwidth=1e-3), r"x: expected some pairs"),
        (lambda: similarity.rbf_cka(X, (np.arange(8) < 1)[:, None]), r"y: expected a median distance .* above 0"),
        (lambda: similarity.minibatch_cka([]), r"pairs: expected one or more batches, but got none"),
        (lambda: similarity.minibatch_cka(pairs(5, 3)), r"pairs\[1\]: x: expected 4 or more .* got 3\. Use larger"),
        (lambda: similarity.minibatch_cka([(X, X), (X, X[:, :2])]), r"pairs\[1\]: expected features of the shapes"),
        (lambda: similarity.minibatch_cka([(X, BAD)]), r"pairs\[0\]: y: expected finite"),
        (lambda: similarity.streaming_cka([]), r"pairs: expected one or more batches, but got none"),
        (lambda: similarity.streaming_cka(pairs(1, 2)), r"pairs: expected 4 or more examples, but got 3"),
        (lambda: similarity.streaming_cka(pairs(5, 0)), r"pairs\[1\]: x: expected 1 or more examples"),
        (lambda: similarity.streaming_cka([(X, X), (X[:, :2], X)]), r"pairs\[1\]: expected features of the shapes"),
        (lambda: similarity.streaming_cka([(BAD, X)]), r"pairs\[0\]: x: expected finite"),
        (lambda: similarity.svcca(X, X, variance=1.0), None),
        (
            lambda: similarity.svcca(X[:6], X[:6], variance=1.0),
            r"x: expected more examples .* 3 of x and 3 of y.*n >> p",
        ),
        (lambda: similarity.svcca(X, X, variance=0.0), r"variance: expected a share in \(0, 1\], but got 0\.0"),
        (lambda: similarity.rsa(X[:2], X[:2]), r"x: expected 3 or more examples, but got 2"),
        (lambda: similarity.rsa(X, X * (np.arange(8) != 5)[:, None]), r"y: .*differ from each other.*of example 5"),
        (lambda: similarity.rsa(np.eye(8), X), r"x: expected some pairs of examples to be more similar"),
        (lambda: similarity.mutual_neighbours(X, X, neighbours=8), r"neighbours: expected from 1 to 7.* but got 8"),
        (lambda: similarity.mutual_neighbours(X, X, neighbours=0), r"neighbours: expected from 1 to 7.* but got 0"),
        (lambda: similarity.mutual_neighbours(X, X, neighbours=2, measure="cosine"), r"measure: unknown value"),
        (
            lambda: similarity.mutual_neighbours(X * (np.arange(8) != 2)[:, None], X, neighbours=2),
            r"x: expected features that are not all 0 .* of example 2",
        ),
    ],
)
def test_similarity_names_bad_input_with_its_remedy(call, message):
    if message is None:  # the counterpart of an error: just enough
        assert np.isfinite(call())
        return
    with pytest.raises(ValueError, match=message):
        call()


def test_linear_cka_refuses_complex_features():
    with pytest.raises(TypeError, match=r"y: expected real features, but got complex128"):
        similarity.linear_cka(X, X + 1j)


def test_similarity_says_what_does_not_fit_before_it_is_tried(monkeypatch):
    monkeypatch.setattr("jaxprune.memory.available", lambda memory: 1000)
    for call in MEASURES.values():
        with pytest.raises(MemoryError, match=r"x: matrices of \d+ x \d+ need .* GB, but 1e-06 GB may be taken"):
            call(normal(0, 40, 5), normal(1, 40, 7))


def test_similarity_gives_numbers_for_the_least_that_will_do():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for measure in (similarity.procrustes, similarity.angular):
            assert measure(X[:2], X[2:4]) == pytest.approx(0, abs=1e-12)  # two points have one shape
        assert similarity.linear_cka(X[:2], X[2:4], debiased=False) == pytest.approx(1, abs=1e-12)
        assert similarity.mutual_neighbours(X[:2], X[2:4], neighbours=1) == 1
        assert np.isfinite(similarity.linear_cka(X[:4], X[4:]))
        assert np.isfinite(similarity.rsa(X[:3], X[3:6]))


@pytest.mark.parametrize("name", ["linear", "rbf", "minibatch", "procrustes", "rsa", "neighbours"])
@pytest.mark.parametrize("where", [(7, 3), (150, 49), (3, slice(None))])
def test_similarity_finds_one_nan_among_many_numbers(name, where):
    # On CPU the maximum of many float32 numbers comes out as if no NaN were among them.
    x, y = (normal(seed, 200, 50).astype(np.float32) for seed in (0, 1))
    y[where] = np.nan
    with pytest.raises(ValueError, match=r"y: expected finite numbers, but the array holds (1|50) that are NaN"):
        MEASURES[name](x, y)
