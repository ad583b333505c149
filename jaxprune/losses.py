"""Losses of each example, and their weighted mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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


_TEMPERATURES = (1e-6, 1e6)


@dataclass(frozen=True)
class Distillation:
    """The distance of a network to a teacher, see ``distillation``; equal by value.

    Attributes:
      kind: "squared" or "kl".
      temperature: T.
      at: the tagged value at which the distance is taken; None: at the outputs.
    """

    kind: Literal["squared", "kl"] = "squared"
    temperature: float = 1.0
    at: str | None = None

    def __post_init__(self) -> None:
        check.choice("kind", self.kind, ("squared", "kl"))
        low, high = _TEMPERATURES
        if not check.is_number(self.temperature) or not low <= self.temperature <= high:
            raise ValueError(
                f"temperature: expected a finite number above 0, but got {self.temperature!r}. From {low:g} to "
                f"{high:g} "
                "something is left to compute with; 1 leaves the outputs as they are."
            )
        object.__setattr__(self, "temperature", float(self.temperature))
        if self.at is not None and not isinstance(self.at, str):
            raise TypeError(
                f"at: expected the name of a tagged value, or None, but got {self.at!r}. jp.sites.tags lists the names."
            )

    def __call__(self, outputs: Any, batch: Batch) -> Any:
        """Computes the loss of each example [b], see ``distillation``."""
        if self.at is not None:
            raise ValueError(
                f"loss: the distance is taken at {self.at!r} inside the network, but a loss is given outputs alone. "
                "Pass it to a function that is given the network too, as those of jp.curvature and jp.scores are."
            )
        target = teacher(outputs, batch)
        if self.kind == "squared":
            return jnp.sum((outputs - target) ** 2, axis=-1)
        if outputs.shape[-1] == 1:
            raise ValueError(
                'loss: expected two outputs or more, for "kl", but got one: a softmax of one is 1, and any two agree. '
                'Take kind="squared".'
            )
        log_p = jax.nn.log_softmax(target / self.temperature)
        distance = log_p - jax.nn.log_softmax(outputs / self.temperature)
        return self.temperature**2 * jnp.sum(jnp.exp(log_p) * distance, axis=-1)


def distillation(
    kind: Literal["squared", "kl"] = "squared", temperature: float = 1.0, at: str | None = None
) -> Distillation:
    """Makes the distance of a network's outputs f to those of a teacher t, for each example.

    "squared": ``||f - t||^2``.  "kl": ``T^2 KL(softmax(t / T) || softmax(f / T))``, in nats.

    A batch with ``"teacher"`` (see ``jp.data.with_teacher``) says what t is; labels beside it are not read. Without, t
    is the network's own output, held constant: the loss asks what a change of the weights changes in what the network
    does, needs no labels, and is 0 with gradient 0 where the network stands. So its Hessian is the Gauss-Newton
    matrix, for every network: in ``H - G = sum_c dl/df_c grad^2 f_c`` the first factor is zero.

    Args:
      kind: "squared" or "kl".
      temperature: T, above 0.  It changes "kl" alone.
      at: the name of a value that the network tags (``jp.sites.tags`` lists them), flattened to [b, d]: f and t are
        that value.  Logits of a head with c < d classes are blind to d - c directions of the features, which other
        tasks read.  The distance there does not depend on what comes after: leaves of a head have derivative and score
        0 and would be pruned first, so leave them out of what is prunable.  None: the outputs.

    Returns:
      A ``Loss`` that is equal by value, so that two equal ones share compiled programs.

    Raises:
      ValueError: an unknown kind, a temperature that is not a finite number above 0, or too far from 1 to compute with.
      TypeError: a name that is no string.

    Source: Hinton, Vinyals and Dean (2015), arXiv 1503.02531, for "kl" with T^2.

    >>> batch = {"image": jnp.zeros((1, 2)), "teacher": jnp.array([[1.0, 0.0]])}
    >>> distillation()(jnp.array([[3.0, 0.0]]), batch)
    Array([4.], dtype=float32)
    >>> distillation("kl", temperature=2) == distillation("kl", temperature=2.0)
    True
    """
    return Distillation(kind, temperature, at)


def teacher(outputs: Any, batch: Batch) -> Any:
    """Returns what outputs are compared with [b, c]: the teacher, or themselves; never differentiated.

    Raises:
      ValueError: a teacher of another shape.
      TypeError: a teacher that is not of floating-point numbers.
    """
    target = jnp.asarray(batch["teacher"]) if "teacher" in batch else outputs
    if target.shape != outputs.shape:
        raise ValueError(
            f"batch: expected a teacher of shape {outputs.shape}, as the outputs are, but got {target.shape}. "
            "jp.data.with_teacher makes one."
        )
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise TypeError(f"batch: expected a teacher of floating-point numbers, but got {target.dtype}.")
    return jax.lax.stop_gradient(target)


def has_zero_residual(loss: Loss, batch: Batch) -> bool:
    """Whether the gradient of a loss by the outputs is zero by its definition, wherever the network stands.

    A matter of types, not of numbers: of "kl" it is 1e-16 in floating point.

    >>> has_zero_residual(distillation("kl"), {"image": jnp.zeros((1, 2))})
    True
    """
    return isinstance(loss, Distillation) and "teacher" not in batch


def demand_slope(loss: Loss, batch: Batch, what: str) -> None:
    """Refuses a loss that is zero with its gradient wherever the network stands.

    Raises:
      ValueError: it is, and ``what`` needs more.
    """
    if has_zero_residual(loss, batch):
        raise ValueError(
            f"loss: expected one that has a gradient, for {what}, but its target is the network's own output: it is "
            "zero, and so is its gradient. Take a second-order quantity of it, batches with a 'teacher' that is "
            "another network (jp.data.with_teacher), or a loss of the labels."
        )


def entries(loss: Loss) -> tuple[str, ...]:
    """Names the entries of a batch that a loss is known to read; of a loss of the user's own, images alone.

    >>> entries(cross_entropy), entries(distillation())
    (('image', 'label'), ('image',))
    """
    return ("image", "label") if loss in (cross_entropy, squared_error) else ("image",)


def demand_read(loss: Loss, batch: Batch) -> None:
    """Refuses a teacher that a loss of the labels would not read.

    Raises:
      ValueError: there is one.
    """
    if "teacher" in batch and loss in (cross_entropy, squared_error):
        raise ValueError(
            "batch: it has a 'teacher', which a loss of the labels does not read. Leave that out, or use "
            "jp.losses.distillation, or a loss of your own that reads both."
        )


def values(loss: Loss, outputs: Any, batch: Batch) -> Any:
    """Computes the loss of each example [b] without letting anything of the padding in: the one place that calls it.

    Padding is cut off before the loss, not after: where() on the loss alone would let NaN back in as a gradient.

    Raises:
      ValueError: what the loss reads is not in the batch; a teacher that it does not read; not one number for each
        example.
    """
    demand_read(loss, batch)
    try:
        found = loss(*without_padding(outputs, batch))
    except KeyError as error:
        (key,) = error.args if len(error.args) == 1 else (None,)
        if key in batch or not isinstance(key, str):
            raise
        raise ValueError(
            f"batch: expected the keys 'image', {key!r}, which the loss reads, but got {sorted(batch)}. "
            "jp.losses.distillation needs no labels."
        ) from error
    check_shape(found, outputs.shape[0])
    return found


def examples(batch: Mapping[str, Any]) -> int:
    """Counts the examples of a batch, padding included.

    >>> examples({"image": jnp.zeros((3, 8, 8, 1))})
    3
    """
    return int(jnp.shape(next(iter(batch.values())))[0])


def weights(batch: Batch, like: Any = None) -> Any:
    """Returns the weight of every example [b]: ``batch["weight"]``, or ones.

    ``like``: an array whose type, or float32 where that is narrower, the weights shall have.  A share of the mean is
    then as exact as what it weighs, and never makes it wider.
    """
    found = jnp.asarray(batch["weight"]) if "weight" in batch else jnp.ones(examples(batch))
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
    check.outputs(outputs, examples(batch))
    weight, found = weights(batch, outputs), values(loss, outputs, batch)
    total = jnp.sum(weight)
    return jnp.sum(jnp.where(weight > 0, weight * found, 0.0)) / jnp.where(total > 0, total, 1.0)


def without_padding(outputs: Any, batch: Batch) -> tuple[Any, Batch]:
    """Returns outputs [b, c] and a batch in which all of an example of weight 0 is zero, but its weight."""
    counts = weights(batch) > 0

    def cut(entry: Any) -> Any:
        entry = jnp.asarray(entry)
        # In its own type: what is no class number must not become one here.
        return jnp.where(counts.reshape(-1, *[1] * (entry.ndim - 1)), entry, jnp.zeros((), entry.dtype))

    return cut(outputs), {name: entry if name == "weight" else cut(entry) for name, entry in batch.items()}


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
