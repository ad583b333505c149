"""A network of the user's own, of which the structure is found in its program: nothing is declared."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxprune as jp
from experiments.shared import named
from experiments.shared.pretrained import Weights
from jaxprune import check
from jaxprune.groups import Group


class Discovered(NamedTuple):
    """The network as its function made it, and the shape in which units can be removed: groups that are proven."""

    specification: jp.structured.Traced
    network: jp.Network


@lru_cache(maxsize=4)
def discovered(function: Any, image_shape: Sequence[int], classes: int) -> Discovered:
    """Calls a function that returns a network, and finds in its program what can be removed.

    Args:
      function: or its name, ``package.module:function``; it takes no arguments.
      image_shape: (h, w, c) of the images of the study.
      classes: how many the data have.

    Raises:
      ValueError: it returns something else, a network of other images or classes, or one without units that can go.
    """
    made, told = named.call("network", function), named.name(function)
    if not isinstance(made, jp.Network):
        raise ValueError(
            f"network: expected {told} to return a jp.Network, but got a {type(made).__name__}. Wrap a module: "
            "jp.Network.from_linen(module, variables), from_nnx(model) or from_equinox(model)."
        )
    images = jax.ShapeDtypeStruct((2, *image_shape), "float32")
    try:
        outputs = jax.eval_shape(made, images)
    except Exception as error:  # whatever a network raises for images that it does not take
        raise ValueError(
            f"network: expected a network of images {tuple(image_shape)}, as the data have, but that of {told} raises "
            f"{check.first_line(error)}. Build it for these images."
        ) from error
    if getattr(outputs, "shape", None) != (2, classes):
        raise ValueError(
            f"network: expected outputs [b, {classes}], one for each class of the data, but that of {told} gives "
            f"{getattr(outputs, 'shape', type(outputs).__name__)} for 2 images. Build it with {classes} classes."
        )
    found = jp.structured.discover(made, images, prove=True).proven
    if not found:
        raise ValueError(
            f"network: expected units that can be removed, but in the program of {told} none was found and proven. "
            "print(jp.structured.discover(network, images, prove=True)) and its .fixed say why."
        )
    return Discovered(jp.structured.Traced.of(made, found), made)


def units(weights: Weights, image_shape: Sequence[int], *, prove: bool = True) -> tuple[Group, ...]:
    """Finds the units of a network that are summed over before its features, which heads read as they are.

    Args:
      weights: the network, trained, and what its images are.
      image_shape: (h, w, c) of what it is given.
      prove: whether those alone that are proven.

    Raises:
      ValueError: there are none.
    """
    kind = np.float32 if weights.preprocess is None else np.uint8
    images = jax.ShapeDtypeStruct((2, *image_shape), kind)
    found = jp.structured.discover(jp.sites.outputs_at(weights.network, "features"), images, prove=prove)
    found = found.proven if prove else found
    if not found:
        raise ValueError(
            f"network: expected units that can be gated before the features, but in the program of {weights.name} none "
            "was found and proven. Tag features behind a layer that reads hidden units; jp.structured.discover("
            'jp.sites.outputs_at(network, "features"), images, prove=True).fixed says why others stay.'
        )
    return found.groups


def behind_head(groups: Sequence[Group], network: jp.Network) -> tuple[Group, ...]:
    """The groups as they are called in the network with a head on it, whose state is a part of another."""
    state = set(jp.tree.names(network.state))
    return tuple(
        replace(
            group,
            members=tuple(
                replace(one, leaf=f"network/{one.leaf}") if one.leaf in state else one for one in group.members
            ),
        )
        for group in groups
    )
