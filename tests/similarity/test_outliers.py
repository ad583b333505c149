"""One example far off all others, in float32: right by every route, or computed again where it would not be."""

import jax
import numpy as np
import pytest

from jaxprune import similarity
from jaxprune.similarity import features, hsic
from tests.similarity.test_cka import alignment, normal, song

SIZES = (10, 100, 300, 1000, 3000, 10_000)


def with_outlier(size: float, n: int = 64, p: int = 32) -> tuple[np.ndarray, np.ndarray]:
    x = normal(0, n, p)
    y = normal(1, n, p) + 0.5 * x
    ones = np.ones((1, p))
    return np.concatenate([x, size * ones]).astype(np.float32), np.concatenate([y, -size * ones]).astype(np.float32)


def truth(x: np.ndarray, y: np.ndarray) -> float:
    # Where it is moved to does not matter: to where most examples are, float64 loses nothing.
    x, y = (side.astype(np.float64) - np.median(side, axis=0) for side in (x, y))
    return alignment(song, x @ x.T, y @ y.T)


def gaussian_truth(x: np.ndarray, y: np.ndarray) -> float:
    grams = []
    for side in (x, y):
        side = side.astype(np.float64)
        squares = np.sum((side[:, None] - side[None]) ** 2, axis=-1)
        grams.append(np.exp(-squares / (2 * np.median(squares[np.triu_indices(len(side), 1)]))))
    return alignment(song, *grams)


ROUTES = {
    "features": lambda x, y: similarity.linear_cka(x, y, route="features"),
    "gram": lambda x, y: similarity.linear_cka(x, y, route="gram"),
    "chosen": similarity.linear_cka,
    "streaming": lambda x, y: similarity.streaming_cka([(x[:30], y[:30]), (x[30:], y[30:])]),
    "minibatch": lambda x, y: similarity.minibatch_cka([(x, y)]),
}


@pytest.fixture
def float32():
    """As users run: without float64 but where the library asks for it."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", ROUTES)
def test_linear_cka_with_an_outlier_is_right_to_1e_4_in_float32_by_every_route(name):
    for size in SIZES:
        x, y = with_outlier(size)
        assert ROUTES[name](x, y) == pytest.approx(truth(x, y), abs=2e-6), size
    assert not jax.config.jax_enable_x64


@pytest.mark.usefixtures("float32")
def test_linear_cka_of_few_wide_examples_with_an_outlier_is_right_in_float32():
    x, y = with_outlier(10_000, n=10, p=300)
    assert similarity.linear_cka(x, y) == pytest.approx(truth(x, y), abs=2e-6)


@pytest.mark.usefixtures("float32")
def test_rbf_cka_with_an_outlier_is_right_in_float32():
    for size in (1, 1000, 100_000):
        x, y = with_outlier(size, n=10, p=300)
        assert similarity.rbf_cka(x, y) == pytest.approx(gaussian_truth(x, y), abs=1e-5), size


@pytest.mark.usefixtures("float32")
def test_linear_cka_computes_again_only_where_digits_are_lost():
    x, y = (np.float32(side) for side in (normal(0, 200, 16), normal(1, 200, 16)))
    for route in ("features", "gram"):
        terms, _ = hsic.linear_terms(*features.pair(x, y), debiased=True, route=route)
        assert terms.x.dtype == np.float32
        terms, _ = hsic.linear_terms(*features.pair(*with_outlier(3000)), debiased=True, route=route)
        assert terms.x.dtype == np.float64
        terms, _ = hsic.linear_terms(*features.pair(*with_outlier(3000)), debiased=False, route=route)
        assert terms.x.dtype == np.float32


@pytest.mark.usefixtures("float32")
def test_streaming_cka_runs_what_makes_the_features_as_it_was():
    def made():
        for seed in range(2):
            assert not jax.config.jax_enable_x64
            batch = jax.random.normal(jax.random.key(seed), (16, 4))
            assert batch.dtype == np.float32
            yield batch, 2 * batch

    assert similarity.streaming_cka(made()) == pytest.approx(1.0)
