"""Programs of these tests run a few times only: optimising them would take longer than running them."""

import jax
import pytest


@pytest.fixture(autouse=True)
def compiled_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
