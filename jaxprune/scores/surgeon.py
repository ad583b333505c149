"""The optimal brain surgeon inside dense blocks: what deleting costs once the rest of the block is updated.

A block is damped, ``A = H_B + d I`` with d relative to the mean diagonal of its leaf, and factored by Cholesky.  What
takes no part (padding, dead weights, what is pruned already) becomes a row of the identity, so that one compiled
program serves every mask.  Temporaries are those of a few blocks, however many a leaf has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jaxprune import check, losses, mesh, tree
from jaxprune.curvature import block_factors
from jaxprune.curvature.products import MATRICES
from jaxprune.curvature.requests import Request
from jaxprune.curvature.routes import factor_columns
from jaxprune.curvature.stream import total_weight
from jaxprune.mesh import Placement
from jaxprune.network import Network
from jaxprune.scores import one_block, solving
from jaxprune.scores.inputs import ready
from jaxprune.scores.units import divided
from jaxprune.types import Batch, Loss, Mask, Params, Scope, Score, Scores


def surgeon_update(
    loss: Loss, *, blocks: str | int = "unit", matrix: str = "hessian", damping: float = 1e-2
) -> "SurgeonUpdate":
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
      back as it was, bit for bit, and costs nothing.  A weight that is zero and kept may be re-adjusted.  For several
      masks, ``.each(network, batches, masks)`` returns the params of every one, and makes the blocks once.

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
    return SurgeonUpdate(loss, blocks, matrix, damping)


@dataclass(frozen=True)
class SurgeonUpdate:
    """What ``surgeon_update`` returns; attributes as its arguments."""

    loss: Loss
    blocks: str | int
    matrix: str
    damping: float

    def __call__(self, network: Network, batches: Iterable[Batch], mask: Mask) -> Params:
        """Returns the parameters under a mask."""
        return self.each(network, batches, [mask])[0]

    def each(self, network: Network, batches: Iterable[Batch], masks: Sequence[Mask]) -> list[Params]:
        """Returns the parameters under every one of some masks of the same network, each alone."""
        if not isinstance(masks, (list, tuple)):
            raise TypeError(
                f"masks: expected a list of masks, but got a {type(masks).__name__}. Pass a list, or call the update "
                "itself with one mask."
            )
        weights, batches = ready(network, batches)
        for place, mask in enumerate(masks):
            check.mask("mask" if len(masks) == 1 else f"masks[{place}]", mask, network.params)
        asked, batches = solving.requested(network, self.loss, batches, self.blocks, self.matrix)
        # A leaf that keeps everything is as it was.
        named, leaves = map(tree.by_name, masks), tree.by_name(weights)
        kept = [{path: each for path, each in one.items() if not np.asarray(each).all()} for one in named]
        changed = [path for path in leaves if any(path in one for one in kept)]
        found: list[dict[str, Any]] = [{} for _ in masks]
        options = (asked, batches, changed, leaves, kept, self.damping)
        for path, changes in solving.solved(one_block.readjustment, *options):
            for params, one, change in zip(found, kept, changes, strict=True):
                if change is not None:
                    narrow = tree.leaf(network.params, path).dtype
                    params[path] = jnp.where(one[path], leaves[path] + change, 0).astype(narrow)
        return [
            tree.map_named(lambda path, given, params=params: params.get(path, given), network.params)
            for params in found
        ]


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
        asked, batches = solving.requested(network, loss, batches, blocks, matrix)
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
                found[path] = _by_factors(leaf, factors, members, solving.order(members, leaf.size), damping, **options)
        # What is zero is free to re-adjust for a weight that is deleted alone, and gone where all go in turn.
        kept = {path: leaves[path] != 0 if form == "greedy" else np.ones(leaves[path].shape, bool) for path in dense}
        results = solving.solved(costs, asked, batches, dense, leaves, [kept], damping)
        found.update((path, values) for path, (values,) in results)
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
    block, and to put the scores in ``order``, see ``solving.order``.
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
    return solving.placed([divided(alone, placement, given, len(factors))], [order], [leaf])[0]
