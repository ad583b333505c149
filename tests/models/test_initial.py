"""What kernels begin with, bit for bit what Flax's own initializers draw."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxprune import draws
from jaxprune.models import initial

PAIRS = {
    "he": (initial.HE_NORMAL, nn.initializers.variance_scaling(2.0, "fan_out", "normal")),
    "lecun": (initial.LECUN_NORMAL, nn.initializers.lecun_normal()),
    "normal": (initial.NORMAL, nn.initializers.truncated_normal(0.02)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_initial_kernels_are_those_of_flax(name):
    ours, theirs = PAIRS[name]
    for shape in ((3, 2, 4, 6), (5, 3)):
        got, want = (one(jax.random.key(1), shape, jnp.float32) for one in (ours, theirs))
        assert got.dtype == want.dtype
        assert (got == want).all()


def test_shaped_draws_the_same_numbers():
    for shape in ((), (3,), (0, 2), (2, 3, 4)):
        for draw in (jax.random.normal, jax.random.uniform, jax.random.rademacher):
            got, want = (
                one(jax.random.key(1), shape, jnp.float32)
                for one in (lambda *rest, d=draw: draws.shaped(d, *rest), draw)
            )
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            assert (got == want).all()
