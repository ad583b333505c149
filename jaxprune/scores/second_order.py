"""Scores from the exact Hessian: its diagonal, and its blocks in two forms that answer different questions."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.curvature import average, block, block_product, diagonal
from jaxprune.curvature.blocks import block_members
from jaxprune.curvature.products import MATRICES
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Scope, Score, Scores

FORMS = ("quadratic", "obs")
RANKINGS = ("signed", "absolute")


def diagonal_hessian(loss: Loss, *, matrix: str = "hessian", scope: Scope = None) -> Score:
    """Scores a weight by ``w^2 H_jj / 2``: what deleting it alone costs, to second order (optimal brain damage).

    Args:
      loss: per-example loss; H is the Hessian of its mean.
      matrix: "hessian", "ggn" or "empirical_fisher".
      scope: which leaves to score; others come back zero and cost nothing.  None: every leaf.

    Returns:
      A ``Score``.  Off a minimum H_jj may be negative: then deleting the weight lowers the quadratic model.

    Source: LeCun, Denker and Solla (1989); exact here, without the approximations of that paper.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> diagonal_hessian(losses.squared_error)(net, [batch])[:, 0]
    Array([4., 9.], dtype=float32)
    """
    check.choice("matrix", matrix, MATRICES)

    def score(network: Network, batches: Iterable[Batch]) -> Scores:
        curvature = average(lambda batch: diagonal(network, loss, batch, matrix, scope), batches)
        return jax.tree.map(lambda w, h: w**2 * h / 2, network.params, curvature)

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
    """Scores weights by an exact diagonal block H_B of the Hessian, in one of two forms.

    "quadratic": ``w_j (H_B w_B)_j / 2``.  Deleting the whole block costs ``w_B^T H_B w_B / 2``; this is the share of
    weight j.  A share can be negative.
    "obs": ``w_j^2 / (2 [(H_B + d I)^-1]_jj)``.  What deleting weight j costs if the rest of its block is re-adjusted to
    make up for it (optimal brain surgeon inside the block); never more than the diagonal score of the damped block.

    Args:
      loss: per-example loss; H is the Hessian of its mean.
      form: "quadratic" or "obs".  There is no default: the two answer different questions.
      blocks: "unit", "layer" or an int, as in ``jp.curvature.block_product``.
      matrix: "hessian", "ggn" or "empirical_fisher".
      damping: for "obs": d is this times the mean diagonal of the leaf.  The ranking depends on it; 1e-2 is the value
        of SparseGPT (Frantar and Alistarh, 2023, arXiv 2301.00774).
      ranking: for "quadratic": "absolute" ranks by the size of a share; "signed" keeps its sign, so the most negative
        is pruned first.  A large negative share means strong interaction, not that the weight is harmful: in the
        bundled study the signed ranking destroys the network at 10 % sparsity.
      scope: which leaves to score; others come back zero and cost nothing.  None: every leaf.

    Returns:
      A ``Score``.

    Raises:
      ValueError: an unknown option; or, for "obs", a block that the damping does not make positive definite: the
        message says which damping suffices.

    Source: the surgeon is Hassibi and Stork (1993).  arXiv 2509.24066 (Iurada, Occhiena and Tommasi, 2025) ranks by
    "block Hessian" without our having seen its formula: neither form is called the paper's.

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
        product = average(
            lambda batch: block_product(network, loss, batch, network.params, blocks, matrix, scope), batches
        )
        shares = jax.tree.map(lambda w, hw: w * hw / 2, network.params, product)
        return shares if ranking == "signed" else jax.tree.map(jnp.abs, shares)

    def surgeon(network: Network, batches: Iterable[Batch]) -> Scores:
        batches = list(batches)  # read once for every leaf

        def one(path: str, leaf: Any, wanted: bool) -> Any:
            if not wanted:
                return jnp.zeros_like(leaf)
            dense = average(lambda batch: block(network, loss, batch, path, blocks, matrix), batches)
            members = block_members(leaf.shape, blocks)
            dense = dense.reshape(len(members), members.shape[1], members.shape[1])
            return _surgeon_scores(path, leaf, dense, members, damping)

        wanted = jax.tree.map(lambda _: True, network.params) if scope is None else scope
        check.static_bools("scope", wanted, network.params)
        return tree.map_named(one, network.params, wanted)

    return quadratic if form == "quadratic" else surgeon


def _surgeon_scores(path: str, leaf: Any, dense: Any, members: np.ndarray, damping: float) -> Any:
    """Scores of one leaf from its dense blocks [blocks, m, m]; ``members`` [blocks, m] says whose rows these are."""
    scores, lowest, mean_diagonal = _invert(leaf, dense, members, damping)
    lowest, mean_diagonal = float(lowest), float(mean_diagonal)
    if lowest + damping * mean_diagonal > 0:
        return scores
    if mean_diagonal == lowest == 0:
        return jnp.zeros_like(leaf)  # the loss does not depend on this leaf: deleting any of it is free
    remedy = 'no relative damping can help, since its mean diagonal is not positive: use matrix="ggn".'
    if mean_diagonal > 0:
        # Twice what makes the lowest eigenvalue zero.
        remedy = f'damping={-2 * lowest / mean_diagonal:.2g} suffices; matrix="ggn" never needs more than rounding.'
    raise ValueError(
        f"damping: a Hessian block of {path} is not positive definite at damping={damping} (lowest eigenvalue "
        f"{lowest:.3g}, mean diagonal {mean_diagonal:.3g}), so optimal-brain-surgeon scores mean nothing there; "
        f"{remedy}"
    )


@jax.jit
@jax.default_matmul_precision("highest")
def _invert(leaf: Any, dense: Any, members: Any, damping: Any) -> tuple[Any, Any, Any]:
    """Scores, the lowest eigenvalue of all blocks, and the mean diagonal of the leaf."""
    missing = members < 0
    mean_diagonal = jnp.sum(jnp.diagonal(dense, axis1=1, axis2=2)) / leaf.size
    lowest = jnp.min(jnp.linalg.eigvalsh(dense))
    # A row that stands for no weight must not disturb the others: it becomes a row of the identity.
    identity = jnp.eye(dense.shape[-1], dtype=dense.dtype)
    damped = dense + identity[None] * jnp.where(missing, 1.0, damping * mean_diagonal)[:, None, :]
    inverse = jnp.diagonal(jnp.linalg.inv(damped), axis1=1, axis2=2)
    weights = jnp.where(missing, 0, leaf.ravel()[members])
    scores = jnp.where(missing, 0, weights**2 / (2 * inverse))
    flat = jnp.zeros(leaf.size + 1, scores.dtype).at[jnp.where(missing, leaf.size, members)].set(scores)
    return flat[:-1].reshape(leaf.shape), lowest, mean_diagonal
