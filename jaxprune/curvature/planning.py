"""What a quantity would take, before it is computed."""

import math
from dataclasses import dataclass
from typing import Any

from jaxprune import check, tree
from jaxprune.curvature import blocks as quantities
from jaxprune.curvature import estimates, routes
from jaxprune.curvature.compiled import compile_only
from jaxprune.curvature.counting import count_only
from jaxprune.curvature.estimates import SketchTask, sketch_task
from jaxprune.curvature.products import gradient_cost
from jaxprune.curvature.requests import Request
from jaxprune.curvature.tasks import Measure, narrowed
from jaxprune.memory import available
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Scope

QUANTITIES = ("diagonal", "block_product", "block")


@dataclass(frozen=True)
class Leg:
    """One route of a plan.

    Attributes:
      route: its name.
      paths: the leaves that it serves.
      why: the reason, in words.
      calls: how often the compiled program is called.
      gradients: the cost of all calls, in gradients of the same batch.  NaN of dense blocks that do not fit, which
        are not traced.
      bytes: what the program takes at its peak for temporaries and results, with as much side by side as fits.
      refusal: where it does not fit, what it needs, what there is and the remedy, as the quantity itself says it when
        it raises; nothing where it fits.
    """

    route: str
    paths: tuple[str, ...]
    why: str
    calls: int
    gradients: float
    bytes: int
    refusal: str = ""


@dataclass(frozen=True)
class Plan:
    """What a quantity will take; ``print`` it.

    Attributes:
      quantity: what is computed.
      matrix: of which matrix.
      legs: the routes that serve the leaves in scope.
      exact: True but for an estimate: no other route approximates.  How that is known stands in ``why`` of every leg.
      probes: of an estimate.
    """

    quantity: str
    matrix: str
    legs: tuple[Leg, ...]
    exact: bool = True
    probes: int | None = None

    @property
    def gradients(self) -> float:
        """The cost in gradients of the same batch, from the operations that the compilers count."""
        return sum(leg.gradients for leg in self.legs)

    @property
    def bytes(self) -> int:
        """The most that any compiled program takes for temporaries and results."""
        return max((leg.bytes for leg in self.legs), default=0)

    @property
    def fits(self) -> bool:
        """Whether memory suffices; where it does not, the quantity raises what ``refusal`` says."""
        return not self.refusal

    @property
    def refusal(self) -> str:
        """What does not fit, what it needs, what there is and the remedy; nothing where all fits."""
        return " ".join(leg.refusal for leg in self.legs if leg.refusal)

    @property
    def route(self) -> str:
        """The names of the routes."""
        return ", ".join(dict.fromkeys(leg.route for leg in self.legs))

    @property
    def why(self) -> str:
        """The reasons."""
        return "; ".join(dict.fromkeys(leg.why for leg in self.legs))

    def __str__(self) -> str:
        """Writes the plan as text, a line for each route and reason."""
        how = "exact" if self.exact else f"an estimate from {self.probes} probes, not exact"
        head = f"{self.quantity} of the {self.matrix}, {how}: {_gradients(self.gradients)}, {_bytes(self.bytes)}"
        merged: dict[tuple[str, str], list[Leg]] = {}
        for leg in self.legs:
            merged.setdefault((leg.route, leg.why), []).append(leg)
        lines = []
        for (route, why), legs in merged.items():
            paths = [path for leg in legs for path in leg.paths]
            named = ", ".join(paths) if len(paths) <= 3 else f"{paths[0]}, {paths[1]} and {len(paths) - 2} more"
            cost = sum(leg.gradients for leg in legs)
            calls = sum(leg.calls for leg in legs)
            lines.append(f"  {route}: {_gradients(cost)} in {calls} calls, because {why}\n    {named}")
            lines += [f"    does not fit: {leg.refusal}" for leg in legs if leg.refusal]
        return "\n".join([head, *lines])


