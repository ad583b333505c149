"""WoodFisher: optimal brain surgeon on blocks of the empirical Fisher matrix, the mean of g_n g_n^T of labelled images.

Scores and updates are the library's own, at ``matrix="empirical_fisher"``; its blocks are exact and dense here, where
the paper inverts them by a recursion over the images.
"""

from collections.abc import Sequence
from typing import Any

import jaxprune as jp
from jaxprune import check
from jaxprune.scores.surgeon import OneDeletion
from jaxprune.types import Batch, Loss, Prunable

FORMS = ("obs", "greedy")


def woodfisher(
    network: jp.Network,
    batches: Sequence[Batch],
    prunable: Prunable,
    sparsity: float,
    *,
    damping: float = 1e-2,
    allocation: str = "global",
    form: str = "obs",
    blocks: str | int = "unit",
    rounds: int = 1,
    loss: Loss = jp.losses.cross_entropy,
) -> jp.pruning.Round:
    """Prunes by what deletions cost in blocks of the empirical Fisher matrix, and updates the rest of every block.

    "obs" is the paper's statistic, ``w_j^2 / (2 [(F_B + d I)^-1]_jj)``: one deletion.  "greedy" prices one after the
    other, which is stronger where many go.  In both cases all that is pruned is made up for at once, ``w_K + (F_KK +
    d I)^-1 F_KQ w_Q`` in every block; the paper adds up the updates of single deletions, which does not leave pruned
    weights at zero by itself.

    Args:
      network: the dense network.
      batches: images, what the loss reads (labels), and optional weights.
      prunable: static tree of bools.
      sparsity: the share of the prunable weights that becomes zero.
      damping: d is this times the mean diagonal of the leaf.
      allocation: "global" (the paper's "joint") or "uniform" ("independent").
      form: "obs" or "greedy".
      blocks: "unit", "layer", or an int, as of ``jp.scores.block_hessian``.
      rounds: how often scores and updates are taken anew, each time pruning the same share of what is left.
      loss: whose gradients make F.

    Returns:
      The mask, exactly ``round(sparsity * n)`` pruned; and the params.

    Raises:
      ValueError: an option out of range; a loss without a gradient; a damping that is lost in rounding.

    Source: Singh and Alistarh (2020), arXiv 2004.14340.

    >>> import jax.numpy as jnp
    >>> net = jp.Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> options = {"damping": 1e-4, "loss": jp.losses.squared_error}
    >>> jnp.round(woodfisher(net, [batch], True, 0.5, **options).params[:, 0], 2).tolist()
    [3.0, 0.0]
    """
    check.choice("form", form, FORMS)
    check.choice("allocation", allocation, ("global", "uniform"))
    check.whole("rounds", rounds)
    check.sparsity(sparsity)
    options: dict[str, Any] = {"blocks": blocks, "matrix": "empirical_fisher", "damping": damping}
    score = jp.scores.block_hessian(loss, form=form, scope=prunable, **options)
    if isinstance(score, OneDeletion):
        # Taken out of its wrapping: one deletion and an update for many is what WoodFisher is, nothing to warn of.
        score = score.score
    return jp.pruning.prune_and_update(
        network,
        score,
        batches,
        prunable,
        jp.schedules.exponential(sparsity, rounds),
        jp.scores.surgeon_update(loss, **options),
        lambda share: jp.masks.unstructured(share, allocation),
    )
