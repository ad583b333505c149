"""The second derivative of the loss by the outputs, as weighted pairs of columns whose products add up to it.

For every example n, H_out = sum_k c_k l_k r_k^T, so J^T H_out J = sum_k c_k (J^T l_k)(J^T r_k)^T: backward passes for
the columns give the Gauss-Newton matrix.  Where a root of H_out is known in closed form both columns are the same, one
backward pass.  Of any other loss the pairs are e_k and H_out e_k.  No eigenvectors: those of small eigenvalues are lost
beside the largest, and with them the curvature of single weights.

Neither labels nor a teacher enter a known root: the second derivative of softmax cross-entropy, of a Kullback-Leibler
divergence and of a squared distance does not depend on what the outputs are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxprune import losses, tree
from jaxprune.losses import Distillation
from jaxprune.types import Batch, Loss

# k -> (l_k [b, c], r_k [b, c], or None where it is l_k too, c_k [b]).
Column = Callable[[Any], tuple[Any, Any, Any]]


def is_softmax(loss: Loss) -> bool:
    """Whether the second derivative of a loss by the outputs is that of softmax cross-entropy, diag(p) - p p^T."""
    return loss is losses.cross_entropy or (isinstance(loss, Distillation) and loss.kind == "kl")


def is_known(loss: Loss) -> bool:
    """Whether a root of the second derivative by the outputs is known in closed form."""
    return loss is losses.squared_error or is_softmax(loss) or isinstance(loss, Distillation)


def count(loss: Loss, classes: int, matrix: str) -> int:
    """The number of pairs: 1 for the empirical Fisher matrix, C - 1 where there is a softmax, else C."""
    if matrix == "empirical_fisher":
        return 1
    return max(1, classes - 1) if is_softmax(loss) else classes


def has_root(loss: Loss, matrix: str) -> bool:
    """Whether the columns of every pair are the same, one backward pass in place of two."""
    return matrix == "empirical_fisher" or is_known(loss)


def may_be_negative(loss: Loss, batch: Batch) -> bool:
    """Whether the weight of a column may be below zero: the sum of targets [b, c] of a softmax may be anything."""
    return loss is losses.cross_entropy and jnp.ndim(batch["label"]) > 1


def columns(loss: Loss, outputs: Any, batch: Batch, share: Any, matrix: str) -> Column:
    """Returns the columns of the second derivative of ``sum_n share_n loss_n`` by the outputs.

    Softmax: the Cholesky factor of diag(p) - p p^T in closed form; with q_k = sum_{j > k} p_j, column k is
    sqrt(p_k q_k / q_{k-1}) at k and -p_j sqrt(p_k / (q_k q_{k-1})) at j > k.  Squared distances: e_k, of weight 2.  Any
    other loss: e_k, and its product with the Hessian of the loss of every example.

    Args:
      loss: per-example loss.
      outputs: [b, c].
      batch: what the loss reads, and weights.
      share: of every example in the sum [b]; 0 for padding.
      matrix: "hessian" and "ggn" mean the same here; "empirical_fisher": the only column is the gradient.

    Returns:
      k -> (l_k [b, c], r_k [b, c] or None, c_k [b]), r_k None where it is l_k; c_k holds the share of the example.  A
      pytree: it may leave a compiled program and enter another.
    """
    return Partial(_AtOutputs(loss, matrix), outputs, batch, share)


@dataclass(frozen=True)
class _AtOutputs:
    loss: Loss
    matrix: str

    def __call__(self, outputs: Any, batch: Batch, share: Any, index: Any) -> tuple[Any, Any, Any]:
        values, batch = wide(outputs, batch)
        if self.matrix == "empirical_fisher":
            left, right, scale = slope(self.loss, batch)(values), None, 1
        elif is_softmax(self.loss):
            p, mass = _probabilities(self.loss, values, batch)
            left, right, scale = _softmax_column(p, index), None, mass
        elif is_known(self.loss):
            left, right, scale = unit(values, index), None, _twice(self.loss, values, batch)
        else:
            left = unit(values, index)
            right, scale = bend(self.loss, values, batch)(left), 1
        return _narrowed(left, right, scale, share, outputs.dtype)


def at_head(loss: Loss, outputs: Any, batch: Batch, share: Any, kernel: Any) -> Column:
    """Returns the columns of W H_out W^T, the second derivative by the inputs h [b, d] of a linear head f = h W + b.

    d pairs in place of C.  Softmax: W B with B the columns of ``columns``, whose suffix sums cost no more than W
    itself, and of its QR decomposition the triangle: W B B^T W^T = R^T R, with nothing subtracted that is nearly equal.
    Squared distances: R of W^T alone.  Any other loss: e_k, and its product with W H_out W^T.

    Args:
      loss: per-example loss.
      outputs: [b, c].
      batch: what the loss reads, and weights.
      share: of every example in the sum [b]; 0 for padding.
      kernel: W [d, c].
    """
    kind = outputs.dtype
    values, batch = wide(outputs, batch)
    kernel = tree.wide(kernel)
    if is_softmax(loss):
        p, mass = _probabilities(loss, values, batch)
        roots = jnp.linalg.qr(_softmax_rows(p, kernel), mode="r")
        return Partial(_Roots(kind), roots, mass, share)
    if is_known(loss):
        root = jnp.linalg.qr(kernel.T, mode="r")
        roots = jnp.broadcast_to(root, (len(values), *root.shape))
        return Partial(_Roots(kind), roots, _twice(loss, values, batch), share)
    return Partial(_PairsAtHead(loss, kind), values, batch, share, kernel)


@dataclass(frozen=True)
class _Roots:
    kind: Any

    def __call__(self, roots: Any, scale: Any, share: Any, index: Any) -> tuple[Any, Any, Any]:
        return _narrowed(roots[:, index], None, scale, share, self.kind)


@dataclass(frozen=True)
class _PairsAtHead:
    loss: Loss
    kind: Any

    def __call__(self, outputs: Any, batch: Batch, share: Any, kernel: Any, index: Any) -> tuple[Any, Any, Any]:
        left = unit(jnp.zeros((len(outputs), len(kernel)), outputs.dtype), index)
        right = bend(self.loss, outputs, batch)(left @ kernel) @ kernel.T
        return _narrowed(left, right, 1, share, self.kind)


def sketched(loss: Loss, outputs: Any, batch: Batch, share: Any, matrix: str, keys: Any) -> Column:
    """Returns random columns: the outer product of a pair is H_out in expectation, for every example by itself.

    With random signs s, a root B of H_out gives B s, as E[B s s^T B^T] = B B^T; where none is known the pair is s and
    H_out s.  Softmax: B = (I - p 1^T) diag(sqrt p), so that B s costs no more than p.

    Args:
      loss: per-example loss.
      outputs: [b, c].
      batch: what the loss reads, and weights.
      share: of every example in the sum [b]; 0 for padding.
      matrix: "hessian" or "ggn"; see ``columns``.
      keys: a random key for every example [b].
    """
    return Partial(_Sketched(loss, matrix), outputs, batch, share, keys)


@dataclass(frozen=True)
class _Sketched:
    loss: Loss
    matrix: str

    def __call__(self, outputs: Any, batch: Batch, share: Any, keys: Any, index: Any) -> tuple[Any, Any, Any]:
        values, batch = wide(outputs, batch)
        width = values.shape[1]
        signs = jax.vmap(lambda key: jax.random.rademacher(jax.random.fold_in(key, index), (width,), values.dtype))(
            keys
        )
        if is_softmax(self.loss):
            p, mass = _probabilities(self.loss, values, batch)
            scaled = jnp.sqrt(p) * signs
            left, right, scale = scaled - p * jnp.sum(scaled, axis=1, keepdims=True), None, mass
        elif is_known(self.loss):
            left, right, scale = signs, None, _twice(self.loss, values, batch)
        else:
            left, right, scale = signs, bend(self.loss, values, batch)(signs), 1
        return _narrowed(left, right, scale, share, outputs.dtype)


def of_roots(roots: Any, kind: Any) -> Column:
    """Returns the columns L and weights D of ``roots``, in the type of the outputs."""
    lower, pivots = roots
    return Partial(_column_of_roots, lower.astype(kind), pivots)


def _column_of_roots(lower: Any, pivots: Any, index: Any) -> tuple[Any, Any, Any]:
    return lower[:, :, index], None, pivots[:, index]


def _narrowed(left: Any, right: Any, scale: Any, share: Any, kind: Any) -> tuple[Any, Any, Any]:
    """A pair in the type of the outputs, without what does not count, and its weights."""
    counts = share > 0

    def fitted(values: Any) -> tuple[Any, Any]:
        values = jnp.where(counts[:, None], values, 0)
        if values.dtype == kind:
            return values, 1
        # In half precision what is small would be zero.
        size = jnp.max(jnp.abs(values), axis=1, keepdims=True)
        size = jnp.where(size > 0, size, 1)
        return (values / size).astype(kind), size[:, 0]

    left, size = fitted(left)
    right, other = (None, size) if right is None else fitted(right)
    return left, right, jnp.where(counts, share * scale * size * other, 0).astype(share.dtype)


def wide(outputs: Any, batch: Batch) -> tuple[Any, Batch]:
    """The outputs in float32 or wider, and the batch, both without padding."""
    return losses.without_padding(tree.wide(outputs), batch)


def roots(loss: Loss, outputs: Any, batch: Batch, share: Any) -> tuple[Any, Any]:
    """Factors H_out = L D L^T of a loss for every example: (L [b, c, c], D [b, c]), the share of the example in D.

    Pivots are taken from the smallest diagonal entry to the largest, so that small entries keep their digits beside
    large ones.  What rounding makes of a pivot that is zero is left out: 4 C eps of its diagonal entry, or root eps
    where it is negative, as of a softmax that decides (float32 has of 1 - p what it has of 1).  D is NaN where there is
    no such factorisation.
    """
    outputs, batch = wide(outputs, batch)
    width = outputs.shape[1]
    product = bend(loss, outputs, batch)
    whole = jax.vmap(lambda index: product(unit(outputs, index)), out_axes=-1)(jnp.arange(width))
    order = jnp.argsort(jnp.abs(jnp.diagonal(whole, axis1=1, axis2=2)), axis=1)
    ordered = jax.vmap(lambda matrix, places: matrix[places][:, places])(whole, order)
    diagonal = jnp.abs(jnp.diagonal(ordered, axis1=1, axis2=2))
    eps = jnp.finfo(whole.dtype).eps

    def step(k: Any, carry: Any) -> Any:
        rest, lower, pivots = carry
        pivot, size = rest[:, k, k], diagonal[:, k]
        counts = (pivot > 4 * width * eps * size) | (pivot < -jnp.sqrt(eps) * size)
        column = jnp.where(counts[:, None], rest[:, :, k] / jnp.where(counts, pivot, 1)[:, None], 0)
        rest = rest - pivot[:, None, None] * column[:, :, None] * column[:, None, :]
        return rest, lower.at[:, :, k].set(column), pivots.at[:, k].set(jnp.where(counts, pivot, 0))

    start = (ordered, jnp.zeros_like(whole), jnp.zeros_like(diagonal))
    rest, lower, pivots = jax.lax.fori_loop(0, width, step, start)
    allowed = jnp.sqrt(eps) * jnp.sqrt(diagonal[:, :, None] * diagonal[:, None, :])
    left_over = jnp.any(jnp.abs(rest) > allowed, axis=(1, 2))
    back = jnp.argsort(order, axis=1)
    lower = jnp.take_along_axis(lower, back[:, :, None], axis=1)
    share = share[:, None]
    return lower, jnp.where(share > 0, share * jnp.where(left_over[:, None], jnp.nan, pivots), 0)


def _probabilities(loss: Loss, outputs: Any, batch: Batch) -> tuple[Any, Any]:
    """The softmax [b, c], and what its second derivative is scaled by [b]: 1, or NaN where a label is outside."""
    if isinstance(loss, Distillation):
        losses.teacher(outputs, batch)  # checked, though not read
        return jax.nn.softmax(outputs / loss.temperature), jnp.ones(len(outputs), outputs.dtype)
    return jax.nn.softmax(outputs), jnp.sum(losses.targets(outputs, batch), axis=-1)


def _twice(loss: Loss, outputs: Any, batch: Batch) -> Any:
    """The weight 2 of squared distances [b]; NaN where a label is outside."""
    if isinstance(loss, Distillation):
        losses.teacher(outputs, batch)  # checked, though not read
        return jnp.full(len(outputs), 2, outputs.dtype)
    return 2 + 0 * jnp.sum(losses.targets(outputs, batch), axis=-1)


def _softmax_column(p: Any, index: Any) -> Any:
    place = jnp.arange(p.shape[-1])
    here, before = p[:, index], _after(p)[:, index]
    rest = jnp.sum(jnp.where(place > index, p, 0), axis=-1)
    ratio = _root_of_ratio(here, before)
    below = -p * (ratio / jnp.sqrt(jnp.where(rest > 0, rest, 1)))[:, None]
    return jnp.where(place > index, below, jnp.where(place == index, (ratio * jnp.sqrt(rest))[:, None], 0))


def _softmax_rows(p: Any, kernel: Any) -> Any:
    """The columns of ``_softmax_column`` times W, as rows [b, c, d]."""
    before = _after(p)
    rest = jnp.pad(before[:, 1:], ((0, 0), (0, 1)))
    ratio = _root_of_ratio(p, before)
    weighed = p[:, :, None] * kernel.T[None]
    after = jnp.pad(jnp.flip(jnp.cumsum(jnp.flip(weighed, 1), 1), 1)[:, 1:], ((0, 0), (0, 1), (0, 0)))
    diagonal, below = ratio * jnp.sqrt(rest), ratio / jnp.sqrt(jnp.where(rest > 0, rest, 1))
    return diagonal[:, :, None] * kernel.T[None] - below[:, :, None] * after


def _after(p: Any) -> Any:
    """Q_{k-1} = p_k + q_k.  Sums from the end keep their relative accuracy; 1 - sum from the start would not."""
    return jnp.flip(jnp.cumsum(jnp.flip(p, -1), -1), -1)


def _root_of_ratio(above: Any, below: Any) -> Any:
    return jnp.sqrt(above / jnp.where(below > 0, below, 1))


def unit(outputs: Any, index: Any) -> Any:
    """The unit vector of one output, for every example [b, c]."""
    return jax.nn.one_hot(jnp.full(len(outputs), index), outputs.shape[-1], dtype=outputs.dtype)


def slope(loss: Loss, batch: Batch) -> Callable[[Any], Any]:
    """Outputs [b, c] -> the gradient of the loss of every example by them."""
    return jax.grad(lambda outputs: jnp.sum(losses.values(loss, outputs, batch)))


def bend(loss: Loss, outputs: Any, batch: Batch) -> Callable[[Any], Any]:
    """V [b, c] -> the Hessian of the loss of every example times its row of v."""
    return jax.linearize(slope(loss, batch), outputs)[1]
