"""Networks of a user's own, as ``--network`` names them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


class Small(nn.Module):
    """Two convolutions and a flattened head: nothing declared, widths fixed."""

    classes: int = 10

    @nn.compact
    def __call__(self, x, train=False):
        for width in (4, 6):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(width, (3, 3), (2, 2))(x)))
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


def _network(module):
    variables = module.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    return jp.Network.from_linen(module, variables, train={"train": True})


def small():
    """A network of the digits."""
    return _network(Small())


def few_classes():
    """One of other classes."""
    return _network(Small(3))


def module():
    """No network yet."""
    return Small()


def linear():
    """A network without units."""
    params = {"kernel": np.zeros((64, 10), np.float32)}
    return jp.Network(lambda p, s, x: x.reshape(len(x), -1) @ p["kernel"], params)


def of_other_images():
    """A network of larger images."""
    return jp.Network(lambda p, s, x: jnp.tanh(x.reshape(len(x), 192)) @ p, np.zeros((192, 10), np.float32))
