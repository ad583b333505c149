"""The Gauss-Newton matrix written out as rows, for systems small enough to be held: G = A^T A."""

from collections.abc import Sequence

import numpy as np

from jaxprune import tree
from jaxprune.curvature import columns, routes
from jaxprune.curvature.blocks import request
from jaxprune.curvature.requests import is_idle, reason_against_signals, why_signals
from jaxprune.curvature.signals import name_of
from jaxprune.curvature.stream import total_weight
from jaxprune.memory import available
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Mask

# Copies of the rows that lie in memory together: their parts, and what is made of these.
_COPIES = 3


def jacobian(
    network: Network, loss: Loss, batches: Sequence[Batch], chosen: Mask, *, most: int, memory: int | None = None
) -> np.ndarray | None:
    """Computes the rows A with ``G_CC = A^T A``, G the Gauss-Newton matrix of the mean loss, C the chosen weights.

    ``A = sqrt(weight_n) B_n^T J_n``, a row for every example and column of a root B_n of its output Hessian.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batches: images, what the loss reads, and optional weights; weighted as one large batch would be.
      chosen: which weights, structure and shapes of the parameters.
      most: the most columns of the output Hessian for which this is done; each takes a backward pass.
      memory: the bytes that may be taken.  None: half of what is free.

    Returns:
      A [rows, k] on the host, the weights leaf by leaf in the order of ``jax.tree.leaves``.  None where there is no
      such form (a leaf is not served by signals, as a tied or scanned one; the output Hessian has no known root), or it
      does not fit.

    Raises:
      ValueError: a batch that does not fit, NaN anywhere.

    >>> import jax.numpy as jnp
    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.zeros((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> rows = jacobian(net, losses.squared_error, [batch], jnp.ones((2, 1), bool), most=8)
    >>> np.round(rows.T @ rows, 5).tolist()
    [[2.0, 6.0], [6.0, 18.0]]
    """
    positions = {path: np.flatnonzero(np.asarray(leaf)) for path, leaf in tree.by_name(chosen).items()}
    scope = tree.map_named(lambda path, _: bool(positions[path].size), chosen)
    count = sum(map(len, positions.values()))
    shares = np.sqrt(np.array([total_weight(batch) for batch in batches]) / sum(map(total_weight, batches)))
    there, parts = available(memory), []
    examples = sum(len(batch["image"]) for batch in batches)
    for share, batch in zip(shares, batches, strict=True):
        asked = request(network, loss, batch, "ggn", "layer", scope)
        served = [path for path in asked.paths if not is_idle(asked, path)]
        against = any(reason_against_signals(asked, path) for path in served)
        if against or not columns.has_root(asked.loss, "ggn") or asked.columns() > most:
            return None
        if _COPIES * examples * asked.columns() * count * 4 > there:
            return None
        tasks = routes.signal_tasks(asked, served, [("factors", "layer")], None, why_signals(asked))
        if len(tasks) != 1:  # the rows of a narrow head are others than those before it
            return None
        task = tasks[0].fitted(memory)
        point = task.begun()
        for indices in task.chunks():
            found = task.of_columns(point, indices)[name_of(("factors", "layer"))]
            # On the host, so that nothing is compiled for every number of weights.
            rows = dict(zip(task.paths, (np.asarray(factors[0]) for factors, _ in found), strict=True))
            some = next(iter(rows.values()))
            idle = np.zeros((some.shape[0], 1), some.dtype)
            columns_of = [
                np.take(rows[path], at, axis=1) if path in rows else np.repeat(idle, len(at), axis=1)
                for path, at in positions.items()
            ]
            parts.append(np.concatenate(columns_of, axis=1) * np.asarray(share, some.dtype))
    return np.concatenate(parts)
