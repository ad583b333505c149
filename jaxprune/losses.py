"""Losses of each example, and their weighted mean."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check
from jaxprune.types import Batch, Loss


def cross_entropy(outputs: Any, batch: Batch) -> Any:
    """Softmax cross-entropy, ``-log softmax(f)_y`` for each example.

    Args:
      outputs: logits [b, c].
      batch: with ``"label"``: integers [b], or target probabilities [b, c].

    Returns:
      The loss of each example [b], in nats; NaN where the label is outside [0, c).

    >>> cross_entropy(jnp.zeros((1, 4)), {"label": jnp.array([2])})
    Array([1.3862944], dtype=float32)
    """
    return -jnp.sum(targets(outputs, batch) * jax.nn.log_softmax(outputs), axis=-1)


def squared_error(outputs: Any, batch: Batch) -> Any:
    """Squared distance to the one-hot label, ``sum_c (f_c - [y = c])^2`` for each example.

    Args:
      outputs: [b, c].
      batch: with ``"label"``: integers [b], or targets [b, c].

    Returns:
      The loss of each example [b].

    >>> squared_error(jnp.array([[1.0, 0.5]]), {"label": jnp.array([0])})
    Array([0.25], dtype=float32)
    """
    return jnp.sum((outputs - targets(outputs, batch)) ** 2, axis=-1)


def weights(batch: Batch, like: Any = None) -> Any:
    """Returns the weight of every example [b]: ``batch["weight"]``, or ones.

    ``like``: an array whose type, or float32 where that is narrower, the weights shall have.  A share of the mean is
    then as exact as what it weighs, and never makes it wider.
    """
    found = jnp.asarray(batch["weight"]) if "weight" in batch else jnp.ones(jnp.shape(batch["label"])[:1])
    return found if like is None else found.astype(jnp.promote_types(jnp.result_type(like), jnp.float32))


def shares(batch: Batch, like: Any) -> Any:
    """Returns the share of every example in a mean, ``weight_n / sum_n weight_n`` [b]; all 0 where nothing counts.

    Args:
      batch: with weights, or every example counts the same.
      like: an array, see ``weights``.
    """
    weight = weights(batch, like)
    total = jnp.sum(weight)
    return jnp.where(weight > 0, weight, 0) / jnp.where(total > 0, total, 1)


def images(batch: Batch) -> Any:
    """Returns the images; what is not finite in an example of weight 0 is zero.

    Else it would come back through a derivative: 0 * NaN.  Finite numbers stay, as a network may mix its examples.

    >>> images({"image": jnp.array([jnp.nan, 2.0]), "label": jnp.zeros(2), "weight": jnp.array([0.0, 0.0])})
    Array([0., 2.], dtype=float32)
    """
    values = jnp.asarray(batch["image"])
    if "weight" not in batch:
        return values
    counts = (weights(batch) > 0).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(counts | jnp.isfinite(values), values, jnp.zeros((), values.dtype))


def mean(loss: Loss, outputs: Any, batch: Batch) -> Any:
    """Computes the weighted mean loss, ``sum_n weight_n loss_n / sum_n weight_n``.

    An example of weight 0 does not count, even where its loss is NaN.  A batch in which nothing counts has mean 0.

    Raises:
      ValueError: outputs that are not one array [b, c], or a loss that is not of each example.

    >>> batch = {"label": jnp.array([0, 1]), "weight": jnp.array([1.0, 0.0])}
    >>> mean(cross_entropy, jnp.zeros((2, 2)), batch)
    Array(0.6931472, dtype=float32)
    """
    check.outputs(outputs, jnp.shape(batch["label"])[0])
    weight = weights(batch, outputs)
    values = loss(*without_padding(outputs, batch))
    check_shape(values, weight.shape[0])
    total = jnp.sum(weight)
    return jnp.sum(jnp.where(weight > 0, weight * values, 0.0)) / jnp.where(total > 0, total, 1.0)


def without_padding(outputs: Any, batch: Batch) -> tuple[Any, Batch]:
    """Returns outputs [b, c] and a batch whose examples of weight 0 have zeros as outputs and as label.

    Padding is cut off before the loss, not after: where() on the loss alone would let NaN back in as a gradient.
    """
    counts, label = weights(batch) > 0, jnp.asarray(batch["label"])
    # In its own type: what is no class number must not become one here.
    kept = jnp.where(counts[:, None] if label.ndim > 1 else counts, label, jnp.zeros((), label.dtype))
    return jnp.where(counts[:, None], outputs, 0.0), {**batch, "label": kept}


def targets(outputs: Any, batch: Batch) -> Any:
    """Returns the target of every example [b, c]: the one-hot label (NaN if outside [0, c)), or the label as it is.

    Raises:
      ValueError: labels that are neither [b] nor [b, c].
      TypeError: labels [b] that are not integers, or [b, c] that are not numbers (True and False are none).
    """
    label = jnp.asarray(batch["label"])
    if label.ndim == 1:
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise TypeError(
                f"batch: expected labels [b] that are integers, the numbers of classes, but got {label.dtype}. "
                "Targets, of a regression too, are [b, c]: label[:, None] for one output."
            )
        known = (label >= 0) & (label < outputs.shape[-1])
        # A label outside the classes would be a row of zeros: no error, and a wrong number.  NaN shows, under jit too.
        return jnp.where(known[:, None], jax.nn.one_hot(label, outputs.shape[-1], dtype=outputs.dtype), jnp.nan)
    if label.shape != outputs.shape:
        raise ValueError(
            f"batch: expected labels of shape {outputs.shape[:1]} (classes) or {outputs.shape} (targets), as the "
            f"outputs are, but got {label.shape}."
        )
    if not jnp.issubdtype(label.dtype, jnp.number):
        raise TypeError(f"batch: expected targets [b, c] that are numbers, but got {label.dtype}.")
    return label


def check_shape(values: Any, examples: int) -> None:
    """Checks that a loss returned one number for each example.

    Raises:
      ValueError: it returned anything else.
    """
    if values.shape != (examples,):
        raise ValueError(
            f"loss: expected one number for each example, shape {(examples,)}, but got {values.shape}. A loss must "
            "not average over the batch itself; jaxprune weighs the examples."
        )
