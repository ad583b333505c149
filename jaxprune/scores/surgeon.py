"""The optimal brain surgeon inside dense blocks: what deleting costs once the rest of the block is updated.

A block is damped, ``A = H_B + d I`` with d relative to the mean diagonal of its leaf, and factored by Cholesky.  What
takes no part (padding, dead weights, what is pruned already) becomes a row of the identity, so that one compiled
program serves every mask.  Temporaries are those of a few blocks, however many a leaf has.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jaxprune import check, losses, mesh, tree
from jaxprune.curvature import block_factors, sweep
from jaxprune.curvature.blocks import block_bytes, request
from jaxprune.curvature.products import MATRICES
from jaxprune.curvature.requests import Request
from jaxprune.curvature.routes import factor_columns
from jaxprune.curvature.stream import NO_BATCH, total_weight
from jaxprune.memory import available, forget_programs
from jaxprune.mesh import Placement
from jaxprune.network import Network
from jaxprune.scores import one_block
from jaxprune.scores.inputs import ready
from jaxprune.scores.units import divided
from jaxprune.types import Batch, Loss, Mask, Params, Scope, Score, Scores

# Numbers in the blocks that an accelerator solves side by side.  A CPU takes one block at a time, which stays in its
# cache: greedy on 64 blocks of 576 x 576 took 0.8 s, and in groups of four 2.2 s.
_SIDE_BY_SIDE = 2**25


def surgeon_update(
    loss: Loss, *, blocks: str | int = "unit", matrix: str = "hessian", damping: float = 1e-2
) -> Callable[[Network, Iterable[Batch], Mask], Params]:
    """Updates the remaining weights: ``w_K + (A_KK)^-1 A_KQ w_Q`` in every block, K what is kept, Q what is deleted.

    With ``A = H_B + d I`` this is the minimiser of the quadratic model ``(v - w)^T A (v - w) / 2`` among all v whose
    deleted weights are zero.  The gradient at w is taken as zero, as everywhere in optimal brain surgeon.

    Args:
      loss: per-example loss; H is the Hessian of its mean.
      blocks: "unit", "layer" or an int, as in ``jp.curvature.block_product``.
      matrix: "hessian", "ggn" or "empirical_fisher".
      damping: d is this times the mean diagonal of the leaf.

    Returns:
      ``(network, batches, mask) -> params``: deleted weights are exactly zero, and a leaf that keeps everything comes
      back as it was, bit for bit, and costs nothing.  A weight that is zero and kept may be re-adjusted.

    Raises:
      ValueError: an unknown option; a mask that does not fit; or a block whose kept part the damping does not make
        positive definite: the message says which damping suffices.

    Source: Hassibi and Stork (1993), for many weights at once; one at a time it is the update of Frantar, Singh and
    Alistarh (2022), arXiv 2208.11580.

    Two weights have equal inputs.  The first takes over all of the second, or at damping 1 half of it:

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> surgeon_update(losses.squared_error, damping=1.0)(net, [batch], jnp.array([[True], [False]]))[:, 0]
    Array([2.5, 0. ], dtype=float32)
    """
    check.choice("matrix", matrix, MATRICES)
    check.positive("damping", damping)

    def update(network: Network, batches: Iterable[Batch], mask: Mask) -> Params:
        weights, batches = ready(network, batches)
        check.mask("mask", mask, network.params)
        asked, batches = _asked(network, loss, batches, blocks, matrix)
        kept, leaves = tree.by_name(mask), tree.by_name(weights)
        changed = [path for path, each in kept.items() if not np.asarray(each).all()]
        found = {}
        for path, change in _solved(one_block.readjustment, asked, batches, changed, leaves, kept, damping):
            narrow = tree.leaf(network.params, path).dtype
            found[path] = jnp.where(kept[path], leaves[path] + change, 0).astype(narrow)
        return tree.map_named(lambda path, given: found.get(path, given), network.params)

    return update


@dataclass(frozen=True)
class OneDeletion:
    """Scores that price one deletion, with all others left: not what deleting many of them costs together."""

    score: Score

    def __call__(self, network: Network, batches: Iterable[Batch]) -> Scores:
        """Scores as any other does."""
        return self.score(network, batches)


def deletion_costs(
    loss: Loss, *, form: str, blocks: str | int, matrix: str, damping: float, scope: Scope = None
) -> Score:
    """Makes the scores of ``jp.scores.block_hessian`` for the forms "obs" and "greedy", which are explained there."""
    costs = {"obs": one_block.costs_alone, "greedy": one_block.costs_in_turn}[form]

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        weights, batches = ready(network, batches)
        asked, batches = _asked(network, loss, batches, blocks, matrix)
        wanted = jax.tree.map(lambda _: True, network.params) if scope is None else scope
        check.static_bools("scope", wanted, network.params)
        leaves, found, dense = tree.by_name(weights), {}, []
        for path, inside in tree.by_name(wanted).items():
            leaf = leaves[path]
            if not inside or not leaf.size:
                found[path] = jnp.zeros_like(leaf)
                continue
            factors = _factors(asked, batches, path, damping) if form == "obs" else None
            if factors is None:
                dense.append(path)
            else:
                members, options = asked.members(path), {"placement": mesh.found(asked.batch)}
                found[path] = _by_factors(leaf, factors, members, _order(members, leaf.size), damping, **options)
        # What is zero is free to re-adjust for a weight that is deleted alone, and gone where all go in turn.
        kept = {path: leaves[path] != 0 if form == "greedy" else np.ones(leaves[path].shape, bool) for path in dense}
        found.update(_solved(costs, asked, batches, dense, leaves, kept, damping))
        return tree.map_named(lambda path, _: found[path], weights)

    return OneDeletion(score) if form == "obs" else score


@jax.jit
@jax.default_matmul_precision("highest")
def inverse_diagonal(factors: Any, shift: Any) -> Any:
    """Computes the diagonal of ``(d I + V^T V)^-1`` without any matrix of the size of the block.

    With ``I + V V^T / d = L L^T`` and ``Z = L^-1 V`` it is ``1 / d - sum_i Z_ij^2 / d^2``.  Cheaper than the dense
    inverse where V has fewer rows than columns.

    Args:
      factors: V [blocks, r, m].
      shift: d, above 0.

    Returns:
      [blocks, m].

    >>> inverse_diagonal(jnp.array([[[1.0, 1.0, 0.0, 1.0]]]), 1.0)
    Array([[0.75, 0.75, 1.  , 0.75]], dtype=float32)
    """
    gram = factors @ factors.mT / shift + jnp.eye(factors.shape[1], dtype=factors.dtype)[None]
    rows = solve_triangular(jnp.linalg.cholesky(gram), factors, lower=True)
    return 1 / shift - jnp.sum(rows**2, axis=1) / shift**2


def _asked(
    network: Network, loss: Loss, batches: Iterable[Batch], blocks: str | int, matrix: str
) -> tuple[Request, list[Batch]]:
    """What is asked of the first batch, and all batches: they are read once for every group of leaves."""
    listed = list(check.batches(batches))
    if not listed:
        raise ValueError(NO_BATCH)
    return request(network, loss, listed[0], matrix, blocks, None), listed


def _factors(asked: Request, batches: list[Batch], path: str, damping: float) -> Any:
    """Factors V of the blocks of one leaf over all batches, if that is the smaller form; else None."""
    size = asked.members(path).shape[1]
    rows = sum(map(losses.examples, batches)) * factor_columns(asked, path)
    # Damping that rounding swallows is for the dense form to refuse.
    if rows >= size or damping < size * jnp.finfo(asked.leaf(path).dtype).eps:
        return None
    weights = [total_weight(batch) for batch in batches]
    parts = [block_factors(asked.network, asked.loss, batch, path, asked.blocks, asked.matrix) for batch in batches]
    if any(part is None for part in parts):
        return None
    shares = [np.sqrt(weight / sum(weights)) for weight in weights]
    return jnp.concatenate([share * part for share, part in zip(shares, parts, strict=True)], axis=1)


@partial(jax.jit, static_argnames="placement")
def _by_factors(leaf: Any, factors: Any, members: Any, order: Any, damping: Any, *, placement: Placement | None) -> Any:
    """The scores of one leaf from the factors of its blocks, which are zero where there is padding or a dead input.

    All that is done for a block is done where the block is solved; what every device does is to sum a number for each
    block, and to put the scores in ``order``, see ``_order``.
    """

    def traces(factors: Any, units: Any) -> Any:
        return jax.lax.map(lambda unit: jnp.sum(factors[unit] ** 2), units)

    def alone(given: Any, units: Any) -> Any:
        factors, members, flat, shift = given

        def one(unit: Any) -> Any:
            diagonal = jnp.sum(factors[unit] ** 2, 0)
            # Below 1 / A_jj no diagonal of an inverse falls, but by rounding.
            inverse = jnp.maximum(inverse_diagonal(factors[unit][None], shift)[0], 1 / (diagonal + shift))
            return jnp.where(jnp.all(factors[unit] == 0, 0), 0, flat[members[unit]] ** 2 / (2 * inverse))

        return jax.lax.map(one, units)

    shift = damping * jnp.sum(divided(traces, placement, factors, len(factors))) / leaf.size
    given = (factors, members, leaf.ravel(), jnp.where(shift > 0, shift, 1))
    return _placed([divided(alone, placement, given, len(factors))], [order], [leaf])[0]


def _solved(
    solve: Callable[..., Any],
    asked: Request,
    batches: list[Batch],
    paths: Sequence[str],
    leaves: dict[str, Any],
    kept: dict[str, Any],
    damping: float,
) -> Iterator[tuple[str, Any]]:
    """Solves every block of these leaves; the results stand where their weights do, zero for what takes no part.

    A sweep for as many leaves at a time as fit into memory together.
    """
    options, placement = {"matrix": asked.matrix, "blocks": asked.blocks}, mesh.found(asked.batch)
    groups, forgotten = _groups(asked, paths)[::-1], False
    while groups:
        group = groups.pop()
        scope = tree.map_named(lambda path, _, group=group: path in group, asked.network.params)
        try:
            gram = sweep(asked.network, asked.loss, batches, ("gram",), scope=scope, **options).gram or {}
        except MemoryError:  # said before anything is computed; what the blocks are made of takes memory too
            if len(group) > 1:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                continue
            if forgotten:
                raise
            forget_programs()
            groups, forgotten = [*groups, group], True
            continue
        members = [asked.members(path) for path in group]
        reads = _read([leaves[path] for path in group], [kept[path] for path in group], gram, members, tuple(group))
        values = []
        for path, (weights, void, mean_diagonal) in zip(group, reads, strict=True):
            given = (gram[path], weights, void, damping * mean_diagonal)
            each, definite = _each_block(*given, solve=solve, placement=placement)
            failed = np.flatnonzero(~np.asarray(definite))
            if failed.size:
                raise ValueError(_indefinite(path, gram[path], np.asarray(void), failed, damping, float(mean_diagonal)))
            gram.pop(path)
            values.append(each)
        given = [leaves[path] for path in group]
        orders = [_order(places, leaf.size) for places, leaf in zip(members, given, strict=True)]
        yield from zip(group, _placed(values, orders, given), strict=True)


def _groups(asked: Request, paths: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    # A sum and what is added to it, and as much again for what is made of them.
    taken, there = 0, available(None) // 3
    for path in paths:
        needed = block_bytes(asked, path)
        if not groups or taken + needed > there:
            groups, taken = [*groups, []], 0
        groups[-1].append(path)
        taken += needed
    return groups


# One program for all leaves, instead of one for every shape.
@partial(jax.jit, static_argnames="paths")
def _read(
    leaves: list[Any], kept: list[Any], gram: dict[str, Any], members: list[Any], paths: tuple[str, ...]
) -> list[tuple[Any, Any, Any]]:
    """The weights of every block [blocks, m], which of them take no part, and the mean diagonal, of every leaf."""
    found = []
    for leaf, stays, path, places in zip(leaves, kept, paths, members, strict=True):
        missing, dense = places < 0, gram[path]
        # The row of a weight whose input is always zero is exactly zero.  Damping would put a price on it.
        void = missing | jnp.all(dense == 0, axis=2) | ~stays.ravel()[places]
        mean_diagonal = jnp.sum(jnp.diagonal(dense, axis1=1, axis2=2)) / leaf.size
        found.append((jnp.where(missing, 0, leaf.ravel()[places]).astype(dense.dtype), void, mean_diagonal))
    return found


def _order(members: np.ndarray, size: int) -> np.ndarray:
    """Where among the numbers of every block [blocks, m] that of each weight of a leaf stands; each is in one block."""
    order = np.empty(size + 1, np.int32)
    order[members.ravel()] = np.arange(members.size)  # padding, -1, falls off the end
    return order[:-1]


@jax.jit
def _placed(values: list[Any], orders: list[Any], leaves: list[Any]) -> list[Any]:
    """Numbers of every block [blocks, m] where their weights stand in their leaf."""
    return [
        each.ravel()[order].reshape(leaf.shape).astype(leaf.dtype)
        for each, order, leaf in zip(values, orders, leaves, strict=True)
    ]


@partial(jax.jit, static_argnames=("solve", "placement"))
@jax.default_matmul_precision("highest")
def _each_block(
    dense: Any, weights: Any, void: Any, shift: Any, *, solve: Callable[..., Any], placement: Placement | None
) -> tuple[Any, Any]:
    together = None if jax.default_backend() == "cpu" else max(1, _SIDE_BY_SIDE // dense.shape[1] ** 2)

    def some(given: Any, units: Any) -> Any:
        *blocks, shift = given
        return jax.lax.map(lambda unit: solve(*(each[unit] for each in blocks), shift), units, batch_size=together)

    return divided(some, placement, (dense, weights, void, shift), len(dense))


def _indefinite(
    path: str, dense: Any, void: np.ndarray, failed: np.ndarray, damping: float, mean_diagonal: float
) -> str:
    check.finite(f"a Hessian block of {path}", dense, "Inspect the loss, the images and the weights.")
    lowest, highest = np.inf, -np.inf
    for index in failed:
        taking_part = ~void[index]
        matrix = np.asarray(dense[index], np.float64)[np.ix_(taking_part, taking_part)]
        eigenvalues = np.linalg.eigvalsh(matrix)
        lowest, highest = min(lowest, eigenvalues[0]), max(highest, eigenvalues[-1])
    remedy = 'no relative damping can help, since its mean diagonal is not positive: use matrix="ggn".'
    if mean_diagonal > 0:
        # Twice what lifts the lowest eigenvalue above zero, and above what rounding does to a factorisation.
        rounding = dense.shape[1] * float(jnp.finfo(dense.dtype).eps) * highest
        suffices = 2 * max(-lowest, rounding) / mean_diagonal
        remedy = f'damping={suffices:.2g} suffices; for a convex loss matrix="ggn" needs no more than rounding.'
    return (
        f"damping: a Hessian block of {path} is not positive definite at damping={damping} (lowest eigenvalue "
        f"{lowest:.3g}, mean diagonal {mean_diagonal:.3g}), so what an optimal brain surgeon says means nothing there; "
        f"{remedy}"
    )
