"""The route by class-backward signals: exact blocks of all units of all layers for C backward passes.

At a site z = W a where the Hessian by W is that of Gauss and Newton (``routes`` says when), with the columns l_k, r_k
of the output Hessian (``columns``; mostly the same) and the signals J_z^T l_k, J_z^T r_k, one backward pass to the
activations each,

    H_B v_B  =  sum_n sum_k  c_nk h_nk,B (g_nk,B . v_B),      g_nk = sum_t a[n, t] (J_z^T l_k)[n, t]^T,  h_nk with r_k

For unit and layer blocks g is never formed: g_nk,B . v_B = sum_t (J_z^T l_k)[n, t, i] (V a)[n, t, i] =: s_k[n, i], and
the sum over k of s_k J_z^T r_k goes through one weight gradient for all units of all layers at once.

The programs sum over examples by shares that the caller gives.  ``begin`` is the forward pass; ``of_columns`` the
backward passes of some columns with all that is made of them; what is left to do after the last column is in
``finishing``.  With a ``placement`` each device runs them on its own examples, and keeps what it has made of these:
every array of a ``Point``, the cotangents of products and the roots then have a first axis, an entry for each device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import losses
from jaxprune.curvature import columns, grams, roots
from jaxprune.curvature.layouts import Layout, folded, layout, unfolded
from jaxprune.curvature.rows import Rows, rows
from jaxprune.mesh import Placement, each_shard
from jaxprune.network import Network
from jaxprune.sites import Site, Survey, add_to, survey
from jaxprune.sites.heads import find_head
from jaxprune.sites.program import look
from jaxprune.types import Batch, Loss

ROOTS = "roots"
"""The name, beside those of quantities, of what some dense blocks are made of after the last column; see ``roots``."""

# Backward passes that one program may unroll: XLA runs convolutions in loops slowly on CPU, but compile time grows.
_UNROLLED = 16
# Beyond that, as many side by side as ten classes take, so that temporaries do not grow with the classes.
_SIDE_BY_SIDE = 9


def width(count: int) -> int:
    """The number of columns whose backward passes run side by side in one program.

    >>> width(9), width(999)
    (9, 9)
    """
    return count if count <= _UNROLLED else _SIDE_BY_SIDE


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the signals of some leaves; static.

    Attributes:
      loss: per-example loss.
      matrix: "ggn" or "empirical_fisher" ("hessian" where it is the former).
      paths: the leaves.
      head: whether the columns are those at the inputs of a linear head: all leaves come before it.
      products: the blocks of which products are wanted, "unit" and "layer".
      own: whether these are products with the parameters themselves, so that V a is z.
      others: what else: "diagonal", ("runs", size), ("dense", blocks), ("factors", blocks).
      units: the axes of every leaf that are output.
      signed: whether the weights of columns may be negative, as of targets that are no probabilities.
      rooted: whether dense blocks may be made after the last column (``roots``): nothing differentiates through them.
    """

    loss: Loss
    matrix: str
    paths: tuple[str, ...]
    head: bool = False
    products: tuple[str, ...] = ()
    own: bool = False
    others: tuple[Any, ...] = ()
    units: tuple[tuple[int, ...], ...] = ()
    signed: bool = False
    rooted: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    """The forward pass at one point: what the backward passes of all columns share.

    Attributes:
      pull: a cotangent of the outputs (or of the inputs of the head) -> the signals of every site.
      column: see ``columns``.
      share: of every example in the sum [b].
      values: what the sites need, by number.
      moved: V a at every site; empty if no product is wanted.
      rows: of every site; empty if the signals are not wanted.
      layouts: of every site.
    """

    pull: Callable[[Any], Any]
    column: columns.Column
    share: Any
    values: dict[int, Any]
    moved: list[Any]
    rows: list[Rows]
    layouts: tuple[Layout, ...] = field(metadata={"static": True})


