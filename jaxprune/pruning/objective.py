"""What compensation makes small: the distance to the dense network on images, and the same on images held out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, curvature, losses
from jaxprune.curvature import products
from jaxprune.curvature.inputs import in_float32, placed
from jaxprune.data.teacher import with_teacher
from jaxprune.losses import Distillation
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Params

# One image in so many is held out.
_EVERY = 4


@dataclass(frozen=True)
class Objective:
    """A mean loss as a function of the parameters, on two sets of images.

    Attributes:
      network: the dense network, in float32 or wider; with the value at which the loss is taken as its output.
      loss: of these outputs.
      fitted: the batches whose loss is made smaller.
      held_out: the batches that say whether a step helps.
    """

    network: Network
    loss: Loss
    fitted: tuple[Batch, ...]
    held_out: tuple[Batch, ...]

    def at(self, params: Params) -> Network:
        """The network with other parameters."""
        return self.network.replace(params=params)

    def value(self, params: Params) -> float:
        """The mean loss on the images held out."""
        network = self.at(params)
        return float(self.mean(lambda batch: products.value_of(network, batch, loss=self.loss), "held_out"))

    def gradient(self, params: Params) -> Params:
        """The gradient on the images that are fitted."""
        network = self.at(params)
        return self.mean(lambda batch: products.gradient_of(network, self.loss, batch), "fitted")

    def mean(self, function: Callable[[Batch], Any], of: Literal["fitted", "held_out"]) -> Any:
        """The weighted mean over the batches of a function that is a weighted mean over a batch."""
        batches = getattr(self, of)
        return function(batches[0]) if len(batches) == 1 else curvature.average(function, batches)


def objective(
    network: Network, loss: Loss, batches: Iterable[Batch], held_out: Iterable[Batch] | None = None
) -> Objective:
    """Makes an objective of a loss; a distillation without a teacher becomes the distance to ``network`` as it is.

    Args:
      network: the dense network.
      loss: per-example loss.
      batches: images, what the loss reads, and optional weights.
      held_out: as ``batches``.  None: every fourth image of weight above 0 is held out of ``batches``.

    Raises:
      ValueError: no batch; batches that do not fit or lack what the loss reads; NaN anywhere; fewer than 4 images to
        hold one out of.
    """
    check.network(network)
    given = {"batches": batches, **({} if held_out is None else {"held_out": held_out})}
    listed = {name: _checked(name, each, loss, network) for name, each in given.items()}
    if held_out is None:
        fitted, held = _split(listed["batches"])
    else:
        fitted, held = listed["batches"], listed["held_out"]
    if isinstance(loss, Distillation):
        # Afterwards: a program of the same shape rounds alike, and the distance of the dense network is exactly 0.
        fitted, held = (
            each if all("teacher" in batch for batch in each) else with_teacher(each, network, loss.at)
            for each in (fitted, held)
        )
    wide = in_float32(network, fitted[0]["image"])[0]
    network, loss = placed(wide, loss)
    return Objective(network, loss, tuple(fitted), tuple(held))


def _checked(name: str, batches: Iterable[Batch], loss: Loss, network: Network) -> list[Batch]:
    found = list(check.batches(batches, name))
    if not found:
        raise ValueError(
            f"{name}: expected one or more batches, but got none. Pass a list, not an iterator already read."
        )
    for batch in found:
        check.batch(batch, name, losses.entries(loss))
        check.finite_batch(batch, name)
        losses.demand_read(loss, batch)
    for images in {np.shape(batch["image"]): batch["image"] for batch in found}.values():
        check.takes(network, images, name)
    return found


def _split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Holds every fourth image that counts out of some batches: (those that are fitted, those that are held out)."""
    wholes, helds, seen = [], [], 0
    for batch in batches:
        counts = losses.weights(batch) > 0
        wholes.append(counts)
        helds.append(counts & ((seen + jnp.cumsum(counts)) % _EVERY == 0))
        seen += int(jnp.sum(counts))
    if seen < _EVERY:
        raise ValueError(
            f"batches: expected {_EVERY} or more images of weight above 0, of which every fourth is held out, but got "
            f"{seen}. Pass more, or held_out."
        )
    rests = [whole & ~held for whole, held in zip(wholes, helds, strict=True)]
    return _those(batches, rests), _those(batches, helds)


def _those(batches: Sequence[Batch], masks: Sequence[Any]) -> list[Batch]:
    """The images that masks [b] name; batches of one size, filled up by images of weight 0, need one program."""
    if any(len(leaf.devices()) > 1 for leaf in jax.tree.leaves(list(batches)) if isinstance(leaf, jax.Array)):
        # Work that is divided over devices stays so: the same arrays with other weights.
        return [
            {**one, "weight": jnp.where(mask, losses.weights(one), 0)} for one, mask in zip(batches, masks, strict=True)
        ]
    found = []
    places = [np.flatnonzero(mask) for mask in masks]
    size = max(map(len, places))
    for batch, at in zip(batches, places, strict=True):
        if len(at):
            rows = np.resize(at, size)
            weight = np.where(np.arange(size) < len(at), np.asarray(losses.weights(batch))[rows], 0)
            found.append(
                {**{name: jnp.asarray(entry)[rows] for name, entry in batch.items()}, "weight": jnp.asarray(weight)}
            )
    return found


@jax.jit
def moved(params: Params, step: Params, length: Any) -> Params:
    """``params + length step``, in the types of the parameters."""
    return jax.tree.map(lambda value, change: (value + length * change).astype(value.dtype), params, step)
