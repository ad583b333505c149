"""Pruning by all gates jointly: the order of the surgeon, and kept units that do what those that are gone did."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import check, losses
from jaxprune.groups import Group, Specification
from jaxprune.memory import fits
from jaxprune.network import Network
from jaxprune.structured import compensation
from jaxprune.structured.accounting import Account, account
from jaxprune.structured.budgets import Cost
from jaxprune.structured.compensation import Fixed, Hessian, Prices, Surgeon, readjusted
from jaxprune.structured.criteria import listed
from jaxprune.structured.equality import check_removal
from jaxprune.structured.folding import check_folding, fold
from jaxprune.structured.gates import ones
from jaxprune.structured.interactions import BLOCKS, gate_hessian
from jaxprune.structured.probes import float_type, images_of
from jaxprune.structured.removal import remove
from jaxprune.structured.selection import Gating
from jaxprune.structured.verification import specification_of
from jaxprune.types import Batch, Loss

CURRENCIES = ("operations", "parameters", "units")
_DISTANCE = losses.distillation()
# Images on which folding and removing are checked.
_IMAGES = 4
# Matrices of float64 that the surgeon holds beside the Hessian.
_COPIES = 3


@dataclass(frozen=True)
class JointPruning:
    """What ``prune_jointly`` found.

    Attributes:
      specification: the shape of the dense network.
      network: the network in its dense shape, factors folded into the kernels that read the units: it computes what the
        smaller one does, and what the gated network does with its units multiplied by the factors.
      gates: which units live.
      factors: what every unit is multiplied by; 0 where it is gone, 1 everywhere where gates were not re-adjusted.
      order: (group, unit) in the order of their going.
      predicted: the increase of the mean loss that the quadratic predicts after each of these, [len(order)].
      removed: the share that is gone, of what the target counts.
      macs: multiply-accumulates that are left, for one image.
      parameters: parameters that are left.
    """

    specification: Specification
    network: Network
    gates: Gating
    factors: dict[str, np.ndarray]
    order: tuple[tuple[str, int], ...]
    predicted: np.ndarray
    removed: float
    macs: int
    parameters: int

    @property
    def smaller(self) -> Network:
        """The network with its units really removed; ``jp.structured.remove`` also returns its specification."""
        specification, *arrays = remove(self.specification, self.network.params, self.network.state, self.gates)
        return specification.network(*arrays)


def prune_jointly(
    network: Network,
    groups: Sequence[Group] | Specification,
    batches: Iterable[Batch],
    target: float,
    *,
    loss: Loss = _DISTANCE,
    per: str = "operations",
    damping: float = 1e-2,
    readjust: bool = True,
    blocks: str = "all",
    hessian: Hessian | None = None,
    memory: int | None = None,
) -> JointPruning:
    """Prunes units by the exact Hessian of all gates at once, and re-adjusts the gates that are kept.

    The distance of the network to itself is L(v) = (v - 1)' A (v - 1) / 2 to second order, v the factors of the units
    and A = H + d 1.  Unit by unit that one goes whose going costs least with all others re-adjusted, for each operation
    that it saves:

        argmin_j  v_j^2 / (2 [A_KK^-1]_jj s_j),    s_j what the network without j saves

    until the target is met.  The kept factors are then v_K = 1 + (H_KK + d 1)^-1 H_KQ 1, and are folded into the
    kernels that read the units.  No labels are read and nothing is trained.

    Args:
      network: evaluated in evaluation mode.
      groups: those whose units may go, or a specification: all of its.  Layers among them stay.  Groups alone are cut
        as ``jp.structured.verify`` cuts them.
      batches: images and optional weights, without teachers.
      target: the share of the network's operations (or of what else ``per`` counts) that goes, in (0, 1).
      loss: a ``jp.losses.distillation``.
      per: what the target counts, and what a unit's cost is divided by: "operations" (multiply-accumulates),
        "parameters", or "units" (exactly round(target x units) go).
      damping: d as a share of the mean diagonal of H, over units that do anything.
      readjust: False: kept gates stay as they are, and the order is that of H_jj / 2 + sum_q H_jq over units that are
        gone: what the quadratic says of gates that are not re-adjusted.
      blocks: "all", or "group": what lies between groups is left out, for networks with too many units.
      hessian: what ``jp.structured.gate_hessian`` returned for the units of these groups, layers left out, to be used
        again for another target.  None: it is computed.
      memory: the bytes that may be taken.  None: half of what is free.

    Returns:
      A ``JointPruning``.

    Raises:
      ValueError: a target that the floors do not permit; a loss that has a gradient where the network stands; gates
        that cannot be folded; units whose removal is not their gating; a damping that does not stand above rounding;
        groups, batches or a Hessian that do not fit; NaN anywhere.  All but what concerns the Hessian is found first.
      MemoryError: the Hessian does not fit; the message names ``blocks="group"``.

    Source: the order and the re-adjustment are those of Hassibi and Stork (1992), "Second order derivatives for network
    pruning: Optimal Brain Surgeon", for the gates of Molchanov et al. (2019), arXiv 1906.10771.

    Three units of which two are the same: one of these goes, and the other does the work of both.

    >>> import jax
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> from jaxprune.groups import Member
    >>> def apply(params, state, images):
    ...     return checkpoint_name(images.reshape(len(images), -1) @ params["in"], "units") @ params["out"]
    >>> net = Network(apply, {"in": jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), "out": jnp.ones((3, 1))})
    >>> units = Group("units", 3, (Member("in", 1), Member("out", 0, reads=True)), ("units",))
    >>> batch = {"image": jax.random.normal(jax.random.key(0), (8, 2, 1, 1))}
    >>> found = prune_jointly(net, [units], [batch], 0.3, damping=1e-5)
    >>> np.sort(found.factors["units"]).round(2), found.smaller.params["out"].shape
    (array([0., 1., 2.]), (2, 1))
    """
    check.choice("per", per, CURRENCIES, ordered=True)
    check.choice("blocks", blocks, BLOCKS)
    check.network(network)
    _check_target(target)
    specification = specification_of(network, groups)
    units = tuple(
        group for group in (groups if isinstance(groups, Sequence) else groups.groups()) if not group.is_layer
    )
    if not units:
        raise ValueError("groups: expected units (heads, filters, hidden units), but got layers alone, or none.")
    kept = listed(batches)
    _check_loss(loss, kept)
    compensation.shift_of([np.ones((1, 1))], damping)
    book = account(specification, network.params, network.state, np.shape(kept[0]["image"])[1:])
    aim = _Aim(book, units, per, target)
    images = images_of(network, (_IMAGES, *np.shape(kept[0]["image"])[1:]), seed=0)
    check_folding(network, units, images, switched=not readjust)
    check_removal(network, specification, images, units)
    _demand_room(units, blocks, memory)
    found: Hessian = (
        hessian if hessian is not None else gate_hessian(network, units, kept, loss=loss, blocks=blocks, memory=memory)
    )
    matrices = compensation.as_blocks(units, found)
    shift = compensation.shift_of(matrices, damping) if readjust else 0.0
    if readjust:
        compensation.check_damping(matrices, damping, float(jnp.finfo(_wide_type(network)).eps))
    order, predicted = _removed(matrices, shift, aim, readjust=readjust)
    gates = aim.gates
    mine = {group.name: gates[group.name] for group in units}
    factors = {name: value.astype(np.float64) for name, value in mine.items()}
    if readjust:
        factors = readjusted(units, found, mine, damping=damping)
    return JointPruning(
        specification=specification,
        network=fold(network, units, factors),
        gates=gates,
        factors=factors,
        order=order,
        predicted=predicted,
        removed=aim.removed / aim.whole,
        macs=book.macs(gates),
        parameters=book.parameters(gates),
    )


class _Aim:
    """What may go, and what has to: gates on their way to a target.

    Attributes:
      gates: which units live.
      whole: the cost of the dense network.
      removed: what is gone of it.
    """

    def __init__(self, book: Account, units: Sequence[Group], per: str, target: float) -> None:
        self._units = units
        self._cost: Cost = {"operations": book.macs, "parameters": book.parameters, "units": self._count}[per]
        self.gates = ones(book.groups)
        self.whole, self.removed = self._cost(self.gates), 0.0
        self._amount = round(target * self.whole) if per == "units" else target * self.whole
        self._owner = [(group, unit) for group in units for unit in range(group.size)]
        self._check(per, target)
        self._saved = {group.name: self._saving(group) for group in units}
        # A kernel between two groups saves by a unit of one what is left of the other.
        leaves = {group.name: [member.leaf for member in group.members] for group in units}
        self._touched = {
            group.name: [
                other
                for other in units
                if (set(leaves[group.name]) & set(leaves[other.name]) and other is not group)
                or (other is group and len(set(leaves[group.name])) < len(leaves[group.name]))
            ]
            for group in units
        }

    @property
    def met(self) -> bool:
        """Whether enough is gone."""
        return self.removed >= self._amount

    def next(self, prices: np.ndarray) -> int:
        """The unit of the lowest price for each part of the cost that it saves, ties by position."""
        able = {group.name: self.gates[group.name].sum() > max(group.floor, 1) for group in self._units}
        saved = np.concatenate([np.full(group.size, self._saved[group.name]) for group in self._units])
        may = np.concatenate([self.gates[group.name] & able[group.name] for group in self._units])
        with np.errstate(over="ignore"):  # what saves nothing goes last
            # What does good by going, does the more good the more it saves.
            rates = np.where(prices < 0, prices * saved, prices / np.maximum(saved, np.finfo(float).tiny))
        places = np.flatnonzero(may)
        return int(places[np.argmin(rates[places])])

    def remove(self, unit: int) -> tuple[str, int]:
        """Removes a unit; returns its group and its number there."""
        group, number = self._owner[unit]
        self.removed += self._saved[group.name]
        self.gates[group.name][number] = False
        for other in self._touched[group.name]:
            self._saved[other.name] = self._saving(other)
        return group.name, number

    def _saving(self, group: Group) -> float:
        """What the network saves without one more unit of a group."""
        less = self.gates[group.name].copy()
        less[np.argmax(less)] = False
        return self._cost(self.gates) - self._cost({**self.gates, group.name: less})

    def _count(self, gates: Mapping[str, Any]) -> float:
        return float(sum(np.sum(gates[group.name]) for group in self._units))

    def _check(self, per: str, target: float) -> None:
        least = {group.name: np.arange(group.size) < max(group.floor, 1) for group in self._units}
        most = self.whole - self._cost({**self.gates, **least})
        if not 0 < self._amount <= most:
            raise ValueError(
                f"target: expected a share of the {per} that units make up, from one of them to "
                f"{most / self.whole:.4g} (each group keeps its floor, and what belongs to no unit stays), but got "
                f"{target!r}. Pass another share, or more groups."
            )


def _removed(
    matrices: Sequence[np.ndarray], shift: float, aim: _Aim, *, readjust: bool
) -> tuple[tuple[tuple[str, int], ...], np.ndarray]:
    """Removes unit by unit until the target is met; returns the order, and what the quadratic is after each."""
    prices: list[Prices] = [Surgeon(matrix, shift) if readjust else Fixed(matrix) for matrix in matrices]
    edges = np.cumsum([0, *map(len, matrices)])
    works = np.concatenate([np.diagonal(matrix) > 0 for matrix in matrices])
    order, predicted, total = [], [], 0.0
    while not aim.met:
        values = np.concatenate([each.values for each in prices])
        unit = aim.next(values)
        block = int(np.searchsorted(edges, unit, side="right")) - 1
        prices[block].remove(unit - int(edges[block]))
        order.append(aim.remove(unit))
        total += values[unit]
        moved = np.concatenate([each.factors for each in prices])[works] - 1
        # The damping belongs to the search, not to the loss.
        predicted.append(max(total - shift / 2 * float(moved @ moved), 0.0))
    return tuple(order), np.array(predicted)


def _check_target(target: float) -> None:
    if not check.is_number(target) or not 0 < target < 1:
        raise ValueError(
            f"target: expected the share that goes, in (0, 1), but got {target!r}. To remove half of the operations "
            "pass 0.5."
        )


def _check_loss(loss: Loss, batches: Sequence[Batch]) -> None:
    if not all(losses.has_zero_residual(loss, batch) for batch in batches):
        raise ValueError(
            "loss: expected the distance of the network to itself, jp.losses.distillation(...) with batches that have "
            "no 'teacher', since the order takes a loss whose gradient is zero where the network stands, but got "
            f"{loss if isinstance(loss, losses.Distillation) else getattr(loss, '__name__', loss)!r}. Of any other "
            "loss jp.structured.gate_hessian has the matrix."
        )


def _demand_room(units: Sequence[Group], blocks: str, memory: int | None) -> None:
    """Checks that the surgeon's matrices fit, beside the Hessian."""
    sizes = [group.size for group in units]
    count = sum(sizes) ** 2 if blocks == "all" else sum(size**2 for size in sizes)
    smaller = 'Take blocks="group", one block for each group.' if blocks == "all" else "Take fewer groups at a time."
    fits(f"pruning {sum(sizes)} gates jointly", 8 * (1 + _COPIES) * count, memory, remedy=smaller)


def _wide_type(network: Network) -> Any:
    """The type in which derivatives are computed."""
    return jnp.promote_types(float_type(network.params), jnp.float32)