@partial(jax.jit, static_argnames=("wanted", "placement"))
@jax.default_matmul_precision("highest")
def begin(
    network: Network,
    batch: Batch,
    share: Any,
    vectors: Sequence[Any],
    drawn: Any = None,
    *,
    wanted: Wanted,
    placement: Placement | None = None,
) -> Point:
    """Runs the network forward.

    Args:
      network: the network.
      batch: images, what the loss reads, and weights.
      share: of every example in the sum [b]; 0 for padding.
      vectors: v at every leaf, if products are wanted.
      drawn: None; or a random key for every example, for the columns of ``columns.sketched``; or the roots of the
        output Hessian, as ``columns.roots`` makes them.
      wanted: what is wanted.
      placement: over which devices the examples are divided; None: the compiler's choice.
    """

    def of_part(whole: Any, split: Any, _: Any) -> tuple[Any, Point]:
        network, vectors = whole
        batch, share, drawn = split
        return (), _begun(network, batch, share, vectors, drawn, wanted)

    return each_shard(of_part, placement, (network, vectors), (batch, share, drawn))[1]


def _begun(network: Network, batch: Batch, share: Any, vectors: Sequence[Any], drawn: Any, wanted: Wanted) -> Point:
    images = losses.images(batch)
    found = survey(network, images)
    sites = [found.sites[path] for path in wanted.paths]
    program = found.program
    arguments = jax.tree.leaves((network.params, network.state, images))
    head = find_head(program) if wanted.head else None
    keep = {number for site in sites for number in (site.output, *site.needs(program))}
    keep |= set() if head is None else {head.inputs, *head.needs}

    def forward(parts: list[Any]) -> tuple[Any, Any]:
        (values,), kept = program.run(arguments, add_to(sites, parts), sorted(keep), sliced=True)
        return (values if head is None else kept[head.inputs]), (values, kept)

    parts = [jnp.zeros(program.avals[site.output].shape, program.avals[site.output].dtype) for site in sites]
    _, pull, (values, kept) = jax.vjp(forward, parts, has_aux=True)
    if head is not None:
        kernel = look(kept, head.kernel)
        column = columns.at_head(wanted.loss, values, batch, share, kernel.T if head.transposed else kernel)
    elif drawn is None:
        column = columns.columns(wanted.loss, values, batch, share, wanted.matrix)
    elif isinstance(drawn, tuple):
        column = columns.of_roots(drawn, values.dtype)
    else:
        column = columns.sketched(wanted.loss, values, batch, share, wanted.matrix, drawn)
    moved = _moved(found, sites, kept, vectors, own=wanted.own) if wanted.products else []
    ready = [rows(found, site, kept) for site in sites] if wanted.others else []
    needs = {number for site in sites for number in site.needs(program)} if wanted.products else set()
    where = tuple(layout(found, site) for site in sites)
    return Point(pull, column, share, {number: kept[number] for number in needs}, moved, ready, where)


def _moved(found: Survey, sites: list[Site], values: Any, vectors: Sequence[Any], *, own: bool) -> list[Any]:
    """V a at every site."""
    return [
        values[site.output] if own and site.kind != "add" else site.contribution(found.program, values)(vector)
        for site, vector in zip(sites, vectors, strict=True)
    ]


@partial(jax.jit, static_argnames=("wanted", "count", "placement"))
@jax.default_matmul_precision("highest")
def of_columns(
    point: Point,
    vectors: Sequence[Any],
    indices: Any,
    *,
    wanted: Wanted,
    count: int,
    placement: Placement | None = None,
) -> dict[Any, Any]:
    """What some columns (-1: none) add to every quantity, for all leaves from one set of backward passes.

    Returns:
      The name of every quantity (``name_of``) -> one array for each leaf; of products, the cotangents
      sum_k c_k s_k J_z^T r_k of every site; of factors, the rows of all examples; None where the quantity follows from
      what ``ROOTS`` has for the leaf.
    """
    if placement is None:
        return _of_columns(point, vectors, indices, wanted, count)

    def of_part(whole: Any, _: Any, point: Point) -> tuple[Any, Any]:
        vectors, indices = whole
        found = _of_columns(point, vectors, indices, wanted, count)
        stays = {name: found.pop(name) for name in list(found) if is_kept(name)}
        return found, stays

    found, stays = each_shard(of_part, placement, (vectors, indices), (), point)
    return found | {name: _rows_joined(each) if name.startswith("factors") else each for name, each in stays.items()}


def is_kept(name: str) -> bool:
    """Whether every device keeps what it has made of a quantity, by its name: it is of its examples alone.

    >>> is_kept("unit"), is_kept("dense unit")
    (True, False)
    """
    return name in ("unit", "layer", ROOTS) or name.startswith("factors")


def _rows_joined(factors: list[Any]) -> list[Any]:
    """The rows V [devices, blocks, r, m] of all devices one below the other, and the lowest of all weights."""
    return [(jnp.moveaxis(rows, 0, 1).reshape(rows.shape[1], -1, rows.shape[3]), jnp.min(low)) for rows, low in factors]


