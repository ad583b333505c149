"""Attacks: the worst image within ``epsilon`` of each image, in the largest change of a value (L-infinity).

An attack is *white-box* when it is made on the network that it meets, and *transferred* when it is made on another one,
such as the dense network before pruning.

A difference under FGSM between networks that were not trained against attacks is weak evidence: where a network is very
sure of itself, or not smooth, its gradient says little about the images around (gradient masking), the attack fails,
and the network looks robust (Athalye, Carlini and Wagner 2018, arXiv 1802.00420).  Read it beside PGD, which takes many
steps, and transferred attacks, which do not use the gradient of the network that they meet: a network that gains under
FGSM alone has not become robust.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, draws, losses, processes, tree
from jaxprune.curvature.inputs import placed
from jaxprune.curvature.products import demand_slope
from jaxprune.network import Network
from jaxprune.types import Batch, Loss

Attack = Callable[[Network, Loss, Batch], Any]
"""``(network, loss, batch) -> images``; make one with ``functools.partial(fgsm, epsilon=8 / 255)``."""


def fgsm(
    network: Network, loss: Loss, batch: Batch, *, epsilon: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> jax.Array:
    """Attacks images by one step along the sign of the gradient: ``clip(x + epsilon sign(dL/dx))``.

    One program is compiled for every ``(network.apply, loss)`` and shape, whatever the epsilon; ``pgd`` shares it.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss, which the attack raises.
      batch: images and labels.  An example of weight 0 keeps its image; else the weight only matters to a network that
        mixes its examples.
      epsilon: the largest change of a value, in units of the images: 8 / 255 for eight grey levels.  0 changes nothing.
      bounds: the lowest and the highest value of an image.

    Returns:
      Images of the same shape and type, within epsilon of the old ones and within the bounds; in half precision too,
      whose numbers may lie further apart than epsilon: there images stay where they are.

    Raises:
      ValueError: a negative or infinite epsilon, bounds out of order, images outside them, an empty batch; a gradient
        that is not finite, as that of a label that the network has no output for; a teacher that equals the network,
        where the gradient is rounding.
      TypeError: images that are not floating-point.

    Source: Goodfellow, Shlens and Szegedy (2015), arXiv 1412.6572.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[1.0, -1.0], [0.0, 2.0]]))
    >>> batch = {"image": jnp.array([[0.5, 0.25]]), "label": jnp.array([0])}
    >>> fgsm(net, losses.cross_entropy, batch, epsilon=0.125)
    Array([[0.375, 0.375]], dtype=float32)
    """
    network, loss, limits = _checked(network, loss, batch, epsilon, epsilon, bounds)
    images, seen = _step(network, batch, tree.wide(jnp.asarray(batch["image"])), limits, loss=loss)
    return _finished(batch, images, limits, [seen])


def pgd(
    network: Network,
    loss: Loss,
    batch: Batch,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    key: jax.Array | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> jax.Array:
    """Attacks images by many steps along the sign of the gradient, each followed by projection onto the ball.

    ``x <- clip(x + step_size sign(dL/dx))`` into the ball of radius epsilon about the clean image, and the bounds.
    Loops on the host over one compiled step, so it is not itself jitted.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss, which the attack raises.
      batch: images and labels, as in ``fgsm``.
      epsilon: the radius of the ball, in units of the images.
      step_size: of each step; ``2.5 epsilon / steps`` can reach every side of the ball and come back.
      steps: how many, 1 or more.
      key: of a start drawn uniformly from the ball; the n-th image of every batch of this shape gets the same draw.
        None: starts at the clean images.
      bounds: the lowest and the highest value of an image.

    Returns:
      Images of the same shape and type, within epsilon of the old ones and within the bounds: the last iterate.
      (Between the steps images of half precision are kept in float32, so that small steps add up.)

    Raises:
      ValueError: a step size that is not positive, no step; else as ``fgsm``.

    Source: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), arXiv 1706.06083.

    >>> net = Network(lambda p, s, x: x @ p, jnp.array([[1.0, -1.0], [0.0, 2.0]]))
    >>> batch = {"image": jnp.array([[0.5, 0.25]]), "label": jnp.array([0])}
    >>> pgd(net, losses.cross_entropy, batch, epsilon=0.125, step_size=0.0625, steps=3)
    Array([[0.375, 0.375]], dtype=float32)
    """
    check.positive("step_size", step_size)
    check.whole("steps", steps)
    network, loss, limits = _checked(network, loss, batch, epsilon, step_size, bounds, clean=key is None)
    images, seen = tree.wide(jnp.asarray(batch["image"])), []
    if key is not None:
        images = _start(batch, images, limits, key)
    for _ in range(steps):
        images, found = _step(network, batch, images, limits, loss=loss)
        seen.append(found)
    return _finished(batch, images, limits, seen)


def attacked(network: Network, loss: Loss, batches: Iterable[Batch], attack: Attack) -> Iterator[dict[str, Any]]:
    """Yields batches whose images an attack on ``network`` has replaced.

    Evaluated on the same network they are a white-box attack; evaluated on another one, a transferred attack.  They are
    made while they are read: to read them more than once, keep ``list(attacked(...))``.

    Args:
      network: what the attack is made on.
      loss: what it raises.
      batches: images, labels, optional weights.
      attack: such as ``partial(fgsm, epsilon=8 / 255)``.

    >>> net = Network(lambda p, s, x: x * p, jnp.ones(2))
    >>> batch = {"image": jnp.array([[0.625, 0.5]]), "label": jnp.array([0])}
    >>> (worse,) = attacked(net, losses.cross_entropy, [batch], partial(fgsm, epsilon=0.125))
    >>> net(batch["image"]).argmax(axis=1).tolist(), net(worse["image"]).argmax(axis=1).tolist()
    ([0], [1])
    """
    for batch in check.each(batches):
        yield {**batch, "image": attack(network, loss, batch)}


def _checked(
    network: Network,
    loss: Loss,
    batch: Batch,
    epsilon: float,
    step_size: float,
    bounds: tuple[float, float],
    clean: bool = True,
) -> tuple[Network, Loss, tuple[float, float, float, float]]:
    """Checks what an attack is given, and returns the network and its loss, and (epsilon, step size, low, high).

    ``clean``: whether it starts at the clean images, where the teacher must not equal the network.
    """
    check.batch(batch, keys=losses.entries(loss))
    check.network(network)
    check.finite_batch(batch)
    found = _limits(batch, epsilon, step_size, bounds)
    losses.demand_slope(loss, batch, "an attack")
    network, loss = placed(network, loss)
    if clean:
        demand_slope(network, loss, batch, "an attack from the clean images (a key starts pgd elsewhere)")
    return network, loss, found


def _limits(
    batch: Batch, epsilon: float, step_size: float, bounds: tuple[float, float]
) -> tuple[float, float, float, float]:
    if not 0 <= epsilon < float("inf"):
        raise ValueError(
            f"epsilon: expected a finite number of 0 or more, in units of the images, but got {epsilon!r}. For eight "
            "grey levels pass 8 / 255."
        )
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds: expected (low, high) with low below high, but got {bounds!r}. Images have (0, 1).")
    if not jnp.issubdtype(jnp.result_type(batch["image"]), jnp.floating):
        raise TypeError(
            f"batch: expected floating-point images, which have a gradient, but got {jnp.result_type(batch['image'])}. "
            "Divide grey levels by 255."
        )
    # As the type of the images has them: what is clipped to a bound lies within it.
    low, high = (float(np.asarray(end, jnp.result_type(batch["image"]))) for end in bounds)
    remedy = "Pass the bounds of the images as bounds=(low, high), and epsilon in the same units."
    least, most = jax.device_get(_range(batch))
    check.within("batch: images", least, most, (low, high), remedy)
    # Floats, for an int would be a program of its own.
    return float(epsilon), float(step_size), float(low), float(high)


@jax.jit
def _range(batch: Batch) -> tuple[Any, Any]:
    """The least and the largest value among the examples that count; where none does, no bound is crossed."""
    images = jnp.asarray(batch["image"])
    counts = _counts(batch, images)
    # They are counted: on CPU the largest and the smallest of many numbers come out as if no NaN were among them.
    unknown = jnp.sum(jnp.isnan(images) & counts) > 0
    ends = jnp.min(jnp.where(counts, images, jnp.inf)), jnp.max(jnp.where(counts, images, -jnp.inf))
    return tuple(jnp.where(unknown, jnp.nan, end) for end in ends)  # type: ignore[return-value]


@partial(jax.jit, static_argnames="loss")
@jax.default_matmul_precision("highest")
def _step(network: Network, batch: Batch, images: Any, limits: Any, *, loss: Loss) -> tuple[Any, Any]:
    """One step along the sign of the gradient, and back into the ball.

    Returns:
      The images; and how many of them have a gradient that is not finite, of how many outputs.
    """
    finite, step = losses.images({**batch, "image": images}), limits[1]
    kind = jnp.asarray(batch["image"]).dtype

    def total(images: Any) -> tuple[Any, Any]:
        outputs = network(images.astype(kind))
        # The sum, not the mean: a gradient that is tiny already would underflow when divided by the batch.
        return losses.mean(loss, outputs, batch) * jnp.sum(losses.weights(batch)), jnp.asarray(outputs.shape[-1])

    gradient, classes = jax.grad(total, has_aux=True)(finite)
    wrong = ~jnp.isfinite(gradient) & _counts(batch, gradient)
    broken = jnp.sum(jnp.any(wrong, axis=tuple(range(1, wrong.ndim))))
    return _projected(batch, images + step * jnp.sign(gradient), limits), (broken, classes)


def _finished(batch: Batch, images: jax.Array, limits: Any, seen: list[tuple[Any, Any]]) -> jax.Array:
    """Checks that every step had a gradient, and brings the images to the type that they came in."""
    found = jax.device_get(seen)
    broken, classes = max(int(count) for count, _ in found), int(found[0][1])
    if broken:
        label = processes.read(batch.get("label", ()))
        if label.ndim == 1 and np.issubdtype(label.dtype, np.integer):
            check.label_range("batch: labels", label[processes.read(losses.weights(batch)) > 0], classes)
        raise ValueError(
            f"loss: expected a finite gradient in every image, but that of {broken} of {losses.examples(batch)} is "
            "NaN or infinite. Inspect the network's weights and outputs; where they are of half precision, attack in "
            "float32."
        )
    kind = jnp.result_type(batch["image"])
    # Two programs: in one, the compiler may leave out that a number is rounded and widened again.
    return images if images.dtype == kind else _back_inside(batch, images.astype(kind), limits)


@jax.jit
def _back_inside(batch: Batch, images: Any, limits: Any) -> Any:
    """Moves what was rounded out of the ball or the bounds to the next number on the way to the clean image."""
    epsilon, _, low, high = limits
    clean = jnp.asarray(batch["image"])
    wide, origin = (side.astype(jnp.float32) for side in (images, clean))
    outside = (jnp.abs(wide - origin) > epsilon) | (wide < low) | (wide > high)
    return jnp.where(outside & _counts(batch, clean), jnp.nextafter(images, clean), images)


@jax.jit
def _start(batch: Batch, images: Any, limits: Any, key: jax.Array) -> Any:
    """A point drawn uniformly from the ball."""
    epsilon = limits[0]
    noise = draws.shaped(jax.random.uniform, key, images.shape, images.dtype, -1.0, 1.0)
    return _projected(batch, images + epsilon * noise, limits)


def _projected(batch: Batch, images: Any, limits: Any) -> Any:
    """Into the ball about the clean images and into the bounds; padding keeps its image."""
    epsilon, _, low, high = limits
    clean = tree.wide(jnp.asarray(batch["image"]))
    inside = jnp.clip(images, jnp.maximum(clean - epsilon, low), jnp.minimum(clean + epsilon, high))
    return jnp.where(_counts(batch, clean), inside, clean).astype(clean.dtype)


def _counts(batch: Batch, images: Any) -> Any:
    return (losses.weights(batch) > 0).reshape(-1, *[1] * (images.ndim - 1))
