"""Scores from the exact Hessian: its diagonal, and its blocks in three forms that answer different questions."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jaxprune import check, tree
from jaxprune.curvature import average, block_product, diagonal, estimate
from jaxprune.curvature.products import MATRICES
from jaxprune.network import Network
from jaxprune.scores.first_order import half_square
from jaxprune.scores.inputs import ready
from jaxprune.scores.surgeon import deletion_costs
from jaxprune.types import Batch, Loss, Scope, Score, Scores

FORMS = ("quadratic", "obs", "greedy")
RANKINGS = ("signed", "absolute")


def diagonal_hessian(
    loss: Loss, *, matrix: str = "hessian", scope: Scope = None, probes: int | None = None, seed: int = 0
) -> Score:
    """Scores a weight by ``w^2 H_jj / 2``: what deleting it alone costs, to second order (optimal brain damage).

    Args:
      loss: per-example loss; H is the Hessian of its mean.
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: which leaves to score; others come back zero and cost nothing.  None: every leaf.
      probes: take ``jp.curvature.estimate`` with so many random signs for each example in place of the exact diagonal:
        the score is an estimate then.  None: the exact one.
      seed: of the signs of an estimate.

    Returns:
      A ``Score``.  Off a minimum H_jj may be negative: then deleting the weight lowers the quadratic model.  Where it
      is exactly 0 the weight may be free, or its unit flat: ``jp.scores.price_flat`` tells them apart.

    Source: LeCun, Denker and Solla (1989); exact here, without the approximations of that paper.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> diagonal_hessian(losses.squared_error)(net, [batch])[:, 0]
    Array([4., 9.], dtype=float32)
    """
    check.choice("matrix", matrix, MATRICES)
    if probes is not None:
        check.whole("probes", probes)

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        weights, batches = ready(network, batches)
        if probes is not None:
            options = {"matrix": matrix, "probes": probes, "scope": scope, "seed": seed}
            return tree.map_compiled(half_square, weights, estimate(network, loss, batches, **options).value)
        curvature = average(lambda batch: diagonal(network, loss, batch, matrix, scope), batches)
        return tree.map_compiled(half_square, weights, curvature)

    return score


def block_hessian(
    loss: Loss,
    *,
    form: str,
    blocks: str | int = "unit",
    matrix: str = "hessian",
    damping: float = 1e-2,
    ranking: str = "absolute",
    scope: Scope = None,
) -> Score:
    """Scores weights by an exact diagonal block H_B of the Hessian, in one of three forms.

    For deleting many weights it is "greedy", with ``jp.scores.surgeon_update`` or ``jp.pruning.surgeon_rounds``.  The
    other two answer other questions: what a block costs as a whole, and what one deletion costs.

    "quadratic": ``w_j (H_B w_B)_j / 2``.  Deleting the whole block costs ``w_B^T H_B w_B / 2``; this is the share of
    weight j.  Shares cancel: one that is negative, or near 0, says that weights of the block interact, not that
    deleting it is free, and rankings of many shares are worse than the diagonal's.
    "obs": ``w_j^2 / (2 [(H_B + d I)^-1]_jj)``.  What deleting weight j costs if the rest of its block, zeros included,
    is re-adjusted to make up for it (optimal brain surgeon inside the block); never more than the diagonal score of the
    damped block.  It prices one deletion: of two weights that stand in for each other both are cheap, and both would
    go.  ``jp.pruning`` warns where it is given an update.
    "greedy": the surgeon again and again.  The cheapest weight of the block goes, the rest makes up for it, and the
    next is priced on what is left.  The score is the highest price paid in the block so far, and always one float or
    more above the one before.  One threshold over many blocks then deletes in the order of the paper's queue, which
    takes the cheapest next weight of all blocks each time.  Weights that are zero have gone before, at no cost.

    Args:
      loss: per-example loss; H is the Hessian of its mean.
      form: "quadratic", "obs" or "greedy".  There is no default: they answer different questions.
      blocks: "unit", "layer" or an int, as in ``jp.curvature.block_product``.
      matrix: "hessian", "ggn" or "empirical_fisher".
      damping: for "obs" and "greedy": d is this times the mean diagonal of the leaf.  The ranking depends on it; 1e-2
        is the value of SparseGPT (Frantar and Alistarh, 2023, arXiv 2301.00774).
      ranking: for "quadratic": "absolute" ranks by the size of a share; "signed" keeps its sign, so the most negative
        is pruned first.  A large negative share means strong interaction, not that the weight is harmful: in the
        bundled study the signed ranking destroys the network at 10 % sparsity.
      scope: which leaves to score; others come back zero and cost nothing.  None: every leaf.

    Returns:
      A ``Score``.  A weight whose row of the block is zero scores 0 in every form, and damping does not change that.
      If its input is always zero, deleting it is free whatever its size; if what follows its unit has no slope, the
      Hessian does not say what deleting many such weights costs: ``jp.scores.price_flat``.

    Raises:
      ValueError: an unknown option; or, for "obs" and "greedy", a block that the damping does not make positive
        definite: the message says which damping suffices.

    Source: the surgeon is Hassibi and Stork (1993); greedy, Frantar, Singh and Alistarh (2022), arXiv 2208.11580, for
    the Hessian of one layer's error.  arXiv 2509.24066 (Iurada, Occhiena and Tommasi, 2025) ranks by "block Hessian"
    without our having seen its formula: no form is called the paper's.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> block_hessian(losses.squared_error, form="quadratic")(net, [batch])[:, 0]
    Array([10., 15.], dtype=float32)
    """
    check.choice("form", form, FORMS)
    check.choice("matrix", matrix, MATRICES)
    check.choice("ranking", ranking, RANKINGS)
    check.positive("damping", damping)

    def quadratic(network: Network, batches: Iterable[Batch]) -> Scores:
        weights, batches = ready(network, batches)
        product = average(
            lambda batch: block_product(network, loss, batch, network.params, blocks, matrix, scope), batches
        )
        return tree.map_compiled(_share if ranking == "signed" else _size_of_share, weights, product)

    if form == "quadratic":
        return quadratic
    return deletion_costs(loss, form=form, blocks=blocks, matrix=matrix, damping=damping, scope=scope)


def _share(w: Any, product: Any) -> Any:
    return w * product / 2


def _size_of_share(w: Any, product: Any) -> Any:
    return jnp.abs(_share(w, product))
