"""Estimates from random signs over the columns of the output Hessian, with standard errors: for a thousand classes.

With random signs s the signal J_z^T B s of an example, B a root of its output Hessian, has squares and products whose
mean is what all columns together give: one backward pass for each probe in place of C - 1.  The quantity of example n
is X_n, the mean of k probes; the estimate is the weighted mean of X_n, unbiased, and the spread of X_n between
examples, which holds what the probes add, gives its standard error.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxprune import check, losses, tree
from jaxprune.curvature import signals
from jaxprune.curvature.blocks import request
from jaxprune.curvature.compiled import compile_only
from jaxprune.curvature.requests import Request, is_idle, reason_against_signals
from jaxprune.curvature.rows import Rows, sides
from jaxprune.curvature.stream import NO_BATCH, Alike, total_weight
from jaxprune.curvature.tasks import Measure, fitted
from jaxprune.mesh import Placement, each_shard, kept
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Mask, Params, Scope

QUANTITIES = ("diagonal", "unit", "layer")
MATRICES = ("hessian", "ggn")
SKETCH = "random signs over the columns"
# Below so many effective examples an interval says little: Student's t needs sums that are nearly normal.
FEW = 100
# Numbers of the accumulators of a leaf that one tile holds: what a core keeps in its cache.
_TILE = 2**17


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate of a quantity of all leaves: no exact number.

    Attributes:
      value: the estimate, structure and shapes of the parameters.
      error: its standard error, over the examples and the probes.
      effective: how many examples effectively reach every weight, ``(sum_n |y_n|)^2 / sum_n y_n^2`` with y_n the share
        of example n; 0 where none does.
      quantity: "diagonal", "unit" or "layer".
      matrix: "hessian" or "ggn".
      probes: random signs for each example.
      examples: of weight above 0.
      exact: always False.
    """

    value: Params
    error: Params
    effective: Params
    quantity: str
    matrix: str
    probes: int
    examples: int
    exact: bool = False

    def interval(self, confidence: float = 0.95) -> tuple[Params, Params]:
        """The ends of intervals that hold the quantity of all images that these are a sample of.

        Student's t with the effective number of examples of every weight, less one, as degrees of freedom.  Where
        ``few`` flags a weight the stated confidence is not reached; below two examples the interval is infinite.

        >>> one = Estimate(jnp.ones(1), jnp.full(1, 0.5), jnp.full(1, 3.0), "diagonal", "ggn", 2, 3)
        >>> low, high = one.interval()
        >>> round(float(low[0]), 2), round(float(high[0]), 2)
        (-1.15, 3.15)
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: expected a number between 0 and 1, but got {confidence!r}.")

        def reach(error: Any, effective: Any) -> Any:
            freedom = np.asarray(effective, np.float64) - 1
            quantile = special.stdtrit(np.maximum(freedom, 1e-9), (1 + confidence) / 2)
            return np.where(freedom > 0, quantile * np.asarray(error, np.float64), np.inf)

        reaches = jax.tree.map(reach, self.error, self.effective)
        values = jax.tree.map(np.asarray, self.value)
        ends = (jax.tree.map(function, values, reaches) for function in (np.subtract, np.add))
        low, high = (jax.tree.map(_narrowed, end, self.value) for end in ends)
        return low, high

    def few(self, least: float = FEW) -> Mask:
        """Flags the weights that fewer than so many examples effectively reach."""
        return jax.tree.map(lambda effective: jnp.asarray(effective) < least, self.effective)

    def __str__(self) -> str:
        """Says what it is an estimate of, and from what."""
        flagged = sum(int(np.sum(leaf)) for leaf in jax.tree.leaves(self.few()))
        return (
            f"estimate of the {self.quantity} of the {self.matrix} from {self.probes} random probes for each of "
            f"{self.examples} examples; fewer than {FEW} of them effectively reach {flagged} of "
            f"{tree.size(self.value)} weights"
        )


def _narrowed(end: np.ndarray, like: Any) -> Any:
    """In the type of the estimate: what that cannot hold is infinite."""
    kind = jnp.result_type(like)
    most = float(jnp.finfo(kind).max)
    return jnp.asarray(np.where(np.abs(end) > most, np.copysign(np.inf, end), end), kind)


def estimate(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    quantity: str = "diagonal",
    *,
    matrix: str = "hessian",
    probes: int = 2,
    scope: Scope = None,
    memory: int | None = None,
    seed: int = 0,
) -> Estimate:
    """Estimates a quantity of all leaves from random signs: k backward passes in place of one for each class.

    Unbiased for the matrix of these batches, whatever k; and with the images drawn at random, for that of all images.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batches: images, what the loss reads, and optional weights; weighted as one large batch would be.
      quantity: "diagonal", or the products H_B w_B with the weights themselves of every "unit" or "layer".
      matrix: "hessian" or "ggn".
      probes: k, random signs for each example.  Their signals lie in memory together.
      scope: static tree of bools; leaves that are False come back zero and cost nothing.  None: every leaf.
      memory: the bytes that temporaries may take.  None: half of what is free.
      seed: of the signs.  An example gets its own by its number among those of weight above 0, so that neither the size
        of batches nor padding changes a number.

    Returns:
      An ``Estimate``.

    Raises:
      ValueError: an unknown quantity or matrix, fewer than 1 probe, no batch, a batch or scope that does not fit; a
        leaf for which the Hessian is not known to be the Gauss-Newton matrix, with the reason.
      MemoryError: it does not fit.

    Source: the signs are those of Hutchinson (1989), over the columns of the output Hessian as in Dangel, Kunstner and
    Hennig (2020), arXiv 1912.10985, by which the diagonal of single examples needs no other estimate.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0], [1.0, 1.0]]), "label": jnp.zeros((2, 1))}
    >>> found = estimate(net, losses.squared_error, [batch])  # one output: nothing is left to chance
    >>> found.value[:, 0], found.error[:, 0]
    (Array([ 2., 10.], dtype=float32), Array([0., 8.], dtype=float32))
    """
    check.choice("quantity", quantity, QUANTITIES)
    check.choice("matrix", matrix, MATRICES)
    check.whole("probes", probes)
    batches = check.batches(batches)
    check.concrete(
        "network, batches", (network, batches), "Call it outside of transformations; its programs are compiled."
    )
    alike = Alike()
    totals, weight, squared, count, asked = None, 0.0, 0.0, 0, None
    for batch in batches:
        asked = request(network, loss, batch, matrix, "unit", scope)
        alike.check(batch)
        task = sketch_task(asked, quantity, probes, seed, count).fitted(memory)
        part = task.run()
        totals = part if totals is None else tree.map_compiled(jnp.add, totals, part)
        weights = losses.weights(asked.batch)
        weight, squared = weight + total_weight(asked.batch), squared + total_weight({"weight": weights**2})
        count += int(total_weight({"weight": weights > 0}))
    if totals is None or asked is None:
        raise ValueError(NO_BATCH)
    check.positive("batches: the sum of the weights", weight)
    found = _finished(totals, weight, squared)

    def whole(at: int) -> Params:
        return tree.map_named(
            lambda name, leaf: found[name][at] if name in found else jnp.zeros_like(leaf), asked.network.params
        )

    return Estimate(whole(0), whole(1), whole(2), quantity, matrix, probes, count)


@dataclass(frozen=True)
class SketchTask:
    """The estimate of a quantity on one batch: what a plan reads, and a computation runs.

    Attributes:
      paths: the leaves.
      network: the network.
      batch: images, what the loss reads, and weights.
      keys: a random key for every example.
      vectors: v at every leaf, for products.
      wanted: see ``signals.Wanted``.
      quantity: see ``estimate``.
      probes: random signs for each example.
      placement: over which devices the examples are divided.
      count: 0: all signals lie in memory together.
    """

    paths: tuple[str, ...]
    network: Network
    batch: Batch
    keys: Any
    vectors: tuple[Any, ...]
    wanted: signals.Wanted
    quantity: str
    probes: int
    placement: Placement | None = None
    count: int = 0
    route: str = SKETCH
    why: str = "unbiased for any number of classes, with a standard error; asked for as an estimate"

    def run(self) -> dict[str, Any]:
        """Sums for every leaf y_n, y_n^2, weight_n y_n and |y_n| over the examples, y_n = weight_n X_n."""
        point = signals.begin(*self._beginning(), **self._first())
        return dict(zip(self.paths, _moments(point, self.vectors, **self._second()), strict=True))

    def fitted(self, memory: int | None, measure: Measure = compile_only) -> "SketchTask":
        """Checks that it fits into ``memory`` bytes; only a smaller batch takes less."""
        return fitted(self, memory, measure)

    def cost(self, measure: Measure = compile_only) -> tuple[int, float, int]:
        """The number of calls, the operations of all of them, and the bytes of temporaries and results."""
        first = measure(signals.begin, self._beginning(), self._first())
        point = kept(jax.eval_shape(partial(signals.begin, **self._first()), *self._beginning()), self.placement)
        each = measure(_moments, (point, self.vectors), self._second())
        return 2, first.operations + each.operations, first.results + max(first.bytes - first.results, each.bytes)

    def _first(self) -> dict[str, Any]:
        return {"wanted": self.wanted, "placement": self.placement}

    def _second(self) -> dict[str, Any]:
        return {"quantity": self.quantity, "probes": self.probes, "placement": self.placement}

    def _beginning(self) -> tuple[Any, ...]:
        weights = losses.weights(self.batch)
        return self.network, self.batch, jnp.where(weights > 0, weights, 0), self.vectors, self.keys


def sketch_task(asked: Request, quantity: str, probes: int, seed: Any = 0, first: int = 0) -> SketchTask:
    """The task of an estimate; ``first``: how many examples of weight above 0 came before this batch.

    Raises:
      ValueError: a leaf in scope for which signals are not exact.
    """
    paths = tuple(path for path in asked.paths if not is_idle(asked, path))
    for path in paths:
        if against := reason_against_signals(asked, path):
            raise ValueError(
                f"scope: the {asked.matrix} by {path} is no sum over signals, because {against}: there is no such "
                f"estimate of it. Leave it out, as by scope=jp.tree.map_named(lambda name, _: name != {path!r}, "
                'net.params); where what follows is the reason, matrix="ggn" or jp.losses.distillation have one.'
            )
    numbers = first + jnp.cumsum(losses.weights(asked.batch) > 0) - 1
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
    vectors = tuple(asked.leaf(path) for path in paths) if quantity != "diagonal" else ()
    wanted = signals.Wanted(asked.loss, "ggn", paths, others=("diagonal",))
    return SketchTask(paths, asked.network, asked.batch, keys, vectors, wanted, quantity, probes, asked.placement)


@partial(jax.jit, static_argnames=("quantity", "probes", "placement"))
@jax.default_matmul_precision("highest")
def _moments(
    point: signals.Point, vectors: Any, *, quantity: str, probes: int, placement: Placement | None
) -> list[Any]:
    def of_part(vectors: Any, _: Any, point: signals.Point) -> tuple[Any, Any]:
        every = [signals.signal(point, place, probes) for place in range(probes)]
        sides_of = [left for left, _, _ in every] + [right for _, right, _ in every if right is not None]
        weights = jnp.stack([weights for _, _, weights in every], axis=-1) / probes
        found = []
        for at, ready in enumerate(point.rows):
            given = [parts[at] for parts in sides_of]
            own = ready.from_leaf(vectors[at]) if vectors else None
            sums = _of_leaf(ready, given, weights, point.share, own, layer=quantity == "layer")
            found.append(tuple(ready.to_leaf(each) for each in sums))
        return found, ()

    return each_shard(of_part, placement, vectors, (), point)[0]


def _of_leaf(ready: Rows, given: list[Any], weights: Any, share: Any, own: Any, *, layer: bool) -> tuple[Any, ...]:
    """The four sums of one leaf, [g, d, o] each; in tiles of units that a cache holds."""
    inputs, ordered = ready.all(given)
    share = share.astype(weights.dtype)
    if inputs.shape[2] == 1 and own is None:
        return _of_one_position(ready, inputs, ordered, weights, share)
    groups, size, units = ready.layout.index.shape
    width = units if layer else max(1, min(units, _TILE // (groups * size)))
    count = -(-units // width)

    def tile(places: Any) -> Any:
        part = None if own is None else own[:, :, places]
        scale = None if ready.scale is None else ready.scale[:, :, places]
        return _over_examples(replace(ready, scale=scale), inputs, ordered[..., places], weights, share, part, layer)

    if count == 1:
        return tile(np.arange(units))
    places = np.resize(np.arange(units), (count, width))
    return tuple(
        jnp.moveaxis(each, 0, 2).reshape(groups, size, -1)[:, :, :units]
        for each in jax.lax.map(tile, jnp.asarray(places))
    )


def _over_examples(
    ready: Rows, inputs: Any, ordered: Any, weights: Any, share: Any, own: Any, layer: bool
) -> tuple[Any, ...]:
    def add(totals: Any, gradients: list[Any], weights: Any, share: Any) -> Any:
        y = 0
        for left, right, weight in zip(*sides(gradients, len(weights)), weights, strict=True):
            along = left if own is None else jnp.sum(left * own, axis=None if layer else 1, keepdims=True)
            y = y + weight * along * right
        return totals[0] + y, totals[1] + y**2, totals[2] + share * y, totals[3] + jnp.abs(y)

    zeros = jnp.zeros((*inputs.shape[1:2], inputs.shape[3], ordered.shape[4]), weights.dtype)
    return ready.over_examples(add, (zeros, zeros, zeros, zeros), inputs, ordered, weights, share)


def _of_one_position(ready: Rows, inputs: Any, ordered: Any, weights: Any, share: Any) -> tuple[Any, ...]:
    """One position: the square of a product is the product of the squares, and sums over examples are products."""
    left, right = sides(jnp.moveaxis(ordered[:, :, 0], 2, 0), weights.shape[1])
    bend, square = jnp.einsum("nk,kngo->ngo", weights, left * right), inputs[:, :, 0] ** 2
    scale = 1 if ready.scale is None else ready.scale**2
    one = jnp.einsum("ngd,ngo->gdo", square, bend) * scale
    two = jnp.einsum("ngd,ngo->gdo", square**2, bend**2) * scale**2
    three = jnp.einsum("n,ngd,ngo->gdo", share, square, bend) * scale
    four = jnp.einsum("ngd,ngo->gdo", square, jnp.abs(bend)) * scale
    return one, two, three, four


@jax.jit
def _finished(totals: dict[str, Any], weight: Any, squared: Any) -> dict[str, Any]:
    """Makes of the sums of every leaf its value, standard error and effective number of examples."""
    share = squared / weight**2

    def of_leaf(one: Any, two: Any, three: Any, four: Any) -> tuple[Any, Any, Any]:
        value = one / weight
        spread = (two - 2 * value * three + value**2 * squared) / weight**2
        error = jnp.sqrt(jnp.maximum(spread, 0) / jnp.where(share < 1, 1 - share, 1))
        effective = jnp.where(two > 0, four**2 / jnp.where(two > 0, two, 1), 0)
        # Squares below what the type holds say nothing of the spread.
        lost = (two < 100 * jnp.finfo(two.dtype).tiny) & (four > 0)
        return value, jnp.where((share < 1) & ~lost, error, jnp.inf), jnp.where(lost, 0, effective)

    return {name: of_leaf(*sums) for name, sums in totals.items()}