def _of_columns(point: Point, vectors: Sequence[Any], indices: Any, wanted: Wanted, count: int) -> dict[Any, Any]:
    every, every_weight, totals = [], [], {blocks: [] for blocks in wanted.products}
    for place in range(len(indices)):
        left, right, weights = signal(point, indices[place], count)
        every.append((left, right))
        every_weight.append(weights)
        for blocks in wanted.products:
            parts = [
                _along(where, blocks, moved, one, other, weights)
                for where, moved, one, other in zip(point.layouts, point.moved, left, right or left, strict=True)
            ]
            so_far = totals[blocks]
            totals[blocks] = [total + part for total, part in zip(so_far, parts, strict=True)] if so_far else parts
    signals = [left for left, _ in every] + [right for _, right in every if right is not None]
    weights = jnp.stack(every_weight, axis=-1)
    # Of pairs whose columns differ, or whose weights have no root, there are no roots.
    rooted = wanted.rooted and not wanted.signed and len(signals) == len(every)
    served = [rooted and any(roots.serve(ready, quantity, count) for quantity in wanted.others) for ready in point.rows]
    if any(served):
        totals[ROOTS] = [
            roots.of_signals(ready, [parts[at] for parts in signals], weights) if served[at] else None
            for at, ready in enumerate(point.rows)
        ]
    for quantity in wanted.others:
        # A weight below zero has no root: then left and right columns are told apart though they are the same.
        given = 2 * signals if wanted.signed and quantity[0] == "dense" else signals
        totals[name_of(quantity)] = leaves = []
        for at, (ready, units) in enumerate(zip(point.rows, wanted.units, strict=True)):
            if served[at] and roots.serve(ready, quantity, count):
                leaves.append(None)
                continue
            own, vector = [parts[at] for parts in given], vectors[at] if vectors else None
            leaves.append(_of_leaf(quantity, ready, own, weights, vector, units))
    return totals


def name_of(quantity: Any) -> str:
    """The name of a quantity in what ``of_columns`` returns: a dictionary that JAX can sort has names of one type.

    >>> name_of("diagonal"), name_of(("dense", "unit"))
    ('diagonal', 'dense unit')
    """
    return quantity if isinstance(quantity, str) else " ".join(map(str, quantity))


def _of_leaf(quantity: Any, ready: Rows, signals: list[Any], weights: Any, vector: Any, units: tuple[int, ...]) -> Any:
    if quantity == "diagonal":
        return ready.to_leaf(ready.squares(signals, weights))
    kind, argument = quantity
    if kind == "runs":
        return grams.run_products(ready, signals, weights, vector, argument)
    make = grams.dense if kind == "dense" else grams.factors
    return make(ready, signals, weights, argument, units)


def signal(point: Point, index: Any, count: int) -> tuple[list[Any], list[Any] | None, Any]:
    """The backward passes of one pair of columns: left and right signals for every site, and the weights [b].

    Right is None where it is left too; the weights are zero outside the columns.
    """
    inside = (index >= 0) & (index < count)
    left, right, weights = point.column(jnp.clip(index, 0, count - 1))
    other = None if right is None else point.pull(right)[0]
    return point.pull(left)[0], other, jnp.where(inside, weights, 0)


def _along(where: Layout, blocks: str, moved: Any, left: Any, right: Any, weights: Any) -> Any:
    """The share c s J_z^T r of one pair of signals, of the shape of z."""
    groups, _, units = where.axes
    # Sums are never narrower than float32, in half-precision networks too.
    kind = jnp.promote_types(left.dtype, jnp.float32)
    along = unfolded(left.astype(kind) * moved, where.examples)
    kept = {0} if blocks == "layer" else {0, *groups, *units}
    summed = jnp.sum(along, axis=tuple(axis for axis in range(along.ndim) if axis not in kept), keepdims=True)
    share = summed * weights.reshape(-1, *[1] * (along.ndim - 1))
    return folded(share * unfolded(right, where.examples), where.examples, right.shape).astype(kind)


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def output_roots(network: Network, batch: Batch, share: Any, *, loss: Loss) -> Any:
    """Factors the output Hessians of a loss, see ``columns.roots``."""
    values = network.apply(network.params, network.state, losses.images(batch))
    return columns.roots(loss, values, batch, share)