def plan(
    network: Network,
    loss: Loss,
    batch: Batch,
    quantity: str,
    *,
    blocks: str | int | None = None,
    matrix: str = "hessian",
    scope: Scope = None,
    path: str | None = None,
    memory: int | None = None,
    probes: int | None = None,
    compile: bool = True,
) -> Plan:
    """Says by which route a quantity would be computed, why, what it costs, and what it takes at its peak.

    Nothing is computed, but the programs are compiled: the computation that follows does not compile them again.
    ``compile=False`` counts in their traces alone, which takes a second where compiling takes minutes.  What does not
    fit is no error here: the plan says so (``fits``, ``refusal``).

    Args:
      network: the network.
      loss: per-example loss.
      batch: images, what the loss reads, and optional weights.
      quantity: "diagonal", "block_product" or "block".
      blocks: as in ``block_product``.  None: what the quantity takes where nothing is said, "layer" for "block".
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: static tree of bools; None: every leaf.
      path: for "block": the leaf.
      memory: the bytes that temporaries may take; None: half of what is free.
      probes: plan ``jp.curvature.estimate`` with so many random signs for each example in place of the exact quantity.
        None: the exact one; no plan chooses an estimate by itself.
      compile: whether the compiler counts operations and bytes, or we do.  Ours weigh an operation by the time that it
        takes on a CPU, and know nothing of what a compiler makes of a program.

    Returns:
      A ``Plan``.  Its cost compares the operations of the programs with those of one value and gradient; time follows
      operations to within a factor of about two (on a CPU, convolutions with groups take longer than a compiler
      counts).

    Raises:
      ValueError: an unknown option; probes of what has no estimate.

    >>> import jax.numpy as jnp
    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 3)))
    >>> batch = {"image": jnp.ones((4, 2)), "label": jnp.zeros(4, int)}
    >>> plan(net, losses.cross_entropy, batch, "diagonal").route
    'class-backward signals'
    """
    check.choice("quantity", quantity, QUANTITIES)
    check.concrete("network, batch", (network, batch), "Ask for the plan outside; it is of shapes alone.")
    if quantity == "block":
        check.choice("path", str(path), tree.names(network.params))
    blocks = ("layer" if quantity == "block" else "unit") if blocks is None else blocks
    request = quantities.request(network, loss, batch, matrix, blocks, scope, path if quantity == "block" else None)
    if probes is not None:
        tasks = [_sketch(request, quantity, probes)]
    elif quantity == "diagonal":
        tasks = routes.diagonal_tasks(request)
    elif quantity == "block_product":
        tasks = routes.product_tasks(request, request.network.params)
    else:
        tasks = [routes.block_task(request)]
    measure = compile_only if compile else count_only
    # A gradient that is zero costs nothing.
    unit = max(1.0, gradient_cost(request.network, request.loss, request.batch, measure))
    there = available(memory)
    if quantity == "block" and (against := _too_large(request, there)):
        legs = [Leg(tasks[0].route, tasks[0].paths, tasks[0].why, 0, math.nan, *against)]
    else:
        legs = [_leg(task, there, measure, unit) for task in tasks]
    return Plan(quantity, matrix, tuple(legs), probes is None, probes)


def _leg(task: Any, there: int, measure: Measure, unit: float) -> Leg:
    narrow, against = narrowed(task, there, measure)
    calls, operations, peak = narrow.cost(measure)
    return Leg(task.route, task.paths, task.why, calls, operations / unit, peak, against)


def _too_large(request: Request, there: int) -> tuple[int, str] | None:
    """The bytes of dense blocks that do not fit, and why not."""
    try:
        quantities.blocks_fit(request, request.paths, max(there, 1))
    except MemoryError as error:
        return quantities.block_bytes(request, request.paths[0]), str(error)
    return None


def _sketch(request: Request, quantity: str, probes: int) -> SketchTask:
    check.whole("probes", probes)
    blocks = request.blocks if quantity == "block_product" else quantity
    if blocks not in estimates.QUANTITIES:
        raise ValueError(
            f"probes: expected a diagonal, or products of blocks 'unit' or 'layer', which have an estimate, but got "
            f"{quantity} with blocks={request.blocks!r}. Leave probes out for the exact one."
        )
    check.choice("matrix", request.matrix, estimates.MATRICES)
    return sketch_task(request, str(blocks), probes)


def _gradients(count: float) -> str:
    return "gradients not counted" if math.isnan(count) else f"{count:.1f} gradients"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""
