"""The Hessian by all gates at once: what removing two units does beyond what each does alone."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune import check, curvature, losses
from jaxprune.groups import Gates, Group
from jaxprune.memory import fits
from jaxprune.network import Network
from jaxprune.sites import read
from jaxprune.structured.criteria import listed
from jaxprune.structured.gates import check as check_gates
from jaxprune.structured.gates import factored
from jaxprune.types import Batch, Loss

BLOCKS = ("all", "group")
_DISTANCE = losses.distillation()
# Bytes of a number of the matrix on the host, and of its sum and what is added to it on the device.
_HOST, _DEVICE = 8, 2 * 4


def gate_hessian(
    network: Network,
    groups: Sequence[Group],
    batches: Iterable[Batch],
    *,
    loss: Loss = _DISTANCE,
    gates: Gates | None = None,
    blocks: str = "all",
    matrix: str = "hessian",
    memory: int | None = None,
) -> Any:
    """Computes the exact Hessian of the mean loss by one factor for every unit, where all factors are 1.

        H_ij = d2 L / dv_i dv_j,    a unit being v_i a_i at its site, in all that is summed over it, or in what reads it

    between units of one group and between groups.  Of a distance of the network to itself (``jp.losses.distillation``
    without a teacher) H is the Gauss-Newton matrix, for every network, and L(v) = (v - 1)' H (v - 1) / 2 up to third
    order.  It costs a forward pass, a backward pass to the sites for each column of the output Hessian, and a product
    of matrices, see ``jp.curvature.joint_block``.

    Args:
      network: ungated.
      groups: of units, of layers, or both; a group that is gated in several places has one factor for all.
      batches: images, what the loss reads, and optional weights, weighted as one large batch would be.
      loss: per-example loss.
      gates: which units live; rows and columns of others are zero.  None: all.
      blocks: "all", or "group": for each group the block of its own units, which takes little memory, and leaves out
        what lies between groups.
      matrix: "hessian", "ggn" or "empirical_fisher".  The Hessian of a loss of the labels between groups takes
        a product for every unit.
      memory: the bytes that temporaries may take, and the matrix.  None: half of what is free.

    Returns:
      In float64, of products in the type of the network or float32: "all": [G, G], the groups in their order.
      "group": ``{group: [size, size]}``.

    Raises:
      ValueError: gates, groups or batches that do not fit; a site that is not tagged; NaN anywhere; an unknown choice.
      MemoryError: the matrix does not fit; raised before anything is allocated.

    Of the squared distance of a sum of units to itself:

    >>> import jax.numpy as jnp
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x, "units") @ p, jnp.ones((2, 1)))
    >>> units, batch = Group("units", 2, (), ("units",)), {"image": jnp.array([[1.0, 3.0]])}
    >>> gate_hessian(net, [units], [batch]).round(4)
    array([[ 2.,  6.],
           [ 6., 18.]])
    """
    check.choice("blocks", blocks, BLOCKS)
    check.network(network)
    alive = check_gates(groups, {} if gates is None else gates)
    _demand_room(groups, blocks, memory)
    kept = listed(batches, losses.entries(loss))
    if blocks == "group":
        wanted = factored(network, groups, alive)
        found = curvature.sweep(wanted, loss, kept, ("gram",), matrix=matrix, blocks="layer", memory=memory).gram or {}
        return {group.name: np.asarray(found[group.name][0], np.float64) for group in groups}
    wanted, owner = _at_sites(network, groups, alive, kept[0]["image"])
    found = curvature.average(lambda batch: curvature.joint_block(wanted, loss, batch, matrix, memory=memory), kept)
    return _of_units(np.asarray(found, np.float64), owner, sum(group.size for group in groups))


def _demand_room(groups: Sequence[Group], blocks: str, memory: int | None) -> None:
    """Checks that the matrix fits, on the host and on the device."""
    sizes = [group.size for group in groups]
    count = sum(sizes) ** 2 if blocks == "all" else sum(size**2 for size in sizes)
    smaller = 'Take blocks="group", one block for each group.' if blocks == "all" else "Take fewer groups at a time."
    fits(f"the Hessian by {sum(sizes)} gates", (_HOST + _DEVICE) * count, memory, remedy=smaller)


def _at_sites(
    network: Network, groups: Sequence[Group], gates: Mapping[str, np.ndarray], images: Any
) -> tuple[Network, np.ndarray]:
    """The network as a function of factors at every index of every site, and which unit each of them belongs to.

    A factor that enters once is served by signals, where one that enters in several places, or is repeated along the
    neighbours of a unit, is not.
    """
    jax.eval_shape(factored(network, groups, gates), images)  # sites that do not fit are refused in words
    tags = list(dict.fromkeys(tag for group in groups for tag in group.sites))
    shapes = jax.eval_shape(lambda network, images: read(network, images, tags), network, images)
    shape = {tag: value.shape for tag, value in zip(tags, shapes, strict=True)}
    parts, alive, owner, start = [], {}, [], 0
    for group in groups:
        for tag in (None,) if group.by_readers or group.by_sums else group.sites:  # one factor for all places
            # Named by numbers, so that the order of names is that of the groups.
            part = dataclasses.replace(group, name=f"{len(parts):06d}", sites=() if tag is None else (tag,))
            if tag is not None and not group.is_layer:
                part = dataclasses.replace(part, size=shape[tag][group.axis], members=())
            parts.append(part)
            each = part.size // group.size
            alive[part.name] = np.repeat(gates[group.name], each)
            owner.append(np.repeat(np.arange(start, start + group.size), each))
        start += group.size
    return factored(network, parts, alive), np.concatenate(owner)


def _of_units(found: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Sums rows and columns that belong to one unit: what depends on a factor twice has the sum as its derivative."""
    if np.array_equal(owner, np.arange(count)):
        return found
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(count))
    rows = np.add.reduceat(found[order], starts, axis=0)
    return np.add.reduceat(rows[:, order], starts, axis=1)
