"""Pruning by all gates jointly: the order of the surgeon, and kept units that do what those that are gone did."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, curvature, losses
from jaxprune.curvature.inputs import placed
from jaxprune.groups import Group, Specification
from jaxprune.memory import fits
from jaxprune.network import Network
from jaxprune.structured import compensation
from jaxprune.structured.accounting import account
from jaxprune.structured.aims import CURRENCIES, Aim
from jaxprune.structured.compensation import Fixed, Hessian, Prices, Surgeon, readjusted
from jaxprune.structured.criteria import listed
from jaxprune.structured.equality import check_removal
from jaxprune.structured.folding import check_folding, fold
from jaxprune.structured.gates import factored, outputs
from jaxprune.structured.interactions import BLOCKS, gate_hessian
from jaxprune.structured.probes import float_type, images_of
from jaxprune.structured.removal import remove
from jaxprune.structured.selection import Gating, check_multiple
from jaxprune.structured.verification import specification_of
from jaxprune.types import Batch, Loss

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
      factors: what every unit is multiplied by: 0 where it is gone, and 1 elsewhere if gates were not re-adjusted.
      order: (group, unit) in the order of their going.
      predicted: the mean loss that the quadratic predicts after each of these, [len(order)].
      measured: the mean loss on the batches after every round; far above what was predicted, the quadratic was taken
        too far, and more rounds may help.
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
    measured: tuple[float, ...]
    removed: float
    macs: int
    parameters: int

    def __repr__(self) -> str:
        """Says what is left, in a line."""
        return (
            f"JointPruning({self.removed:.1%} removed in {len(self.order)} units, {self.macs:,} operations and "
            f"{self.parameters:,} parameters left; mean loss {self.measured[-1]:.3g} measured, "
            f"{self.predicted[-1]:.3g} predicted)"
        )

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
    rounds: int = 1,
    multiple: int = 1,
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

    A quadratic says little of a network that has lost most of its units.  In several rounds an equal share of what is
    left goes in each, and from the second on H is the Gauss-Newton matrix of the distance to the dense network where
    the pruned one stands, and its gradient g, which is not zero there, enters: the minimum is at 1 - A^-1 g.

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
      rounds: in how many steps; each takes a Hessian, a gradient, and what folding takes.
      multiple: widths that change become multiples of this number: once a unit of a group went, others of it follow.
      blocks: "all", or "group": what lies between groups is left out, for networks with too many units.
      hessian: what ``jp.structured.gate_hessian`` returned for the units of these groups, layers left out, to be used
        again for another target, in the first round.  None: it is computed.
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
    check.whole("rounds", rounds)
    check_multiple(multiple)
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
    aim = Aim(book, units, per, target, multiple)
    images = images_of(network, (_IMAGES, *np.shape(kept[0]["image"])[1:]), seed=0)
    check_folding(network, units, images, switched=not readjust)
    check_removal(network, specification, images, units)
    _demand_room(units, blocks, memory)
    search = _Search(network, units, kept, loss, damping, readjust, blocks, memory)
    order, predicted, measured = [], [], []
    for number in range(1, rounds + 1):
        # Equal shares of what is left; the last number is 1 without rounding.
        share = 1.0 if number == rounds else (1 - (1 - target) ** (number / rounds)) / target
        gone, values = search.round(aim, share, hessian if number == 1 else None)
        order, predicted, measured = order + gone, predicted + values, [*measured, search.measured]
    return JointPruning(
        specification=specification,
        network=search.here,
        gates=aim.gates,
        factors=search.factors,
        order=tuple(order),
        predicted=np.array(predicted),
        measured=tuple(measured),
        removed=aim.removed / aim.whole,
        macs=book.macs(aim.gates),
        parameters=book.parameters(aim.gates),
    )


class _Search:
    """Where the search stands: the factors, the network that they are folded into, and its distance to the dense one.

    Attributes:
      factors: of every unit.
      here: the network, factors folded.
      measured: its mean loss.
    """

    def __init__(
        self,
        network: Network,
        units: Sequence[Group],
        batches: Sequence[Batch],
        loss: Loss,
        damping: float,
        readjust: bool,
        blocks: str,
        memory: int | None,
    ) -> None:
        self._network, self._units, self._loss = network, units, loss
        self._damping, self._readjust, self._blocks, self._memory = damping, readjust, blocks, memory
        self._given, self._taught = batches, [_taught(network, loss, batch) for batch in batches]
        self.factors = {group.name: np.ones(group.size) for group in units}
        self.here, self.measured = network, 0.0
        self._began = False

    def round(self, aim: Aim, share: float, hessian: Hessian | None) -> tuple[list[tuple[str, int]], list[float]]:
        """Removes units up to a share of the target; returns the order, and what the quadratic is after each."""
        found, slope = self._expanded(aim, hessian)
        matrices = compensation.as_blocks(self._units, found)
        # Where nothing depends on the units their order would be that of their positions: refused, damped or not.
        shift = compensation.shift_of(matrices, self._damping)
        if self._readjust:
            eps = float(jnp.finfo(jnp.promote_types(float_type(self._network.params), jnp.float32)).eps)
            compensation.check_damping(matrices, self._damping, eps)
        shift = shift if self._readjust else 0.0
        slopes = None if slope is None else [slope[group.name] for group in self._units]
        prices = self._prices(matrices, shift, aim, slopes)
        order, predicted = _removed(matrices, prices, shift, aim, share)
        mine = {group.name: aim.gates[group.name] for group in self._units}
        step = {name: 1.0 * gates for name, gates in mine.items()}
        if self._readjust:
            step = readjusted(self._units, found, mine, slope=slope, damping=self._damping)
        self.factors = {name: self.factors[name] * values for name, values in step.items()}
        # Of the network that was given: rounding does not add up.
        self.here, base = fold(self._network, self._units, self.factors), self.measured
        self.measured = _distance(self.here, self._loss, self._taught)
        return order, [max(base + value, 0.0) for value in predicted]

    def _expanded(self, aim: Aim, hessian: Hessian | None) -> tuple[Hessian, dict[str, np.ndarray] | None]:
        """The Hessian, and the gradient where it is not zero."""
        options: dict[str, Any] = {"loss": self._loss, "blocks": self._blocks, "memory": self._memory}
        if not self._began:
            self._began = True
            found = gate_hessian(self._network, self._units, self._given, **options) if hessian is None else hessian
            return found, None
        alive = {group.name: aim.gates[group.name].copy() for group in self._units}
        found = gate_hessian(self.here, self._units, self._taught, gates=alive, matrix="ggn", **options)
        scaled = factored(self.here, self._units, alive)
        slope = curvature.average(lambda batch: curvature.gradient(scaled, self._loss, batch), self._taught)
        return found, {name: np.asarray(values, np.float64) for name, values in slope.items()}

    def _prices(
        self, matrices: Sequence[np.ndarray], shift: float, aim: Aim, slopes: Sequence[np.ndarray] | None
    ) -> Sequence[Prices]:
        kept = np.concatenate([aim.gates[group.name] for group in self._units])
        slope = np.zeros(len(kept)) if slopes is None else np.concatenate(slopes)
        edges = np.cumsum([len(matrix) for matrix in matrices])
        own = zip(matrices, np.split(slope, edges), np.split(kept, edges), strict=False)
        if self._readjust:
            return [Surgeon(matrix, shift, slope, kept) for matrix, slope, kept in own]
        return [Fixed(matrix, slope, kept) for matrix, slope, kept in own]


def _removed(
    matrices: Sequence[np.ndarray], prices: Sequence[Prices], shift: float, aim: Aim, share: float
) -> tuple[list[tuple[str, int]], list[float]]:
    """Removes unit by unit; returns the order, and what the quadratic has risen by after each."""
    edges = np.cumsum([0, *map(len, matrices)])
    works = np.concatenate([np.diagonal(matrix) > 0 for matrix in matrices])
    order, risen, total = [], [], sum(each.start for each in prices)
    while not aim.met(share):
        values = np.concatenate([each.values for each in prices])
        unit = aim.next(values)
        block = int(np.searchsorted(edges, unit, side="right")) - 1
        prices[block].remove(unit - int(edges[block]))
        order.append(aim.remove(unit))
        total += float(values[unit])
        moved = np.concatenate([each.factors for each in prices])[works] - 1
        # The damping belongs to the search, not to the loss.
        risen.append(total - shift / 2 * float(moved @ moved))
    return order, risen


def _taught(network: Network, loss: Loss, batch: Batch) -> Batch:
    """A batch whose teacher is the network, where the loss looks."""
    there, _ = placed(network, loss)
    weight = {"weight": batch["weight"]} if "weight" in batch else {}
    with jax.default_matmul_precision("highest"):  # as derivatives are computed: rounding is no distance
        return {"image": batch["image"], "teacher": outputs(there, losses.images(batch)), **weight}


def _distance(network: Network, loss: Loss, batches: Sequence[Batch]) -> float:
    """The mean loss."""
    there, plain = placed(network, loss)

    def of(batch: Batch) -> Any:
        return losses.mean(plain, outputs(there, losses.images(batch)), batch)

    with jax.default_matmul_precision("highest"):
        return float(curvature.average(of, batches))


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
